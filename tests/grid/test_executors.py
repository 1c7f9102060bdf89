"""Workers that learn cells, and workers that die."""

import multiprocessing
import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from everlearn.errors import ConfigError
from everlearn.grid.cells import Cell
from everlearn.grid.executors import Processes, logged
from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.types import Silent
from tests.grid.toy_grid import Deadly, Heard, toy_grid


def test_a_cell_whose_worker_was_killed_goes_on_in_another(tmp_path: Path) -> None:
    grid = toy_grid(tmp_path / "model", seeds=(0,))
    mortal = chain(LoRA(rank=4), Deadly(str(tmp_path / "marker")))
    cells = replace(grid, methods={"plain": grid.methods["plain"], "mortal": mortal}).cells(tmp_path / "grid")
    heard = Heard([])
    ended = {e.cell.name: e for e in Processes(2).each(cells, heard)}
    assert (tmp_path / "marker").exists(), "it was never killed"
    assert {name: e.failure for name, e in ended.items()} == {"plain": "", "mortal": ""}
    assert all(cell.is_done() for cell in cells)
    assert any("its worker was killed by SIGKILL; given to another" in note for *_, note in heard.told)
    assert cells[0].log.read_bytes() == b""
    assert cells[1].log.read_text() == "about to die\n"
    # The killed cell went on from its first version, and its method does nothing else: the same outcomes.
    assert cells[1].matrix() == cells[0].matrix()


@pytest.mark.slow
def test_a_cell_that_no_worker_survives_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    grid = toy_grid(tmp_path / "model", seeds=(0,))
    methods = {"deadly": chain(LoRA(rank=4), Deadly()), "plain": grid.methods["plain"]}
    cells = replace(grid, methods=methods).cells(tmp_path / "grid")
    failures = {e.cell.name: e.failure for e in Processes(1).each(cells, Silent())}
    assert failures["plain"] == ""
    assert "its worker died 3 times, and at last was killed by SIGKILL" in failures["deadly"]
    assert failures["deadly"].count("about to die") == 3


def test_a_generator_that_is_closed_leaves_no_worker_behind_and_no_work_undone(tmp_path: Path) -> None:
    cells = toy_grid(tmp_path / "model", epochs=30).cells(tmp_path / "grid")
    each = Processes(1).each(cells[:2], StopIn(cells[1]))
    assert next(each).cell is cells[0]
    with pytest.raises(KeyboardInterrupt):  # Ctrl-C, while the second is learned
        next(each)
    assert multiprocessing.active_children() == []
    assert (cells[0].is_done(), cells[1].is_done()) == (True, False)
    assert (cells[1].folder / "checkpoint" / "work.json").exists()


@dataclass(frozen=True)
class StopIn:
    """Progress that is interrupted once a cell is under way."""

    cell: Cell

    def update(self, stage: str, done: int, total: int, note: str = "") -> None:
        if stage == self.cell.title and "learning" in note:
            raise KeyboardInterrupt


def test_what_is_printed_goes_to_the_log_for_a_while(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for word in ("one", "two"):
        with logged(tmp_path / "logs" / "x.log"):
            os.write(1, f"{word}\n".encode())
            os.write(2, b"error\n")
    os.write(1, b"after\n")
    assert (tmp_path / "logs" / "x.log").read_text() == "one\nerror\ntwo\nerror\n"
    assert capfd.readouterr().out == "after\n"


def test_executors_without_workers_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 or more"):
        Processes(0)
    with pytest.raises(ConfigError, match="1 or more"):
        Processes(2, threads=-1)
