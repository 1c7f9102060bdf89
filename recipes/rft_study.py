"""Learning from rewards against learning from answers: what three tasks in a sequence leave of each other.

The embedded model learns three one-digit tasks of reasoning-gym (`recipes.rft_stream`) one after another in six ways:
SFT on the answers, SFT at a low rate, SFT with replay, GRPO on the same prompts, GRPO with RIF, and GRPO with replay.
All begin with a version that has seen eight answers of each task, numbers alone. Without it SFT first of all unlearns
to talk before it answers, which costs it accuracy that has nothing to do with the tasks (NOTES.md, 2026-11-24).

    python -m recipes.rft_study --out runs/rft_study --workers 2 --hours 3

"RFT forgets less" (arXiv:2507.05386) is contested (arXiv:2607.04364), among other things since gains were not matched
and rates not swept. Here each way has its learning rates tried on a seed of its own, scored on validation rows, and
takes the one with the best mean accuracy after the last task. The same number of prompts and epochs is no match of what
was learned, so that `sft_low` is SFT at that of its lower rates that learned, on the sweep's seed, most nearly as much
as GRPO did at its own; and what is lost is also given as a share of what was gained, and set beside that of the others
at all rates of the sweep.

The 35 runs take about 80 core minutes by reckoning: one of GRPO three to four, one of SFT one. The same call goes on
where it was stopped. `--rows`, `--epochs` and `--seeds` let it grow, `--only` runs some ways (`sft` and `grpo` are
always there), `--quick` runs a few rows of four ways. The table beside this file is written from what is there.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer

from everlearn.config import parse
from everlearn.errors import ConfigError, Interrupted
from everlearn.files import read_json, write_json
from everlearn.fold import Run, Settings, run
from everlearn.grid.standings import values
from everlearn.learner import Learner
from everlearn.method import Method
from everlearn.metrics.suites import general_suite
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.sampling import Sampling
from everlearn.objectives.next_token import NextToken
from everlearn.objectives.policy_gradient import PolicyGradient
from everlearn.objectives.rollouts import SingleTurn
from everlearn.progress import Bars
from everlearn.rewards.numbers import NumericEqual
from everlearn.types import Progress, Stream
from recipes.deadline import Until
from recipes.pages import publish
from recipes.rft_distance import distances
from recipes.rft_page import page
from recipes.rft_stream import Counts, form_model, stream
from recipes.several import several

LIMIT = 10
"""Tokens of an attempt."""
REWARDS = PolicyGradient(
    NumericEqual(), rollout=SingleTurn(Sampling(limit=LIMIT)), scale="group", average="attempts", kl=0.01
)
"""GRPO; the reference is the version that the task began with."""
WAYS: Mapping[str, str] = {
    "sft": "LoRA(rank=8)",
    "sft_low": "LoRA(rank=8)",
    "sft_replay": "LoRA(rank=8), Replay(fraction=0.2)",
    "grpo": "LoRA(rank=8)",
    "grpo_rif": "LoRA(rank=8), RIF()",
    "grpo_replay": "LoRA(rank=8), Replay(fraction=0.2)",
}
RATES = {"sft": (3e-5, 1e-4, 3e-4, 1e-3), "grpo": (1e-4, 3e-4, 1e-3)}
"""Of SFT's ways and of GRPO's."""
LOWER = 0.3
"""By what the lowest rate is multiplied for `sft_low`, where it is SFT's own."""
SWEPT = 100
"""The seed of the sweep."""

