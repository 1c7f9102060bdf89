"""What runs inside the sandbox before a program does: a script that shuts itself in, and then runs the program.

Where the kernel lets it (Linux), the program gets namespaces of its own: no network, no processes but its own, and a
root folder in memory that shows, read-only, the system's libraries and this interpreter, and nothing else. It is then
nobody, without capabilities, and everything it started dies with it. Elsewhere an audit hook refuses sockets, new
processes, signals and writing outside the folder.
"""

import ctypes
import json
import os
import resource
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

NOBODY = 65534
NEW_MOUNTS, NEW_UTS, NEW_IPC, NEW_USER, NEW_PID, NEW_NET = 1 << 17, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30
READ_ONLY, NO_SET_UID, NO_DEVICES, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 0x1000, 0x4000, 0x40000  # of mount(2)
DETACH = 2  # of umount2(2)
DIE_WITH_PARENT, DUMPABLE, ADOPT_ORPHANS, NO_NEW_PRIVILEGES = 1, 4, 36, 38  # of prctl(2)
MOUNT_SETATTR, ALL_BELOW = 442, 0x8000  # its number, and its AT_RECURSIVE
CAPABILITIES = 0x20080522  # the version of capset(2)'s arguments
SHOWN = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/etc/ld.so.cache")
"""What a program sees of the system, beside the interpreter."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
FOLDER = "/sandbox"
"""Where the program runs, and all it can write to."""
RESERVE = 64 * 2**20
"""Bytes that are left to say that memory ran out."""
REFUSED = ("socket.", "subprocess.", "os.fork", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.", "os.kill")
"""Audit events, by how they begin, that the hook refuses."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")

Say = Callable[[str], object]


def main() -> None:
    """Do what the one argument says, a JSON object of `report`, `program`, `folder`, `name`, `limits`, `isolated`."""
    order = json.loads(sys.argv[1])
    say = partial(_say, order["report"])
    if not order["isolated"]:
        if sys.platform == "linux":
            _libc().prctl(ADOPT_ORPHANS, 1, 0, 0, 0)
        say(f"exit {_supervised(order, say)}")
        signal.pause()  # until the outside has ended whatever is left
    source = Path(order["program"]).read_bytes()
    _unshare(root := os.geteuid() == 0)
    if child := os.fork():
        os.waitpid(child, 0)
        say("exit -9")  # only heard where the child could not say it
        signal.pause()
    _move_in(order, source)
    _become_nobody(root)
    _check(_libc().prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0), "prctl")
    say(f"exit {_supervised(order | {'program': '/program.py', 'folder': FOLDER, 'above': 1 if root else 2}, say)}")
    os._exit(0)  # the first process of its namespace: with it all others end


def _say(report: int, line: str) -> None:
    os.write(report, f"{line}\n".encode())


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _check(returned: int, what: str) -> None:
    if returned < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _unshare(root: bool) -> None:
    """Leave the namespaces of the machine; who is not root needs one of users for that, where it is root."""
    user, group = os.geteuid(), os.getegid()
    kinds = NEW_MOUNTS | NEW_UTS | NEW_IPC | NEW_PID | NEW_NET
    _check(_libc().unshare(kinds if root else kinds | NEW_USER), "unshare")
    if not root:
        _map(user, group)


def _map(user: int, group: int) -> None:
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _mount(kind: str, target: Path, flags: int = 0, source: str = "none", options: str = "") -> None:
    returned = _libc().mount(source.encode(), os.fsencode(target), kind.encode(), flags, options.encode() or None)
    _check(returned, f"mount {kind or source} on {target}")


def _move_in(order: Mapping[str, Any], source: bytes) -> None:
    """Make a small root in memory, and make it the only one there is."""
    root = Path(order["folder"])
    _mount("", Path("/"), RECURSIVE | PRIVATE)
    _mount("tmpfs", root, NO_SET_UID, options=f"mode=755,size={len(source) + 2**20}")
    prefixes = (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)
    for path in sorted(map(Path, {*SHOWN, *DEVICES, *prefixes})):
        _show(path, root)
    (root / "program.py").write_bytes(source)
    for name in ("proc", FOLDER):
        (root / name.strip("/")).mkdir()
    if not (root / "tmp").exists():
        (root / "tmp").symlink_to(FOLDER)
    _mount("proc", root / "proc", NO_SET_UID | NO_DEVICES)  # while the old one can be seen, as the kernel asks
    os.chdir(root)
    _check(_libc().pivot_root(b".", b"."), "pivot_root")
    _check(_libc().umount2(b".", DETACH), "umount")
    os.chdir("/")
    _fix(Path("/"), 0)
    _mount("tmpfs", Path(FOLDER), NO_SET_UID | NO_DEVICES, options=f"mode=1777,size={order['limits']['disk']}")


