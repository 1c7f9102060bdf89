"""What a program may do in the sandbox, how it ends, and what is left of it."""

import socket
import tempfile
from pathlib import Path

import psutil
import pytest

from everlearn.errors import ConfigError, SandboxError
from everlearn.rewards import sandbox
from everlearn.rewards.sandbox import Limits, isolation, run_code

MEGABYTE = 2**20
KERNEL = pytest.mark.parametrize("isolated", ["kernel"], indirect=True)
HOOK = pytest.mark.parametrize("isolated", ["hook"], indirect=True)


@pytest.fixture(params=["kernel", "hook"])
def isolated(request):
    """Both kinds of isolation, but where the test asks for one."""
    return request.param


@pytest.fixture
def run(isolated):
    """`run_code` behind one kind of isolation, where this machine has it."""

    def run(source, stdin="", limits=None, name="__main__"):
        if isolated == "kernel" and isolation() != "kernel":
            pytest.skip("needs a kernel that lets this user make namespaces.")
        return sandbox._run(sandbox._Program(source, stdin, name), limits or Limits(), isolated)

    return run


@pytest.mark.parametrize(
    ("source", "status", "ended"),
    [
        ("print(6 * 7)", "passed", True),
        ("import sys\nsys.exit()\nassert False", "passed", False),
        ("import os\nos._exit(0)\nassert False", "passed", False),
        ("assert 6 * 7 == 41", "failed", False),
        ("1 / 0", "error", False),
        ("def f(:", "error", False),
        ("import sys\nsys.exit(1)", "error", False),
        ("raise SystemExit('no')", "error", False),
        ("while True: pass", "timeout", False),
        ("import time\ntime.sleep(60)", "timeout", False),
        ("x = bytearray(10**10)", "memory", False),
        ("x = []\nwhile True: x.append(bytes(10**6))", "memory", False),
        ("import ctypes\nctypes.string_at(0)", "error", False),
    ],
)
def test_endings_are_told_apart(run, source, status, ended):
    finished = run(source, limits=Limits(seconds=0.5 if status == "timeout" else 30))
    assert (finished.status, finished.ended) == (status, ended)


def test_what_goes_in_and_comes_out(run):
    finished = run("import sys\nprint(input() + '!')\nprint('é', __name__, sys.argv[1:], file=sys.stderr)", "ho\n")
    assert (finished.status, finished.stdout, finished.stderr) == ("passed", "ho!\n", "é __main__ []\n")
    assert run("print(__name__)", name="completion").stdout == "completion\n"


def test_the_traceback_is_the_programs(run):
    lines = run("def f():\n    return {}['x']\nf()").stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith('program.py", line 3, in <module>')
    assert lines[-1] == "KeyError: 'x'"


def test_endless_output_is_cut_and_not_waited_for(run):
    finished = run("while True: print('x' * 1000)", limits=Limits(seconds=0.5, output=5000))
    assert (finished.status, len(finished.stdout)) == ("timeout", 5000)
    assert finished.seconds < 2


def test_the_environment_is_emptied_and_the_folder_is(run, monkeypatch):
    monkeypatch.setenv("SECRET", "42")
    seen = run("import os; print(sorted(os.environ), os.listdir('.'))").stdout
    assert "SECRET" not in seen
    assert seen.endswith(" []\n")


def test_sockets_lead_nowhere(run):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        finished = run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)")
        assert finished.status == "error"
        assert finished.stderr.splitlines()[-1].startswith(("OSError", "PermissionError", "ConnectionRefusedError"))
        server.settimeout(0.01)
        with pytest.raises(TimeoutError):
            server.accept()


def test_only_its_folder_can_be_written_and_files_do_not_outlive_it(run, tmp_path):
    assert run("open('a', 'w').write('x')\nimport os\nos.rename('a', 'b')\nprint(open('b').read())").stdout == "x\n"
    outside = tmp_path / "left"
    tmp_path.chmod(0o777)
    assert run(f"open({str(outside)!r}, 'w')").status == "error"
    assert not outside.exists()
    assert not list(Path(tempfile.gettempdir()).glob("sandbox-*/*/b"))


