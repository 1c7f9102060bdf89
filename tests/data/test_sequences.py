from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.data.sequences import Joined, View, each, select, with_origin
from everlearn.data.texts import read_texts
from everlearn.errors import DataError
from everlearn.examples import Example


def numbered(count: int) -> tuple[Example, ...]:
    return tuple(Example(text=f"text {i}") for i in range(count))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 5), max_size=4),
    st.slices(12),
    st.integers(-25, 25),
)
def test_views_and_joins_are_the_lists_that_they_stand_for(sizes: list[int], part: slice, index: int) -> None:
    parts = tuple(numbered(size) for size in sizes)
    plain = [example for part_ in parts for example in part_]
    joined: Sequence[Example] = Joined(parts)
    for lazy, listed in ((joined, plain), (View(joined, range(len(plain))[::-1]), plain[::-1])):
        assert list(lazy) == listed
        assert list(lazy[part]) == listed[part]
        assert list(lazy[part][::-1]) == listed[part][::-1]
        if -len(listed) <= index < len(listed):
            assert lazy[index] == listed[index]
        else:
            with pytest.raises(IndexError):
                lazy[index]


def test_what_is_on_disk_stays_there_and_what_is_in_memory_too(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\n\ntwo\n\nthree words here\n\n")
    lazy = read_texts([path], 8).examples
    assert isinstance(select(numbered(3), [2, 0]), tuple)
    assert isinstance(select(lazy, [1, 0]), View)
    assert isinstance(with_origin(lazy, "x"), View)
    assert [e.text for e in select(lazy, [1, 0])] == [lazy[1].text, lazy[0].text]
    assert {e.origin for e in with_origin(lazy, "x")} == {"x"} == {e.origin for e in with_origin(numbered(2), "x")}
    assert [e.origin for e in View(lazy, [0])] == [""]
    with pytest.raises(IndexError):
        lazy[len(lazy)]


def test_examples_on_disk_are_the_same_one_by_one_and_in_a_row(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} {i}\n\n" for i in range(20)))
    lazy = read_texts([tmp_path / "a.txt", tmp_path / "b.txt"], 8).examples
    rows = [7, 3, len(lazy) - 1, 0, len(lazy) // 2]
    assert list(lazy) == [lazy[i] for i in range(len(lazy))]
    assert list(each(lazy, rows)) == [lazy[i] for i in rows]
    view = View(lazy, rows, "x")
    assert list(view) == [view[i] for i in range(5)] == [replace(lazy[i], origin="x") for i in rows]
    assert list(each(view, [4, 0])) == [view[4], view[0]]
    assert list(each(numbered(3), [2, 0])) == [numbered(3)[2], numbered(3)[0]]


def test_a_file_that_changes_is_noticed_when_it_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\n\ntwo\n\n")
    lazy = read_texts([path], 8).examples
    path.write_text("another text\n")
    with pytest.raises(DataError, match="has changed since it was indexed"):
        list(lazy)
