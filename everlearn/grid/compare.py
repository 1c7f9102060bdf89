"""Methods compared: a grid of methods and seeds on one stream, run to the end and set side by side.

    found = compare(Grid(stream, {"plain": LoRA(), "replay": chain(LoRA(), Replay())}), "runs/grid", Processes(2))
    print(found.page)

    FOLDER/<method>-<seed>/     a run folder for each cell: `everlearn report` and `everlearn matrix` read it
    FOLDER/joint-<seed>/        references, where they are asked for
    FOLDER/scores/              the base model's outcomes, and all others, shared by the cells; see `Grid.settings`
    FOLDER/logs/                what workers print
    FOLDER/comparison.md .json  the table

The same call goes on where it was stopped, and one with more methods or seeds learns what is missing.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from everlearn.config import dump, show
from everlearn.errors import ConfigError, Interrupted
from everlearn.files import lock, write_atomic, write_json
from everlearn.fold import Settings
from everlearn.grid.cells import Cell, Kind, Reference
from everlearn.grid.executors import Ended, Executor, InProcess
from everlearn.grid.peaks import peak_of
from everlearn.grid.standings import Contrast, Cost, Standing, against_in_context, contrasts, standing
from everlearn.grid.tables import bound, contrast_rows, markdown, notes, standing_rows
from everlearn.learner import Learner
from everlearn.matrix import Matrix
from everlearn.method import Method, chain
from everlearn.metrics.suites import general_suite
from everlearn.models.optim import Recipe
from everlearn.references import SHOTS
from everlearn.run_folder import RunFolder, describe_stream
from everlearn.types import Progress, Silent, Stream
from everlearn.wording import percent

REFERENCES: tuple[Reference, ...] = ("joint", "single", "in_context")
TAKEN = (*REFERENCES, "scores", "logs")
"""Names in a grid's folder that no method can have."""


@dataclass(frozen=True)
class Grid:
    """Methods times seeds on one stream.

    Args:
        stream: what is learned.
        methods: by the names that the table calls them; the first one is what the others are held against.
        seeds: each method is run under each of them; runs that share a seed are compared in pairs.
        learner: model, recipe and device of every cell; its method and seed are not used.
        settings: of every run; the cells share a folder for their `scores`, the grid's own unless it is named here, as
            where several grids ask one base model.
        references: any of "joint" and "single", learned by the first method under each seed, and "in_context", the
            base model asked with demonstrations that each seed draws anew.
        recipes: of the methods and references, by name, that do not take the learner's.
        shots: demonstrations before each test item, in context.
    """

    stream: Stream
    methods: Mapping[str, Method]
    seeds: tuple[int, ...] = (0, 1, 2)
    learner: Learner = field(default_factory=Learner)
    settings: Settings = field(default_factory=Settings)
    references: tuple[Reference, ...] = ()
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    shots: int = SHOTS

    def __post_init__(self) -> None:
        """Refuse a grid without cells, and names that could not be a folder's."""
        if not self.methods or not self.seeds or len(set(self.seeds)) < len(self.seeds) or self.shots < 1:
            raise ConfigError(
                f"a grid of the methods {list(self.methods)}, the seeds {list(self.seeds)} and {self.shots} shots; "
                "give one of each at least, and no seed twice."
            )
        for name in self.methods:
            if name in TAKEN or not name or not all(c.isalnum() or c in "._-" for c in name):
                raise ConfigError(
                    f"a method is named {name!r}; use letters, digits, and any of . _ - only, and none of {TAKEN}."
                )
        unknown = [kind for kind in self.references if kind not in REFERENCES]
        if unknown:
            raise ConfigError(f"there are no references {unknown}; choose among {REFERENCES}.")
        strange = [name for name in self.recipes if name not in (*self.methods, *REFERENCES)]
        if strange:
            raise ConfigError(f"recipes for {strange}, which are no methods of this grid: {list(self.methods)}.")

    def cells(self, out: Path) -> tuple[Cell, ...]:
        """What is to be learned, seed by seed, each method and then the references.

        Args:
            out: the folder of the grid.
        """
        suite = general_suite() if self.settings.suite is None else self.settings.suite
        shared = {"stream": describe_stream(self.stream), "gate": dump(self.settings.gate)}
        shared |= {"suite": [item.key for item in suite], "scored": self.settings.scored}
        first = next(iter(self.methods.values()))
        asked: list[tuple[str, Kind, Method]] = [(name, "run", method) for name, method in self.methods.items()]
        # In context nothing is learned, so that another first method leaves that row as it is.
        asked += [(kind, kind, chain() if kind == "in_context" else first) for kind in self.references]
        return tuple(self._cell(out, *one, seed, shared) for seed in self.seeds for one in asked)

    def _cell(self, out: Path, name: str, kind: Kind, method: Method, seed: int, shared: Mapping[str, Any]) -> Cell:
        recipe, source = self.recipes.get(name, self.learner.recipe), dict(self.settings.source)
        learner = replace(self.learner, method=method, seed=seed, recipe=recipe)
        if source:  # so that a cell can be repeated by itself
            source |= {"method": show(method), "seed": seed}
        settings = replace(self.settings, scores=self.settings.scores or out / "scores", source=source)
        asked = {"kind": kind, "learner": dump(learner), **shared}
        asked |= {"shots": self.shots} if kind == "in_context" else {}
        return Cell(name, kind, learner, self.stream, out / f"{name}-{seed}", settings, asked, self.shots)