def _show(path: Path, root: Path) -> None:
    """Let a path be seen below the new root, where it is not yet: a link as a link, a folder or file as itself."""
    target = root / path.relative_to("/")
    if not path.exists() or target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        target.symlink_to(path.readlink())
        return
    target.mkdir() if path.is_dir() else target.touch()
    _mount("", target, BIND | RECURSIVE, str(path))
    _fix(target, ALL_BELOW)


def _fix(target: Path, below: int) -> None:
    """Make a mount read-only."""
    attributes = (ctypes.c_uint64 * 4)(READ_ONLY | NO_SET_UID)
    _check(_libc().syscall(MOUNT_SETATTR, -100, os.fsencode(target), below, attributes, 32), "mount_setattr")


def _become_nobody(root: bool) -> None:
    """Give up whatever this process may do beyond what any process may; nothing can be gained again."""
    if root:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        _check(_libc().prctl(DUMPABLE, 1, 0, 0, 0), "prctl")  # or its own entries in /proc would be root's
        _check(_libc().unshare(NEW_USER), "unshare")  # where processes are counted from zero
        _map(NOBODY, NOBODY)
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    _check(_libc().prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0), "prctl")
    header, none = (ctypes.c_uint32 * 2)(CAPABILITIES, 0), (ctypes.c_uint32 * 6)()
    _check(_libc().capset(header, none), "capset")


def _supervised(order: Mapping[str, Any], say: Say) -> int:
    """Run the program in a child; its exit status, or the negative number of the signal that ended it."""
    child = os.fork()
    if not child:
        _run(order, say)
        sys.exit()
    if order["isolated"]:
        _libc().prctl(DUMPABLE, 0, 0, 0, 0)  # not to be traced by the child
    while True:
        done, status = os.wait()
        if done == child:
            return os.waitstatus_to_exitcode(status)


def _run(order: Mapping[str, Any], say: Say) -> None:
    """Become the program; its exceptions leave through the hook, its exits as they are."""
    os.set_inheritable(order["report"], False)
    os.chdir(order["folder"])
    os.environ.update(dict.fromkeys(("HOME", "TMPDIR", "PWD"), order["folder"]))
    sys.argv, sys.excepthook = [order["program"]], partial(_explain, order["program"], say)
    _limit(order["limits"], order.get("above"))
    say("ready")
    if not order["isolated"]:
        sys.addaudithook(partial(_guard, os.path.realpath(order["folder"]) + os.sep))
    runpy.run_path(order["program"], run_name=order["name"])
    say("ended")


def _limit(limits: Mapping[str, int], above: int | None) -> None:
    """Set the process's limits.

    Args:
        limits: what the program may use.
        above: processes of the enclosure that the kernel counts as the program's; None where it counts the user's.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits["disk"], limits["disk"]))
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu"], limits["cpu"] + 1))
    if above is not None:
        resource.setrlimit(resource.RLIMIT_NPROC, (limits["processes"] + above,) * 2)
    resource.setrlimit(resource.RLIMIT_AS, (limits["memory"], limits["memory"] + RESERVE))


def _explain(
    program: str, say: Say, kind: type[BaseException], value: BaseException, trace: TracebackType | None
) -> None:
    """Say what kind of exception ended the program, and print it as Python does, without this script's frames."""
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    kinds = {"failed": AssertionError, "memory": MemoryError, "error": BaseException}
    say(f"raised {next(name for name, known in kinds.items() if issubclass(kind, known))}")
    while trace and trace.tb_frame.f_code.co_filename != program:
        trace = trace.tb_next
    traceback.print_exception(kind, value, trace)


def _guard(folder: str, event: str, details: tuple[Any, ...]) -> None:
    """Refuse what an audit event is about. A program set on it gets past this; one that blunders does not."""
    if event.startswith(REFUSED):
        raise PermissionError(f"{event} is refused in the sandbox")
    touched = details[:2] if event.startswith(CHANGES) else details[: event == "open" and bool(details[2] & WRITES)]
    for path in touched:
        named = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else folder
        if not (os.path.realpath(named) + os.sep).startswith(folder):
            raise PermissionError(f"{event} of {named} is refused in the sandbox: it is outside the folder")


if __name__ == "__main__":
    main()
