"""One cell: learned once, known by what was asked, and one bar for all it does."""

from dataclasses import replace
from pathlib import Path

import pytest

from everlearn.errors import ConfigError, Interrupted
from everlearn.grid.cells import Cell, OneBar, attempted
from everlearn.types import Silent
from tests.grid.toy_grid import Heard, toy_grid


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toy") / "model"


def cells(model: Path, out: Path, epochs: int = 2) -> dict[str, Cell]:
    grid = replace(toy_grid(model, epochs, seeds=(3,)), references=("joint", "single", "in_context"), shots=2)
    return {cell.name: cell for cell in grid.cells(out)}


def test_a_cell_is_done_when_it_was_learned_to_the_end(model: Path, tmp_path: Path) -> None:
    cell = cells(model, tmp_path)["plain"]
    assert (cell.title, cell.folder) == ("plain, seed 3", tmp_path / "plain-3")
    assert (cell.has_begun(), cell.is_done()) == (False, False)
    assert attempted(cell, Silent()) == ""
    assert (cell.has_begun(), cell.is_done()) == (True, True)
    assert cell.matrix().learned == 2


def test_a_cell_that_was_stopped_is_not_done(model: Path, tmp_path: Path) -> None:
    cell = cells(model, tmp_path)["plain"]

    class Stop:
        def update(self, stage: str, done: int, total: int, note: str = "") -> None:
            if done == 1:  # one experience is learned
                raise Interrupted("enough")

    with pytest.raises(Interrupted):
        attempted(cell, Stop())
    assert (cell.has_begun(), cell.is_done()) == (True, False)
    cell.learn(Silent())
    assert cell.is_done()


def test_references_keep_their_row(model: Path, tmp_path: Path) -> None:
    for name in ("joint", "single", "in_context"):
        cell = cells(model, tmp_path)[name]
        cell.learn(Silent())
        assert cell.is_done()
        assert [len(cell.row().items(i)) for i in range(2)] == [6, 6]


def test_a_folder_with_another_cell_is_refused(model: Path, tmp_path: Path) -> None:
    cells(model, tmp_path)["joint"].learn(Silent())
    with pytest.raises(ConfigError, match="holds a cell with another learner"):
        cells(model, tmp_path, epochs=1)["joint"].is_done()


def test_demonstrations_belong_to_the_cell_that_shows_them(model: Path, tmp_path: Path) -> None:
    found = cells(model, tmp_path)
    assert found["in_context"].asked["shots"] == found["in_context"].shots == 2
    assert all("shots" not in cell.asked for name, cell in found.items() if name != "in_context")
    found["in_context"].learn(Silent())
    assert found["in_context"].row().note.startswith("2 demonstrations before each item")
    grid = replace(toy_grid(model, seeds=(3,)), references=("in_context",), shots=1)
    with pytest.raises(ConfigError, match="holds a cell with another shots"):
        grid.cells(tmp_path)[-1].is_done()
    first = dict(reversed(grid.methods.items()))
    assert replace(grid, shots=2, methods=first).cells(tmp_path)[-1].is_done()


def test_what_is_wrong_with_a_cell_is_said_in_words(model: Path, tmp_path: Path) -> None:
    cell = cells(model, tmp_path)["plain"]
    absent = replace(cell, learner=replace(cell.learner, model=str(tmp_path / "nothing")))
    assert "nothing" in attempted(absent, Silent())
    assert not absent.is_done()


def test_all_that_a_cell_does_is_one_bar(model: Path, tmp_path: Path) -> None:
    heard = Heard([])
    bar = OneBar(heard, cells(model, tmp_path)["plain"])
    bar.update("learning letters", 500, 1000, "loss 2.1")
    bar.update("experiences", 1, 2)
    bar.update("scoring cats", 0, 0)
    assert heard.told == [
        ("plain, seed 3", 0, 3, "learning letters 50 %"),
        ("plain, seed 3", 1, 3, "experiences 50 %"),
        ("plain, seed 3", 1, 3, "scoring cats 0 %"),
    ]
