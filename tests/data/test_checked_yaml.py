from pathlib import Path
from typing import Any

import pytest

from everlearn.data.checked_yaml import read_yaml, violations
from everlearn.errors import ConfigError

SCHEMA = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 1, "description": "What it is called."},
        "kind": {"enum": ["old", "new"]},
        "part": {"type": "number", "minimum": 0, "maximum": 1},
        "count": {"type": "integer"},
        "live": {"type": "boolean"},
        "items": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/item"}},
        "either": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/item"}]},
        "any": {"type": "object"},
        "names": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "$defs": {"item": {"type": "object", "additionalProperties": False, "properties": {"size": {"type": "integer"}}}},
}


def read(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8")
    return read_yaml(path, SCHEMA)


def test_a_value_is_known_by_its_line(tmp_path: Path) -> None:
    document = read(tmp_path, "\ufeff# a comment\nname: x\r\nitems:\n  - size: 1\n\n  - size: 2\nnames: {a: b}\n")
    assert document.data == {"name": "x", "items": [{"size": 1}, {"size": 2}], "names": {"a": "b"}}
    assert document.where("items", 1, "size") == f"{tmp_path / 'a.yaml'}:6: items[1].size"
    assert document.where("items", 1, "missing").endswith("a.yaml:6: items[1].missing")
    assert document.where() == f"{tmp_path / 'a.yaml'}:2"


def test_anchors_and_merges_are_read(tmp_path: Path) -> None:
    document = read(tmp_path, "name: x\nitems:\n  - &one {size: 1}\n  - *one\n  - <<: *one\n")
    assert document.data["items"] == [{"size": 1}] * 3
    assert document.where("items", 0, "size").endswith("a.yaml:3: items[0].size")
    assert document.where("items", 2, "size").endswith("a.yaml:5: items[2].size")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "nam: x",
            r"a\.yaml:1: 'name' is missing: What it is called\.\n.*a\.yaml:1: nam: unknown key; did you mean 'name'",
        ),
        ("name: x\nkind: ne", "2: kind: 'ne' is not known; did you mean 'new'.; use one of old, new"),
        ("name: 3", "1: name: 3 is not a text; put it in quotes"),
        ("name: yes", "1: name: True is not a text; put it in quotes"),
        ("name: ''", "1: name: is empty"),
        ("name: x\npart: 1.5", r"2: part: 1.5 is not a number from 0 to 1"),
        ("name: x\npart: true", "2: part: True is not a number"),
        ("name: x\ncount: 1.5", "2: count: 1.5 is not an integer"),
        ("name: x\nlive: 1", "2: live: 1 is not true or false"),
        ("name: x\nitems: []", "2: items: has 0 items; 1 or more are needed"),
        ("name: x\nitems:\n- size: 1\n- siz: 2", r"4: items\[1\]\.siz: unknown key; did you mean 'size'"),
        ("name: x\neither: {size: x}", "2: either.size: 'x' is not an integer"),
        ("name: x\neither: [1]", r"2: either: \[1\] is not a text. Or: \[1\] is not a mapping with the keys size"),
        ("name: x\nnames: {a: 1}", "2: names.a: 1 is not a text"),
        ("- name", r"1: \['name'\] is not a mapping with the keys name"),
        ("name: x\nkind: old\nname: y", "3: the key 'name' stands twice"),
        ("name: [", "is not YAML"),
        ("name: !!python/object:os.system x", "is not YAML"),
        ("name: x\n---\nname: y", "is not YAML"),
        ("", "is empty; it needs name"),
    ],
)
def test_what_breaks_the_schema_is_told_with_line_and_what_is_allowed(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_a_list_that_holds_itself_is_no_endless_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"names\.a: .* is not a text"):
        read(tmp_path, "name: x\nnames: &a {a: *a}")
    assert read(tmp_path, "name: x\nany: &a {a: *a}").data["name"] == "x"


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml", SCHEMA)
    (tmp_path / "a.yaml").write_bytes(b"name: \xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / "a.yaml", SCHEMA)


def test_what_fits_breaks_nothing() -> None:
    value = {"name": "x", "kind": "old", "part": 1, "count": 0, "live": False, "items": [{}], "either": {"size": 1}}
    assert list(violations(value | {"any": {"x": [1]}, "names": {"a": "b"}}, SCHEMA, SCHEMA)) == []
