import json
import os
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn import files
from everlearn.errors import DataError, RegistryError
from everlearn.files import (
    append_jsonl,
    atomic_file,
    atomic_folder,
    cache_folder,
    find_folder,
    lock,
    read_json,
    read_jsonl,
    sha256_file,
    write_atomic,
    write_json,
)
from tests.killing import killed_at_random, outcome


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_a_file_is_written_with_its_parents_and_replaced(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_atomic(path, "één\n")
    assert path.read_bytes() == "één\n".encode()
    write_atomic(path, b"\x00")
    assert path.read_bytes() == b"\x00"
    assert names(path.parent) == {"b.txt"}


def test_a_file_has_the_permissions_that_the_user_asked_for(tmp_path):
    (tmp_path / "plain").write_text("")
    write_atomic(tmp_path / "atomic", "")
    assert stat.S_IMODE((tmp_path / "atomic").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_atomic(tmp_path / "a", "old")

    def fail():
        with atomic_file(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        fail()
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == {"a"}


def test_what_a_killed_writer_left_is_removed_by_the_next_once_it_is_old(tmp_path):
    old, fresh, other = (tmp_path / n for n in (".a.01234567.tmp", ".a.89abcdef.tmp", ".b.01234567.tmp"))
    for path in (old, fresh, other):
        path.write_text("half")
    for path in (old, other):
        os.utime(path, (time.time() - files.STALE - 60,) * 2)
    write_atomic(tmp_path / "a", "whole")
    assert names(tmp_path) == {"a", fresh.name, other.name}


WRITER = """
import sys
from pathlib import Path
from everlearn.files import write_atomic
print("ready", flush=True)
number = 0
while True:
    number = (number + 1) % 10
    write_atomic(Path(sys.argv[1]), str(number) * 3_000_000)
"""


def test_a_reader_never_sees_half_a_file_whenever_its_writer_is_killed(tmp_path):
    path = tmp_path / "a"
    write_atomic(path, "0" * 3_000_000)
    seen = set()

    def look():
        content = path.read_bytes()
        assert len(content) == 3_000_000
        assert content == content[:1] * 3_000_000
        seen.add(content[:1])

    killed_at_random(WRITER, look, path, seeds=range(6))
    assert len(seen) > 2


def fill(path: Path, content: str) -> None:
    with atomic_folder(path) as folder:
        (folder / "inner").mkdir()
        for name in ("first", "inner/second"):
            (folder / name).write_text(content)


def content_of(path: Path) -> str:
    found = find_folder(path)
    assert found is not None
    first, second = (found / "first").read_text(), (found / "inner" / "second").read_text()
    assert first == second
    return first


def test_a_folder_is_made_with_its_parents_and_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a" / "b"
    assert find_folder(path) is None
    fill(path, "old")
    (path / "stray").write_text("")
    fill(path, "new")
    assert content_of(path) == "new"
    assert find_folder(path) == path
    assert names(path) == {"first", "inner"}
    assert names(path.parent) == {"b"}


def test_a_failed_folder_leaves_the_old_one_and_nothing_else(tmp_path):
    fill(tmp_path / "a", "old")

    def fail():
        with atomic_folder(tmp_path / "a") as folder:
            (folder / "first").write_text("new")
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        fail()
    assert content_of(tmp_path / "a") == "old"
    assert names(tmp_path) == {"a"}


FOLDERS = """
import shutil, sys
from pathlib import Path
from everlearn.files import atomic_folder, find_folder
from tests.killing import killed_at_each_touch

def write(path, content):
    with atomic_folder(path) as folder:
        for name in ("first", "second"):
            (folder / name).write_text(content)

path = Path(sys.argv[1])
write(path, "old")
found = []
for moment in killed_at_each_touch(lambda: write(path, "new")):
    place = find_folder(path)
    first, second = (place / "first").read_text(), (place / "second").read_text()
    assert first == second, moment
    found.append(first if place == path else "aside " + first)
    write(path, "old")
    left = {entry.name for entry in path.parent.iterdir() if not entry.name.endswith(".lock")}
    assert left == {path.name}, (moment, left)
print(" ".join(found))
"""


def test_a_folder_is_old_or_new_at_whichever_touch_of_the_disk_its_writer_is_killed(tmp_path):
    found = outcome(FOLDERS, tmp_path / "a")
    assert found.startswith("old old")
    assert "aside old" in found
    assert found.endswith("new")


TWICE = """
import sys
from pathlib import Path
from everlearn.files import atomic_folder, find_folder
from tests.killing import killed_at_each_touch

def write():
    with atomic_folder(path) as folder:
        (folder / "only").write_text("whole")

path = Path(sys.argv[1])
write()
kills = 0
for first in killed_at_each_touch(write):
    for second in killed_at_each_touch(write):
        kills += 1
        assert (find_folder(path) / "only").read_text() == "whole", (first, second)
print(kills)
"""


def test_a_folder_outlives_two_killed_writers_in_a_row(tmp_path):
    assert int(outcome(TWICE, tmp_path / "a")) > 50


FOLDER_WRITER = """
import sys
from pathlib import Path
from everlearn.files import atomic_folder
print("ready", flush=True)
number = 0
while True:
    number += 1
    with atomic_folder(Path(sys.argv[1])) as folder:
        for name in ("first", "second"):
            (folder / name).write_text(str(number) * 100_000)
"""


def test_a_folder_is_whole_whenever_its_writer_is_killed(tmp_path):
    path = tmp_path / "a"
    with atomic_folder(path) as folder:
        for name in ("first", "second"):
            (folder / name).write_text("0" * 100_000)

    def look():
        assert find_folder(path) is not None

    for seed in range(4):
        killed_at_random(FOLDER_WRITER, look, path, seeds=[seed])
        found = find_folder(path)
        assert (found / "first").read_text() == (found / "second").read_text()
        assert len((found / "first").read_text()) >= 100_000


def test_rows_come_back_with_their_line_numbers(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n[2]\n"three"')
    assert list(read_jsonl(path)) == [(1, {"a": 1}), (4, [2]), (5, "three")]


@pytest.mark.parametrize("broken", [b'{"a": 1', b"\xff\xfe", b"{'a': 1}", b"[" * 100_000])
def test_a_broken_row_is_reported_with_file_and_line(tmp_path, broken):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + broken + b"\n{}\n")
    rows = read_jsonl(path, torn=True)
    assert next(rows) == (1, {"a": 1})
    with pytest.raises(DataError, match=rf"{path}:2: not "):
        next(rows)


def test_a_torn_last_line_is_left_out_only_when_asked(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": ')
    assert list(read_jsonl(path, torn=True)) == [(1, {"a": 1})]
    with pytest.raises(DataError, match=":2: not a JSON value"):
        list(read_jsonl(path))


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        list(read_jsonl(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="cannot be read"):
        read_json(tmp_path / "none.json")


def test_rows_are_appended_one_to_a_line(tmp_path):
    path = tmp_path / "a" / "rows.jsonl"
    rows = [{"a": "één\n"}, [], {"half a pair": "\ud800"}]
    for row in rows:
        append_jsonl(path, row)
    assert [row for _, row in read_jsonl(path)] == rows
    assert path.read_bytes().startswith('{"a": "één'.encode())


@given(st.integers(0, 100_000), st.integers(0, 100_000))
def test_a_row_appended_after_a_torn_one_replaces_it(tmp_path_factory, length, cut):
    path = tmp_path_factory.mktemp("torn") / "rows.jsonl"
    rows = [{"a": "x" * length}, {"b": "y" * length}]
    for row in rows:
        append_jsonl(path, row)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[: first + cut % (len(whole) - first)])
    torn = path.read_bytes()
    append_jsonl(path, {"c": 1})
    kept = rows if torn + b"\n" == whole else rows[:1]  # a row that lacks its line end alone is whole
    assert [row for _, row in read_jsonl(path)] == [*kept, {"c": 1}]


APPENDER = """
import sys
from pathlib import Path
from everlearn.files import append_jsonl
print("ready", flush=True)
while True:
    append_jsonl(Path(sys.argv[1]), {"row": "x" * 200_000})
"""


def test_appended_rows_survive_kills_in_the_middle_of_a_row(tmp_path):
    path, row = tmp_path / "rows.jsonl", {"row": "x" * 200_000}
    before = 0
    for seed in range(4):
        killed_at_random(APPENDER, lambda: time.sleep(0.001), path, seeds=[seed])
        rows = [found for _, found in read_jsonl(path, torn=True)]
        assert all(found == row for found in rows)
        assert len(rows) > before
        before = len(rows)
    append_jsonl(path, row)
    assert len(list(read_jsonl(path))) == before + 1


def test_json_comes_back(tmp_path):
    value = {"a": [1, 2.5, None, True, "één \ud800"], "b": {}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert json.loads((tmp_path / "a.json").read_text()) == value


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_json_cannot_say_is_not_written(tmp_path, number):
    for write in (write_json, append_jsonl):
        with pytest.raises(DataError, match="write null"):
            write(tmp_path / "a", {"loss": number})
    assert names(tmp_path) == set()


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_a_broken_json_file_is_a_data_error(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json: not a JSON file"):
        read_json(tmp_path / "a.json")


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


HOLDER = """
import sys, time
from pathlib import Path
from everlearn.files import lock
with lock(Path(sys.argv[1]), 0, "held"):
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_lock_keeps_others_out_until_its_holder_dies(tmp_path):
    path = tmp_path / "a" / ".lock"
    refused = []

    def look():
        try:
            with lock(path, 0, "it is held; wait for it"):
                refused.append("")
        except RegistryError as error:
            refused.append(str(error))

    killed_at_random(HOLDER, look, path, seeds=[0])
    assert set(refused[:-1]) == {"it is held; wait for it"}
    assert refused[-1] == ""


def test_the_cache_folder_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERLEARN_CACHE", str(tmp_path / "moved"))
    assert cache_folder() == tmp_path / "moved"


@pytest.mark.parametrize(
    ("system", "end"),
    [("linux", ".cache/everlearn"), ("darwin", "Library/Caches/everlearn"), ("win32", "AppData/Local/everlearn/cache")],
)
def test_the_cache_folder_is_where_the_system_keeps_caches(monkeypatch, system, end):
    for variable in ("EVERLEARN_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("sys.platform", system)
    assert cache_folder() == Path.home() / end


def test_the_cache_folder_follows_xdg_where_it_is_absolute(tmp_path, monkeypatch):
    monkeypatch.delenv("EVERLEARN_CACHE", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "everlearn"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache" / "everlearn"
