"""Files that survive a killed process: a reader finds the old content or the new one, never half of it."""

import hashlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from everlearn.errors import DataError, RegistryError

STALE = 3600.0
"""Age in seconds from which an unfinished file's writer is taken for dead; writing one takes seconds."""


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling to write; at success it is flushed to disk and takes the name, at failure it goes.

    What killed processes left behind under the same name is removed once it is an hour old.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in _temporaries(path):
        _remove_if_stale(stale)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a file whole or not at all; text as UTF-8. Missing parent folders are made."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_folder(path: Path, timeout: float = 900.0) -> Iterator[Path]:
    """Yield an empty temporary sibling folder to fill; at success it takes the name, at failure it goes.

    An existing folder is replaced as a whole: it is set aside, the new one takes its name, then the old one is
    deleted. A process killed between the two renames leaves the old one set aside; `find_folder` finds it there.
    Writers of one folder wait for each other, and the next one removes what a killed one left.

    Raises:
        RegistryError: if another process has been writing the same folder for `timeout` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    busy = f"{path}: another process has been writing this folder for {timeout:.0f} s; wait for it or stop it."
    with lock(path.with_name(f".{path.name}.lock"), timeout, busy):
        aside = _aside(path)
        if aside.is_dir() and not path.is_dir():
            aside.rename(path)
        for leftover in (aside, *_temporaries(path)):
            _remove(leftover)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        temporary.mkdir()
        try:
            yield temporary
            _flush(temporary)
            if path.is_dir():
                path.rename(aside)
            temporary.rename(path)
        finally:
            _remove(temporary)
        _remove(aside)


def find_folder(path: Path) -> Path | None:
    """Where the newest whole content of a folder written by `atomic_folder` lies; None if there is none."""
    # The writer may rename between two looks, so the name itself is looked at again at the end.
    return next((place for place in (path, _aside(path), path) if place.is_dir()), None)


def parse_row(line: bytes, path: Path, number: int) -> Any:
    """One line of a JSONL file as plain data.

    Raises:
        DataError: with file and line, if it is not UTF-8 or not JSON.
    """
    try:
        return json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not UTF-8 ({error.reason}); save the file as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}:{number}: not a JSON value ({error}); correct or remove this line.") from error


def read_jsonl(path: Path, torn: bool = False) -> Iterator[tuple[int, Any]]:
    """Rows of a JSONL file, each with its line number from 1; blank lines are left out.

    Args:
        path: read line by line, so that it may be larger than memory.
        torn: whether a broken last line without a line end is left out, as a killed writer leaves it.

    Raises:
        DataError: with file and line, at the first broken row or if the file cannot be read.
    """
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = parse_row(line, path, number)
            except DataError:
                if torn and not line.endswith(b"\n"):
                    return
                raise
            yield number, row


def append_jsonl(path: Path, row: Any) -> None:
    """Add one row to a JSONL file with a single writer; a torn last line, left by a killed one, is removed first.

    Raises:
        DataError: if the row holds nan or infinity, which JSON cannot say.
    """
    line = _encode(row, path) + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        _mend(file, path)
        file.write(line)


def write_json(path: Path, value: Any) -> None:
    """Write plain data as indented JSON, whole or not at all.

    Raises:
        DataError: if it holds nan or infinity, which JSON cannot say.
    """
    write_atomic(path, _encode(value, path, indent=2) + b"\n")


def read_json(path: Path) -> Any:
    """Plain data from a JSON file.

    Raises:
        DataError: if the file cannot be read, is not UTF-8 or not JSON.
    """
    with _open(path) as file:
        content = file.read()
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file ({error}); correct it or write it again.") from error


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def lock(path: Path, timeout: float, message: str) -> Iterator[None]:
    """Hold a lock file between processes; the system frees it when its holder dies.

    Args:
        path: the lock file itself; made where missing.
        timeout: seconds to wait for it.
        message: what the error says when it is not to be had: who may hold it, and what to do.

    Raises:
        RegistryError: with `message`, if another process holds it for longer than `timeout`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(path)
    try:
        held.acquire(timeout=timeout)
    except Timeout as error:
        raise RegistryError(message) from error
    try:
        yield
    finally:
        held.release()


def cache_folder() -> Path:
    """Where this user's converted models are kept; EVERLEARN_CACHE moves it and changes no result.

    May not exist yet.
    """
    moved = os.environ.get("EVERLEARN_CACHE", "")
    if moved:
        return Path(moved).expanduser()
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "everlearn"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", "") or home / "AppData" / "Local") / "everlearn" / "cache"
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))  # a relative one is invalid, says the XDG specification
    return (xdg if xdg.is_absolute() else home / ".cache") / "everlearn"


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _temporaries(path: Path) -> list[Path]:
    start = f".{path.name}."
    return [
        entry
        for entry in path.parent.iterdir()
        if entry.name.startswith(start) and entry.name.removeprefix(start)[8:] == ".tmp"
    ]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)


def _remove_if_stale(path: Path) -> None:
    try:
        if path.is_file() and time.time() - path.stat().st_mtime > STALE:
            path.unlink()
    except FileNotFoundError:  # another process was quicker
        return


def _flush(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("r+b") as file:
                os.fsync(file.fileno())


def _open(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the name and the permissions.") from error


def _encode(value: Any, path: Path, indent: int | None = None) -> bytes:
    try:
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent).encode()
        except UnicodeEncodeError:  # half a surrogate pair: only an escape can say it
            return json.dumps(value, allow_nan=False, indent=indent).encode()
    except ValueError as error:
        raise DataError(f"{path}: not written, {error}; write null in place of nan and infinity.") from error


def _mend(file: IO[bytes], path: Path) -> None:
    size = file.seek(0, os.SEEK_END)
    start = _start_of_last_line(file, size)
    file.seek(start)
    tail = file.read()
    if not tail:
        return
    try:
        parse_row(tail, path, 1)
    except DataError:
        file.truncate(start)
    else:
        file.write(b"\n")


def _start_of_last_line(file: IO[bytes], size: int) -> int:
    end = size
    while end > 0:
        begin = max(0, end - 65536)
        file.seek(begin)
        found = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0
