"""Catalogues: items are read or refused by line, and compared by hand."""

from pathlib import Path

import pytest

from everlearn.data.catalogue import Item, likeness, read_catalogue
from everlearn.errors import DataError


def test_items_are_alike_by_what_they_share() -> None:
    new = Item("<a>", "ignored words", {"genre": ["sport", "red"], "brand": "x"})
    old = [Item("<b>", "", {"genre": ["sport"], "brand": "x"}), Item("<c>", "genre", {"genre": "blue"})]
    # of genre=sport, genre=red, brand=x: two of three are shared with the first, and none with the second
    assert likeness([new], old).tolist() == [[pytest.approx(2 / 3), 0.0]]
    # by words where there is no metadata: "red" of "a red bike" and "red"
    assert likeness([Item("<d>", "a Red bike")], [Item("<e>", "red")]).tolist() == [[pytest.approx(1 / 3)]]
    assert likeness([Item("<f>")], [Item("<g>")]).tolist() == [[0.0]]


def test_a_catalogue_is_read_and_an_item_is_plain_data(tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text('{"token": "<a>"}\n{"token": "<b>", "metadata": {"year": 1999}, "joins": "june"}\n')
    items = read_catalogue(file)
    assert [i.token for i in items] == ["<a>", "<b>"]
    assert items[1].features == {"year=1999"}
    assert Item(**items[1].row()) == items[1]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('{"token": "<a>"}\n{"token": "<a>"}\n', "line 2: the token <a> has stood before"),
        ('{"description": "x"}\n', "line 1: no item"),
        ('{"token": "<a>", "colour": "red"}\n', "colour"),
        ('{"token": 3}\n', "token"),
        ('["<a>"]\n', "no item"),
        ('{"token": "a b"}\n', "white space"),
    ],
)
def test_what_is_no_item_is_refused(lines: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text(lines)
    with pytest.raises(DataError, match=says):
        read_catalogue(tmp_path / "items.jsonl")