def test_files_are_bounded(run):
    finished = run(
        "with open('a', 'wb') as f:\n    for _ in range(100): f.write(bytes(10**6))", limits=Limits(disk=2 * MEGABYTE)
    )
    assert finished.status == "error"


def test_processes_end_with_the_program(run):
    finished = run(
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(61.25)'], start_new_session=True)\n"
    )
    assert finished.status in ("passed", "error")  # behind the hook it is refused
    assert not [p for p in psutil.process_iter(["cmdline"]) if "time.sleep(61.25)" in str(p.info["cmdline"])]


def test_a_fork_bomb_is_bounded_and_ends(run, isolated):
    bomb = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
    before = len(psutil.pids())
    finished = run(bomb, limits=Limits(seconds=0.5, processes=4))
    assert finished.status == "timeout"
    assert len(psutil.pids()) < before + 20
    if isolated == "kernel":
        counted = run(
            "import os, time\nn = 0\ntry:\n    while True:\n        if not os.fork(): time.sleep(60)\n        n += 1\n"
            "except OSError: print(n)",
            limits=Limits(processes=4),
        )
        assert counted.stdout == "3\n"  # and the program itself


@KERNEL
def test_the_kernel_shows_the_program_nothing_else(run):
    here = Path(__file__).resolve()
    source = (
        f"import os\nprint(os.path.exists({str(here)!r}), [p for p in os.listdir('/proc') if p.isdigit()],"
        "os.path.exists('/etc/passwd'), os.getuid())"
    )
    assert run(source).stdout.startswith("False ['1', '2'] False ")
    assert run("import os\nos.setuid(0)").status == "error"
    remount = (
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "print(libc.mount(b'none', b'/tmp', b'tmpfs', 0, None), libc.unshare(0x10000000))"
    )
    assert run(remount).stdout == "-1 -1\n"


@HOOK
@pytest.mark.parametrize(
    "source",
    [
        "import socket; socket.socket()",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "import os; os.fork()",
        "import os; os.kill(os.getppid(), 9)",
        "import os; os.mkdir('/tmp/left-by-a-program')",
        "import os; os.remove('/tmp/not-there')",
        "import os; os.open('/tmp/left-by-a-program', os.O_CREAT)",
    ],
)
def test_the_hook_refuses(run, source):
    assert "is refused in the sandbox" in run(source).stderr


def test_a_sandbox_that_does_not_start_is_no_verdict_and_is_told_of(monkeypatch, tmp_path):
    script = tmp_path / "enclosure.py"
    script.write_text("raise OSError('unshare: Operation not permitted')")
    monkeypatch.setattr(sandbox, "ENCLOSURE", script)
    with pytest.raises(SandboxError, match=r"did not start.*unshare: Operation not permitted"):
        sandbox._run(sandbox._Program("", "", "__main__"), Limits(), "kernel")
    with pytest.warns(UserWarning, match=r"audit hook alone.*Operation not permitted.*Run in a container"):
        assert isolation.__wrapped__() == "hook"


def test_the_public_function_takes_what_this_machine_has():
    assert run_code("print(1)").stdout == "1\n"


@HOOK
def test_limits_above_the_machines_own_are_no_fault_of_the_program(run):
    with pytest.raises(SandboxError, match="did not start"):
        run("pass", limits=Limits(memory=2**70))


def test_the_first_word_about_an_end_counts():
    """The outer process of the enclosure speaks for an inner one that it takes to have been killed."""
    assert sandbox._status(sandbox._said("ready\nended\nexit 0\nexit -9\n"), late=False) == "passed"
    assert sandbox._status(sandbox._said("ready\nexit -9\n"), late=False) == "memory"


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="memory is 0; give a positive number"):
        Limits(memory=0)