@dataclass(frozen=True)
class Compared:
    """A grid with what came of it.

    Args:
        grid: what was asked.
        matrices: of the finished runs, by method and seed, with the references of the same seed.
        costs: of the same runs.
        failures: of the cells that could not be learned, by title, with the reason.
    """

    grid: Grid
    matrices: Mapping[str, Mapping[int, Matrix]]
    costs: Mapping[str, tuple[Cost, ...]]
    failures: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def standings(self) -> tuple[Standing, ...]:
        """Each method over its seeds, in the grid's order."""
        return tuple(
            standing(name, show(method), self.matrices[name], self.costs[name])
            for name, method in self.grid.methods.items()
        )

    @cached_property
    def contrasts(self) -> tuple[Contrast, ...]:
        """What each further method, and the base model asked in context, has more than the first method."""
        first, *others = self.matrices.values()
        pairs = zip(list(self.matrices)[1:], others, strict=True)
        found = tuple(c for name, other in pairs for c in contrasts(name, first, other))
        return found + against_in_context(first)

    @property
    def notes(self) -> list[str]:
        """What the numbers are, and what is missing."""
        tests = {experience.name: len(experience.test) for experience in self.grid.stream}
        failed = [f"failed: {title}: {why}" for title, why in self.failures.items()]
        return [*self._bounds(), *notes(self.standings, self.grid.seeds, tests), *failed]

    def _bounds(self) -> list[str]:
        """What lies below and above the methods: ACC of the untouched base model and of the references."""
        matrices = [matrix for seeds in self.matrices.values() for matrix in seeds.values()]
        rows = {"untouched base model": [matrix.rows[0] for matrix in matrices[:1]]}
        for kind in REFERENCES:
            rows[kind] = [row for row in (getattr(m, kind) for m in self.matrices[self._first].values()) if row]
        return [bound(name, each) for name, each in rows.items() if each]

    @property
    def _first(self) -> str:
        return next(iter(self.grid.methods))

    @cached_property
    def page(self) -> str:
        """The table in Markdown."""
        recipe = show(self.grid.learner.recipe)
        lines = [f"# Comparison on {self.grid.stream.name}", ""]
        lines += [f"Model {self.grid.learner.model}, `{recipe}`.", "", markdown(standing_rows(self.standings))]
        if self.contrasts:
            lines += [markdown(contrast_rows(self.contrasts, self._first))]
        lines += [f"- {s.name}: `{s.method or 'plain fine-tuning of all weights'}`" for s in self.standings]
        lines += [f"- {name} has a recipe of its own, `{show(own)}`" for name, own in self.grid.recipes.items()]
        return "\n".join([*lines, *(f"- {note}" for note in self.notes), ""])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data: the standings, the differences with the tests of each seed, and what failed."""
        return {
            "stream": self.grid.stream.name,
            "model": self.grid.learner.model,
            "recipe": show(self.grid.learner.recipe),
            "seeds": list(self.grid.seeds),
            "tests": {experience.name: len(experience.test) for experience in self.grid.stream},
            "standings": [asdict(s) for s in self.standings],
            "contrasts": [asdict(c) for c in self.contrasts],
            "failures": dict(self.failures),
        }


def compare(
    grid: Grid, out: str | Path, executor: Executor | None = None, progress: Progress | None = None
) -> Compared:
    """Run what is missing of a grid, and set its methods side by side; the table is written into `out` too.

    A cell that fails is reported, and the others go on: look at `failures`.

    Args:
        grid: what to run.
        out: the grid's folder; what was finished there is not done again.
        executor: who runs the cells; None takes this process.
        progress: who wants to know how far it is.

    Raises:
        ConfigError: if `out` holds other cells of these names.
        Interrupted: after Ctrl-C; the same call goes on.
        RegistryError: if another process works on the grid in `out`.
    """
    root = Path(out)
    cells, watch = grid.cells(root), progress or Silent()
    with lock(root / ".lock", 0, f"{out}: another process compares there; wait for it, or choose another folder."):
        left = [cell for cell in cells if not cell.is_done()]
        try:
            failures = _run(left, executor or InProcess(), watch, len(cells))
        except (KeyboardInterrupt, Interrupted) as stopped:
            done = sum(cell.is_done() for cell in cells)
            raise Interrupted(f"stopped after {done} of {len(cells)} cells.") from stopped
        found = _collected(grid, cells, failures)
        write_json(root / "comparison.json", found.to_dict())
        write_atomic(root / "comparison.md", found.page)
    return found


def standing_in(grid: Grid, out: str | Path) -> Compared:
    """What is there of a grid, set side by side; nothing is learned.

    Args:
        grid: what was asked.
        out: the grid's folder.

    Raises:
        ConfigError: if `out` holds other cells of these names.
    """
    return _collected(grid, grid.cells(Path(out)), {})


def _run(left: Sequence[Cell], executor: Executor, progress: Progress, total: int) -> dict[str, str]:
    """Run the cells that are left, with a line for each; what failed, by title."""
    failures, started, before = dict[str, str](), time.monotonic(), total - len(left)
    progress.update("cells", before, total)
    with closing(executor.each(left, progress)) as each:
        for done, ended in enumerate(each, start=1):
            why = ended.failure or _absent(ended.cell)
            if why:
                failures[ended.cell.title] = why
            seconds = (time.monotonic() - started) / done * (len(left) - done)
            whole = len(ended.cell.stream) + 1
            note = f"{why or _result(ended)}; {before + done} of {total}{_estimate(seconds) if seconds else ''}"
            progress.update(ended.cell.title, whole, whole, note)
            progress.update("cells", before + done, total)
    return failures


def _absent(cell: Cell) -> str:
    if cell.is_done():
        return ""
    return (
        f"it was learned, but {cell.folder} does not show it: is that folder on a file system that all workers share?"
    )


def _result(ended: Ended) -> str:
    row = ended.cell.matrix().rows[-1] if ended.cell.kind == "run" else ended.cell.row()
    known = [score for score in row.scores if score is not None]
    return f"ACC {percent(sum(known) / max(1, len(known)))}"


def _estimate(seconds: float) -> str:
    return f", about {seconds / 60:.0f} min left" if seconds >= 90 else f", about {seconds:.0f} s left"


def _collected(grid: Grid, cells: Sequence[Cell], failures: Mapping[str, str]) -> Compared:
    done = [cell for cell in cells if cell.is_done()]
    rows = {(cell.name, cell.learner.seed): cell.row() for cell in done if cell.kind != "run"}
    matrices: dict[str, dict[int, Matrix]] = {name: {} for name in grid.methods}
    costs: dict[str, list[Cost]] = {name: [] for name in grid.methods}
    for cell in (cell for cell in done if cell.kind == "run"):
        seed = cell.learner.seed
        joint, single, shown = (rows.get((kind, seed)) for kind in REFERENCES)
        matrices[cell.name][seed] = replace(cell.matrix(), joint=joint, single=single, in_context=shown)
        costs[cell.name].append(_cost(RunFolder(cell.folder)))
    return Compared(grid, matrices, {name: tuple(found) for name, found in costs.items()}, failures)


def _cost(folder: RunFolder) -> Cost:
    seconds = sum(row["seconds"] for row in folder.metrics() if "seconds" in row)
    kept = [event.version for event in folder.events() if event.kind != "reject"][-1]
    return Cost(seconds / 60, float(folder.versions.sizes(kept).total), peak_of(folder.root))
