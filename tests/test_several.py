"""Several runs at a time: what is made, where, and how it stops."""

import os
from functools import partial
from pathlib import Path

import pytest
import torch

from everlearn.errors import Interrupted
from everlearn.types import Progress, Silent
from recipes.deadline import Until
from recipes.several import several


def make(job: int, progress: Progress, out: Path) -> None:
    progress.update("job", 0, 1)
    (out / str(job)).write_text(f"{os.getpid()} {torch.get_num_threads()}")


def refuse(job: int, progress: Progress) -> None:
    raise ValueError(f"job {job}")


class Told:
    def __init__(self) -> None:
        self.lines = list[tuple[str, int, int]]()

    def update(self, stage: str, done: int, total: int, note: str = "") -> None:
        self.lines.append((stage, done, total))


@pytest.mark.parametrize("workers", [1, 2])
def test_every_run_is_made_and_told_of(tmp_path: Path, workers: int) -> None:
    told = Told()
    several(partial(make, out=tmp_path), [3, 4, 5], workers, Until(told, None))
    made = {file.name: file.read_text().split() for file in tmp_path.iterdir()}
    assert sorted(made) == ["3", "4", "5"]
    assert [line for line in told.lines if line[0] == "runs"] == [("runs", done, 3) for done in range(4)]
    alone = all(process == str(os.getpid()) for process, _ in made.values())
    assert alone is (workers == 1)
    assert workers == 1 or {threads for _, threads in made.values()} == {"1"}


@pytest.mark.parametrize("workers", [1, 2])
def test_hours_that_are_over_stop_it(tmp_path: Path, workers: int) -> None:
    with pytest.raises(Interrupted, match="the same call goes on"):
        several(partial(make, out=tmp_path), [3, 4, 5], workers, Until(Silent(), 0.0))
    assert not list(tmp_path.iterdir())


def test_the_end_is_the_same_elsewhere() -> None:
    Until(Silent(), 1.0).elsewhere().update("job", 0, 1)
    with pytest.raises(Interrupted):
        Until(Silent(), -1.0).elsewhere().update("job", 0, 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_goes_wrong_is_raised(workers: int) -> None:
    with pytest.raises(ValueError, match="job 7"):
        several(refuse, [7], workers, Until(Silent(), None))
