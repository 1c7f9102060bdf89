"""What a study has shown is kept without weights; restored elsewhere it stands as it stood, not learned again."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from everlearn.errors import ConfigError
from everlearn.grid.compare import Grid, compare, standing_in
from recipes.evidence import keep, restore
from tests.grid.toy_grid import toy_grid


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    return replace(toy_grid(tmp_path_factory.mktemp("model") / "model"), references=("joint",), seeds=(0,))


@pytest.fixture(scope="module")
def study(grid: Grid, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study")
    compare(grid, out / "first")
    return out


def test_what_is_restored_stands_as_it_stood(grid: Grid, study: Path, tmp_path: Path) -> None:
    keep(study, tmp_path / "kept.tar.xz")
    restore(tmp_path / "kept.tar.xz", tmp_path / "there")
    before, after = (standing_in(grid, out / "first") for out in (study, tmp_path / "there"))
    assert after.to_dict() == before.to_dict()
    assert list(after.matrices["plain"]) == [0]
    assert not list((tmp_path / "there").rglob("*.safetensors"))
    assert all(cell.is_done() for cell in grid.cells(tmp_path / "there" / "first"))


def test_a_run_that_was_stopped_stays_where_it_is(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "study")
    stopped = tmp_path / "study" / "first" / "plain-0"
    (stopped / "matrix.json").unlink()
    assert keep(tmp_path / "study", tmp_path / "kept.tar.xz") < keep(study, tmp_path / "whole.tar.xz")
    restore(tmp_path / "kept.tar.xz", tmp_path / "there")
    assert not (tmp_path / "there" / "first" / "plain-0").exists()
    assert (tmp_path / "there" / "first" / "replay-0" / "matrix.json").exists()


def test_the_same_runs_make_the_same_bytes(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "copy")
    for folder, archive in ((study, "a"), (tmp_path / "copy", "b")):
        keep(folder, tmp_path / archive)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_model_is_not_kept(tmp_path: Path) -> None:
    for name in ("curves/plain.json", "base/config.json", "base/tokenizer.json"):
        (tmp_path / "study" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "study" / name).write_text("{}")
    assert keep(tmp_path / "study", tmp_path / "kept.tar.xz") == 1


def test_nothing_is_lost(study: Path, tmp_path: Path) -> None:
    keep(study, tmp_path / "kept.tar.xz")
    with pytest.raises(ConfigError, match="is there already"):
        restore(tmp_path / "kept.tar.xz", study)
    with pytest.raises(ConfigError, match="there is no"):
        restore(tmp_path / "other.tar.xz", tmp_path / "there")
    with pytest.raises(ConfigError, match="nothing that is done"):
        keep(tmp_path / "there", tmp_path / "empty.tar.xz")
