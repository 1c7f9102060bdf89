"""One cell of a grid: a method, or a reference, under one seed, in a run folder of its own."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from everlearn.errors import ConfigError, EverlearnError, Interrupted
from everlearn.files import read_json, write_json
from everlearn.fold import Settings, run
from everlearn.grid.peaks import peak_kept
from everlearn.learner import Learner
from everlearn.matrix import Matrix, Row
from everlearn.references import SHOTS, in_context, joint, single
from everlearn.run_folder import RunFolder
from everlearn.types import Progress, Stream

Reference = Literal["joint", "single", "in_context"]
Kind = Literal["run", "joint", "single", "in_context"]


@dataclass(frozen=True)
class Cell:
    """What one cell learns, and where; plain enough to be sent to another process.

    Args:
        name: the method's in its grid, or the reference's.
        kind: a run of the whole stream, or a reference.
        learner: with the cell's method and seed.
        stream: what is learned.
        folder: of its own.
        settings: of the run; a reference needs none of them.
        asked: plain data that tells this cell from any other; kept in cell.json.
        shots: demonstrations before each test item, where it is "in_context".
    """

    name: str
    kind: Kind
    learner: Learner
    stream: Stream
    folder: Path
    settings: Settings
    asked: Mapping[str, Any]
    shots: int = SHOTS

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"{self.name}, seed {self.learner.seed}"

    @property
    def log(self) -> Path:
        """Where a worker writes what the cell prints."""
        return self.folder.parent / "logs" / f"{self.folder.name}.log"

    def has_begun(self) -> bool:
        """Whether somebody has learned some of it."""
        return (self.folder / "cell.json").exists()

    def is_done(self) -> bool:
        """Whether it was learned to the end; nothing is loaded to tell.

        Raises:
            ConfigError: if its folder holds another cell.
        """
        if not self.has_begun():
            return False
        before, now = read_json(self.folder / "cell.json"), json.loads(json.dumps(self.asked))
        if before != now:
            unlike = [key for key in now if before.get(key) != now[key]]
            raise ConfigError(
                f"{self.folder} holds a cell with another {' and '.join(unlike)}; "
                "choose another folder for the grid, or delete this one to learn it anew."
            )
        if self.kind != "run":
            return (self.folder / "row.json").exists()
        return (self.folder / "matrix.json").exists() and self.matrix().learned == len(self.stream)

    def learn(self, progress: Progress) -> None:
        """Learn it to the end, from where it was stopped.

        Args:
            progress: who wants to know how far it is.

        Raises:
            EverlearnError: as the run or the reference raises it.
        """
        write_json(self.folder / "cell.json", self.asked)
        with peak_kept(self.folder):
            self._learn(progress)

    def _learn(self, progress: Progress) -> None:
        if self.kind == "run":
            run(self.learner, self.stream, self.folder, self.settings, progress)
            return
        write_json(self.folder / "row.json", self._reference(progress).to_dict())

    def _reference(self, progress: Progress) -> Row:
        if self.kind == "in_context":
            return in_context(self.learner, self.stream, self.folder, progress, self.shots)
        reference = joint if self.kind == "joint" else single
        return reference(self.learner, self.stream, self.folder, progress)

    def matrix(self) -> Matrix:
        """What a run has to show.

        Raises:
            RegistryError: if no version was scored yet.
        """
        return RunFolder(self.folder).read_matrix()

    def row(self) -> Row:
        """What a finished reference has to show."""
        return Row.from_dict(read_json(self.folder / "row.json"))


def attempted(cell: Cell, progress: Progress) -> str:
    """Learn a cell; empty where it ended well, else what the package says is wrong with it.

    Args:
        cell: to be learned.
        progress: who wants to know how far it is.

    Raises:
        Interrupted: if its user stopped it.
    """
    try:
        cell.learn(OneBar(progress, cell))
    except Interrupted:
        raise
    except EverlearnError as error:
        return str(error)
    return ""


class OneBar:
    """Progress that shows everything a cell does as one bar named after it, so that a grid has one line a cell.

    Args:
        progress: who is told.
        cell: whose bar it is.
    """

    def __init__(self, progress: Progress, cell: Cell) -> None:
        self._progress, self._title = progress, cell.title
        # One unit more than there are experiences: the bar ends when the cell has, and who runs the grid says so.
        self._done, self._total = 0, len(cell.stream) + 1

    def update(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Pass on, with the stage as the note."""
        if stage == "experiences":
            self._done = done
        self._progress.update(self._title, self._done, self._total, f"{stage} {100 * done // max(1, total)} %")