Found = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run.

    Args:
        way: one of WAYS.
        rate: the peak learning rate.
        seed: draws the training rows and all randomness; that of the sweep is scored on validation rows.
    """

    way: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.way}-{self.rate:g}-{self.seed}"

    def __str__(self) -> str:
        """Its name."""
        return self.name


@dataclass(frozen=True)
class Study:
    """The plan.

    Args:
        out: where its runs are kept.
        counts: rows of each task.
        seeds: of the table.
        epochs: passes over a task.
        tasks: how many of the three.
        items: of each general ability.
        only: ways, by their names.
        tried: learning rates of the sweep, the highest ones; None tries all.
    """

    out: Path
    counts: Counts = field(default_factory=Counts)
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 2
    tasks: int = 3
    items: int = 8
    only: tuple[str, ...] = tuple(WAYS)
    tried: int | None = None

    def __post_init__(self) -> None:
        """Refuse ways that there are not, and the sweep's seed."""
        unknown = [name for name in self.only if name not in WAYS]
        if unknown or SWEPT in self.seeds:
            raise ConfigError(f"no ways {unknown} (known are {list(WAYS)}), and seed {SWEPT} is the sweep's.")

    @property
    def ways(self) -> tuple[str, ...]:
        """Those that are asked for, and SFT and GRPO, which the others are held against."""
        return tuple(name for name in WAYS if name in ("sft", "grpo", *self.only))

    @property
    def sweep(self) -> tuple[Cell, ...]:
        """Every way but the low rate at each of its rates."""
        ways = [way for way in self.ways if way != "sft_low"]
        return tuple(Cell(way, rate, SWEPT) for way in ways for rate in self.rates_of(way))

    def rates_of(self, way: str) -> tuple[float, ...]:
        """The rates that are tried."""
        return RATES[way.partition("_")[0]][-(self.tried or 0) :]

    def main(self, rates: Mapping[str, float]) -> tuple[Cell, ...]:
        """Every way at its rate under each seed."""
        return tuple(Cell(way, rates[way], seed) for seed, way in product(self.seeds, self.ways))

    def found(self, cell: Cell) -> Found | None:
        """What came of a run; None where it is not done."""
        file = self.out / cell.name / "measures.json"
        return read_json(file) if file.exists() else None

    def swept(self) -> dict[str, dict[float, Found]]:
        """What the sweep has found, by way and rate, as far as it is done."""
        found: dict[str, dict[float, Found]] = {}
        for cell in self.sweep:
            if (one := self.found(cell)) is not None:
                found.setdefault(cell.way, {})[cell.rate] = one
        return found

    def rates(self) -> dict[str, float]:
        """Each way's rate; nothing as long as the sweep is not done."""
        swept = self.swept()
        done = sum(map(len, swept.values())) == len(self.sweep)
        return chosen(swept) if done else {}

    def learner(self, cell: Cell) -> Learner:
        """Model, method and recipe of a run."""
        method = parse(WAYS[cell.way])
        assert isinstance(method, Method)
        recipe = Recipe(AdamW(learning_rate=cell.rate), epochs=self.epochs, batch_size=8)
        return Learner(str(self.base), method, recipe, cell.seed)

    @property
    def base(self) -> Path:
        """The folder of the model that all begin with."""
        return self.out / "base"

    def stream(self, cell: Cell) -> Stream:
        """The tasks as the way learns them."""
        objective = REWARDS if cell.way.startswith("grpo") else NextToken()
        return stream(self.counts, objective, cell.seed, cell.seed == SWEPT, self.tasks)


def chosen(swept: Mapping[str, Mapping[float, Found]]) -> dict[str, float]:
    """The rates by the sweep: of equals the lowest; and that of `sft_low`, which learns as GRPO does.

    Args:
        swept: what each way found at each of its rates, SFT and GRPO among them.
    """
    best = {way: max(sorted(each), key=lambda rate: each[rate]["accuracy"]) for way, each in swept.items()}
    gained, sft = swept["grpo"][best["grpo"]]["learning_accuracy"], swept["sft"]
    lower = [rate for rate in sorted(sft) if rate < best["sft"]]
    near = min(lower, key=lambda rate: abs(sft[rate]["learning_accuracy"] - gained), default=LOWER * best["sft"])
    return best | {"sft_low": near}


def learned(study: Study, cell: Cell, progress: Progress) -> Found:
    """What came of a run; one that is done is read."""
    if (known := study.found(cell)) is not None:
        return known
    learner, tasks, folder = study.learner(cell), study.stream(cell), study.out / cell.name
    suite = () if cell.seed == SWEPT else general_suite(per_ability=study.items)
    made = run(learner, tasks, folder, Settings(suite=suite, scored="past", scores=study.out / "scores"), progress)
    prompts = min(study.counts.validation, study.counts.tests)
    write_json(folder / "measures.json", measures(made) | distances(learner, made, tasks, prompts, LIMIT))
    return read_json(folder / "measures.json")


