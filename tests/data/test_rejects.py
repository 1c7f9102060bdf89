import json
from pathlib import Path

import pytest

from everlearn.data.rejects import Reject, check_rejects, read_rejects, write_rejects
from everlearn.errors import DataError

BAD = [Reject(f"a.jsonl:{line}", "the field 'response' is empty", "{é") for line in range(1, 6)]


def test_bad_rows_up_to_the_limit_pass_and_more_stop_with_the_first_few_named() -> None:
    check_rejects(BAD, 100, 0.05)
    check_rejects([], 0, 0)
    with pytest.raises(
        DataError, match=r"5 of 99 rows are bad.*a\.jsonl:1: the field .*a\.jsonl:3.*and 2 more.*bad_rows"
    ):
        check_rejects(BAD, 99, 0.05)
    with pytest.raises(DataError, match="1 of 100"):
        check_rejects(BAD[:1], 100, 0)


def test_bad_rows_are_set_aside_as_jsonl(tmp_path: Path) -> None:
    file = tmp_path / "aside" / "rejects.jsonl"
    write_rejects(file, BAD)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [Reject(**row) for row in rows] == read_rejects(file) == BAD
    write_rejects(file, [])
    assert file.read_bytes() == b""
    assert read_rejects(file) == read_rejects(tmp_path / "nothing") == []
