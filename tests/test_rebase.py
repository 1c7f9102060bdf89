"""The recipe of moved adapters: its rows, and what a gain kept is."""

import json
from pathlib import Path

import pytest

from everlearn.errors import ConfigError
from recipes.rebase import QUESTION, Size, _kept, _page, task


def test_a_tenth_is_some_of_the_same_rows_and_tests_are_the_same_for_all_seeds(tmp_path: Path) -> None:
    folder = tmp_path / "mtl15" / "TC" / "dbpedia"
    folder.mkdir(parents=True)
    for part, count in (("train", 60), ("test", 10)):
        rows = [{"sentence": f"{part} {i} " + "word " * 80, "label": f"kind{i % 3}"} for i in range(count)]
        (folder / f"{part}.json").write_text(json.dumps(rows))
    size = Size(rows=40, tests=5)
    (whole,), (tenth,), (other,) = (task(tmp_path, seed, size, share) for seed, share in ((0, 1.0), (0, 0.1), (1, 1.0)))
    prompts = {e.prompt[0].content for e in whole.train}
    assert (len(whole.train), len(tenth.train)) == (40, 4)
    assert {e.prompt[0].content for e in tenth.train} <= prompts
    assert {e.prompt[0].content for e in other.train} != prompts
    assert [e.key for e in other.test] == [e.key for e in whole.test]
    assert all(p.startswith(QUESTION) and len(p.removeprefix(QUESTION).split()) == 60 for p in prompts)
    with pytest.raises(ConfigError, match="mtl15/ and text/"):
        task(tmp_path / "nowhere", 0, size)


def test_a_gain_kept_is_a_share_of_what_was_gained() -> None:
    found = {
        "old base": 0.1,
        "old base + adapter": 0.9,
        "new base": 0.2,
        "moved, both": 0.8,
        "minutes, moved, both": 2.0,
    }
    # (0.8 - 0.2) / (0.9 - 0.1)
    assert _kept(found, "moved, both") == pytest.approx(0.75)
    assert "| moved, both | 80.0 | 75.0 | 2.00 |" in _page([found], Size())
    assert "| old base | 10.0 | - | - |" in _page([found], Size())