def measures(made: Run) -> Found:
    """What the matrix of a finished run says, the matrix itself, and the minutes inside optimiser steps."""
    matrix, found = made.matrix, values(made.matrix)
    first = [score for score in matrix.rows[0].scores if score is not None]
    seconds = [row["seconds"] for row in made.files.metrics() if "seconds" in row]
    notes = [row["notes"] for row in made.files.metrics() if "even" in row.get("notes", {})]
    more = {"base": fmean(first), "gained": found["learning_accuracy"] - fmean(first), "minutes": sum(seconds) / 60}
    more |= {"even": fmean(note["even"] for note in notes)} if notes else {}
    return {**found, **more, "lost": -found["backward_transfer_lopez_paz"], "matrix": [list(r) for r in matrix.scores]}


def main(
    out: Annotated[Path, typer.Option(help="Where the runs are kept.")] = Path("runs/rft_study"),
    rows: Annotated[int, typer.Option(help="Training rows of each task, 40 at most.")] = Counts.train,
    epochs: Annotated[int, typer.Option(help="Passes over a task.")] = Study.epochs,
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 3,
    only: Annotated[str, typer.Option(help="Ways, separated by commas.")] = "",
    workers: Annotated[int, typer.Option(help="Runs at a time.")] = 1,
    hours: Annotated[float | None, typer.Option(help="Stop after so many, to go on another day.")] = None,
    quick: Annotated[
        bool, typer.Option(help="Two tasks, one seed and rate, few rows; its table goes to --out.")
    ] = False,
    table: Annotated[bool, typer.Option(help="Only write the table of what is there.")] = False,
) -> None:
    """Run the study, and write its table beside this file."""
    names = tuple(filter(None, only.split(","))) or tuple(WAYS)
    study = Study(out, Counts(rows), tuple(range(seeds)), epochs, only=names)
    if quick:
        few = replace(study, counts=Counts(8, 6, 6, 4), seeds=(0,), epochs=1, tasks=2, items=1, tried=1)
        study = replace(few, only=("sft_low", "grpo_rif"))
    if not table:
        try:
            with Bars() as bars:
                until = Until(bars, hours)
                form_model(study.base, study.counts, study.tasks, until)
                several(partial(learned, study), study.sweep, workers, until)
                several(partial(learned, study), study.main(study.rates()), workers, until)
        except Interrupted as stopped:
            typer.echo(str(stopped))
    file = out / "rft_study.md" if quick else Path(__file__).with_suffix(".md")
    publish(file, written(study))


def written(study: Study) -> str:
    """The tables, as Markdown, of what is there."""
    rates = study.rates()
    cells = study.main(rates) if rates else ()
    runs: dict[str, list[Found]] = {way: [] for way in study.ways}
    # Differences are between runs of a seed, so that only seeds count that all ways have.
    whole = [seed for seed in study.seeds if cells and all(study.found(c) for c in cells if c.seed == seed)]
    for cell in cells:
        if cell.seed in whole and (found := study.found(cell)) is not None:
            runs[cell.way].append(found)
    total = len(study.sweep) + len(study.ways) * len(study.seeds)
    done = sum(study.found(cell) is not None for cell in (*study.sweep, *cells))
    about = (
        f"SmolLM2-135M-Instruct after {study.counts.form} answers of each task; {study.counts.train} training, "
        f"{study.counts.validation} validation and "
        f"{study.counts.tests} test questions of each of {study.tasks} tasks; {study.epochs} epochs of steps of 8 "
        f"prompts, GRPO with {REWARDS.group} attempts of at most {LIMIT} tokens at each. "
        f"{done} of {total} runs are done."
    )
    methods = {way: f"`{WAYS[way]}`, {'rewards' if way.startswith('grpo') else 'answers'}" for way in study.ways}
    return page(about, methods, study.swept(), rates, runs)


if __name__ == "__main__":
    try:
        typer.run(main)
    except ConfigError as error:
        sys.exit(str(error))
