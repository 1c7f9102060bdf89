"""Continual fine-tuning compared: seventeen ways to learn six tasks one after another, on the embedded model.

Six tasks of `mtl15` (arXiv:2310.14152), those with the shortest texts, in two orders and two scenarios:

- `domain`: the published prompts, which say what is asked and name their options;
- `class`: the sentence alone, without instruction or options. What still tells tasks apart is how a sentence is
  written: all but SST-2 open with words of their own ("word:", "first sentence:"), and AG News and DBpedia with the
  same one. SST-2 is the only one without. WiC and QQP have the same two labels, so that they are told apart by their
  texts, or not at all.

In both the answer is the likeliest of all tasks' labels, 25 of them, so that what separates the two is whether a prompt
tells its task. Differs from the published protocols, which generate: no answer is wrong by its form here.

For each method three learning rates are tried under one seed that is not used again, class-incrementally on the first
order, and the one with the best mean accuracy on validation rows after the last task is taken for both scenarios; test
rows are not looked at. Then three seeds learn the first order, and the first of them the second.

    python -m recipes.cft_study --data path/to/mtl15 --out runs/cft_study --workers 2 --hours 4

Every run stands on a frozen lower part of the model: adapters lie on the top two of thirty layers alone, and what
the lower ones make of a text is computed once for the whole study and kept on disk, in `OUT/activations`. All methods
have the same rows, epochs, rank and layers; a method's own strengths are the library's defaults. Differs from the
published protocols: InfLoRA adapts all linear layers here, as the others do. Versions are asked about the experience
that they have just learned, and the last one about all: enough for backward transfer.

On two cores without bfloat16 (float32, 77 GFLOP/s each when alone) the 51 runs of the first order, class-incrementally,
took 58 minutes, two at a time: three and a half hours are reckoned for all 183.

The same call goes on where it was stopped; `--hours` stops it by itself, and `python -m recipes.evidence` takes what is
done to another machine. `--rows` and `--seeds` let it grow, as does
`--frozen 0` where all layers are to learn; `--only` runs some methods (the first one, plain, is always there), and
`--quick` runs a few rows, methods and tasks. The table beside this file is written from what is there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer

from everlearn.config import parse
from everlearn.errors import ConfigError, Interrupted
from everlearn.evaluate import Scored
from everlearn.fold import Settings
from everlearn.grid.compare import Compared, Grid, compare, standing_in
from everlearn.grid.executors import Processes
from everlearn.grid.tables import contrast_rows, markdown, standing_rows
from everlearn.learner import Learner
from everlearn.method import Method
from everlearn.models.engine import Engine
from everlearn.models.optim import AdamW, Recipe
from everlearn.progress import Bars
from everlearn.types import Progress, Stream
from recipes.cft_tasks import ORDERS, SCENARIOS, Scenario, stream
from recipes.deadline import Until
from recipes.pages import publish

REFERENCES = ("joint", "single")
METHODS: Mapping[str, str] = {
    "plain": "LoRA(rank=8, targets=TOP)",
    "low_rate": "LoRA(rank=8, targets=TOP)",
    "replay": "LoRA(rank=8, targets=TOP), Replay(fraction=0.05)",
    "derpp": "LoRA(rank=8, targets=TOP), DERPP()",
    "ewc": "LoRA(rank=8, targets=TOP), EWC()",
    "lwf": "LoRA(rank=8, targets=TOP), LwF()",
    "agem": "LoRA(rank=8, targets=TOP), AGEM()",
    "olora": "OLoRA(rank=8, targets=TOP)",
    "inflora": "InfLoRA(rank=8, targets=TOP, experiences=6)",
    "duallora": "DualLoRA(rank=8, targets=TOP)",
    "clora_entries": "SelfRegularizedCLoRA(rank=8, targets=TOP)",
    "clora_routing": "RoutingCLoRA(rank=8, targets=TOP)",
    "slao": "SLAO(rank=8, targets=TOP)",
    "ties": "LoRA(rank=8, targets=TOP), TIES()",
    "gdumb": "LoRA(rank=8, targets=TOP), GDumb()",
}
PARTS = (*(f"self_attn.{part}_proj" for part in "qkvo"), *(f"mlp.{part}_proj" for part in ("gate", "up", "down")))
"""The linear layers of one of the model's LAYERS."""
LAYERS = 30
RATES = (1e-3, 3e-3, 1e-2)
SCALES = {"low_rate": 0.1}
"""What a method's rates are multiplied by."""
SWEPT = 100
"""The seed of the sweep."""
SWEEP: Scenario = "class"
"""The scenario of the sweep."""


@dataclass(frozen=True)
class Study:
    """The plan.

    Args:
        data: the folder mtl15.
        out: where its grids are kept.
        rows: training rows of each task.
        tests: test rows, and validation rows, of each task.
        seeds: of the first order; the second one gets the first of them.
        tasks: how many of the six.
        epochs: passes over a task.
        frozen: layers that stand still.
        only: methods, by their names.
    """

    data: Path
    out: Path
    rows: int = 32
    tests: int = 24
    seeds: tuple[int, ...] = (0, 1, 2)
    tasks: int = 6
    epochs: int = 2
    frozen: int = 28
    only: tuple[str, ...] = tuple(METHODS)

    def __post_init__(self) -> None:
        """Refuse methods that there are not, and the sweep's seed."""
        unknown = [name for name in self.only if name not in METHODS]
        if unknown or SWEPT in self.seeds:
            raise ConfigError(f"no methods {unknown} (known are {list(METHODS)}), and seed {SWEPT} is the sweep's.")

    @property
    def methods(self) -> dict[str, Method]:
        """By name; the first one, which the others are held against, is always there."""
        return {name: self._method(text) for name, text in METHODS.items() if name in ("plain", *self.only)}

    def _method(self, text: str) -> Method:
        top = tuple(f"{layer}.{part}" for layer in range(self.frozen, LAYERS) for part in PARTS)
        found = parse(text.replace("TOP", repr(top)))
        assert isinstance(found, Method)
        return found

    def stream(self, scenario: Scenario, order: int = 0, validating: bool = False) -> Stream:
        """The tasks in one of the orders; `validating` puts validation rows where test rows would stand."""
        counts = (self.rows, self.tests, self.tests)
        return stream(self.data, scenario, ORDERS[order], counts, self.tasks, validating)

    @cached_property
    def learner(self) -> Learner:
        """Model, recipe and memory of every run."""
        kept = Engine(activations=0.0, disk=20.0, folder=str(self.out / "activations"))
        return Learner("embedded", recipe=Recipe(epochs=self.epochs, batch_size=4), engine=kept)

    def recipe(self, name: str, rate: float) -> Recipe:
        """A method's recipe at one of the rates."""
        return replace(self.learner.recipe, optimiser=AdamW(learning_rate=rate * SCALES.get(name, 1.0)))

    def sweep(self, rate: float) -> Grid:
        """Every method and reference at one rate, scored on validation rows."""
        recipes = {name: self.recipe(name, rate) for name in (*self.methods, *REFERENCES)}
        return self._grid(self.stream(SWEEP, 0, True), (SWEPT,), recipes, "last")

    def main(self, scenario: Scenario, order: int, rates: Mapping[str, float]) -> Grid:
        """Every method at its rate; the references with the first order alone, since they know no order."""
        recipes = {name: self.recipe(name, rates[name]) for name in (*self.methods, *REFERENCES)}
        grid = self._grid(self.stream(scenario, order), self.seeds if order == 0 else self.seeds[:1], recipes, "own")
        return grid if order == 0 else replace(grid, references=())

    def _grid(self, stream: Stream, seeds: tuple[int, ...], recipes: Mapping[str, Recipe], scored: Scored) -> Grid:
        settings = Settings(suite=(), scored=scored, scores=self.out / "scores")
        return Grid(stream, self.methods, seeds, self.learner, settings, REFERENCES, recipes)

    def swept(self) -> dict[str, dict[float, float]]:
        """Validation accuracy after the last task, by method or reference and rate, as far as it is known."""
        found: dict[str, dict[float, float]] = {name: {} for name in (*self.methods, *REFERENCES)}
        for rate in RATES:
            for cell in self.sweep(rate).cells(self.out / f"rate-{rate:g}"):
                if cell.is_done():
                    row = cell.matrix().rows[-1] if cell.kind == "run" else cell.row()
                    found[cell.name][rate] = fmean(s for s in row.scores if s is not None)
        return found

    def rates(self) -> dict[str, float]:
        """The rate of each method and reference with the best validation accuracy; of equals the lowest.

        Raises:
            ConfigError: if the sweep is not finished.
        """
        found = self.swept()
        missing = [name for name, known in found.items() if len(known) < len(RATES)]
        if missing:
            raise ConfigError(f"the sweep of {missing} is not finished; look into {self.out}.")
        return {name: max(known, key=lambda rate: (known[rate], -rate)) for name, known in found.items()}

    @property
    def total(self) -> int:
        """Runs in all."""
        methods = len(self.methods)
        main = (methods + len(REFERENCES)) * len(self.seeds) + methods * (len(ORDERS) - 1)
        return (methods + len(REFERENCES)) * len(RATES) + len(SCENARIOS) * main


def learn(study: Study, workers: int, progress: Progress) -> dict[str, str]:
    """Run what is missing: the sweep, then the first orders, then the second ones.

    Returns:
        Why runs failed, by their titles.
    """
    executor, failed = Processes(workers), dict[str, str]()

    def run(grid: Grid, folder: str) -> None:
        found = compare(grid, study.out / folder, executor, progress)
        failed.update({f"{folder}, {title}": why for title, why in found.failures.items()})

    for rate in RATES:
        run(study.sweep(rate), f"rate-{rate:g}")
    for order, scenario in product(range(len(ORDERS)), SCENARIOS):
        run(study.main(scenario, order, study.rates()), f"{scenario}-order-{order + 1}")
    return failed


def main(
    data: Annotated[Path, typer.Option(help="The folder mtl15.")],
    out: Annotated[Path, typer.Option(help="Where the runs are kept.")] = Path("runs/cft_study"),
    rows: Annotated[int, typer.Option(help="Training rows of each task.")] = Study.rows,
    seeds: Annotated[int, typer.Option(help="Number of seeds on the first order.")] = 3,
    frozen: Annotated[int, typer.Option(help="Layers that stand still.")] = Study.frozen,
    only: Annotated[str, typer.Option(help="Methods, separated by commas.")] = "",
    workers: Annotated[int, typer.Option(help="Runs at a time.")] = 2,
    hours: Annotated[float | None, typer.Option(help="Stop after so many, to go on another day.")] = None,
    quick: Annotated[bool, typer.Option(help="Three methods, two tasks, one seed, few rows.")] = False,
    table: Annotated[bool, typer.Option(help="Only write the table of what is there.")] = False,
) -> None:
    """Run the study, and write its table beside this file; that of a quick one is written into its folder."""
    names = tuple(filter(None, only.split(","))) or tuple(METHODS)
    study = Study(data, out, rows, seeds=tuple(range(seeds)), frozen=frozen, only=names)
    if quick:
        study = replace(study, rows=8, tests=20, seeds=(0,), tasks=2, only=("plain", "replay", "olora"))
    failed: dict[str, str] = {}
    if not table:
        try:
            with Bars() as bars:
                failed = learn(study, workers, Until(bars, hours))
        except Interrupted as stopped:
            typer.echo(str(stopped))
    file = out / "cft_study.md" if quick else Path(__file__).with_suffix(".md")
    publish(file, written(study, failed))


def written(study: Study, failed: Mapping[str, str]) -> str:
    """The tables as Markdown, of what is there."""
    swept = study.swept()
    done, sections = sum(map(len, swept.values())), _rates(swept)
    swept_all = all(len(rates) == len(RATES) for rates in swept.values())
    for scenario, order in product(SCENARIOS, range(len(ORDERS))) if swept_all else ():
        grid, folder = study.main(scenario, order, study.rates()), study.out / f"{scenario}-order-{order + 1}"
        there = sum(cell.is_done() for cell in grid.cells(folder))
        title = f"{scenario}-incremental, order {order + 1}: {', '.join(grid.stream.names)}"
        done, sections = done + there, sections + (_section(standing_in(grid, folder), title) if there else [])
    methods = [f"- {name}: `{METHODS[name]}`" for name in study.methods]
    head = ["# Continual fine-tuning on six tasks", ""]
    if done < study.total:
        head += [f"({done} of {study.total} runs done)", ""]
    head += [
        f"SmolLM2-135M-Instruct, {study.rows} training rows a task, {study.epochs} epochs, "
        f"adapters on all linear parts of the layers (TOP) above the lowest {study.frozen} of {LAYERS}; "
        f"seeds {list(study.seeds)}, the sweep's is {SWEPT}.",
        "",
        *methods,
        "",
    ]
    lost = [f"- failed: {title}: {why}" for title, why in failed.items()]
    return "\n".join([*head, *sections, *lost, ""])


def _rates(swept: Mapping[str, Mapping[float, float]]) -> list[str]:
    """Validation accuracy at each rate; the one that is taken is set in bold."""
    rows = []
    for name, known in swept.items():
        best = max(known, key=lambda rate: (known[rate], -rate)) if len(known) == len(RATES) else None
        cells = {f"{rate:g}": f"{100 * known[rate]:.1f}" if rate in known else "-" for rate in RATES}
        rows.append(
            {"method": name} | {r: f"**{c}**" if best is not None and r == f"{best:g}" else c for r, c in cells.items()}
        )
    note = "Accuracy on validation rows after the last task, percent, by learning rate (low_rate: a tenth of it)."
    return [f"## Learning rates, {SWEEP}-incremental", "", note, "", markdown(rows)]


def _section(found: Compared, title: str) -> list[str]:
    rows = standing_rows(found.standings)
    for row, name in zip(rows, found.matrices, strict=True):
        peaks = [cost.peak for cost in found.costs[name] if cost.peak is not None]
        row["peak memory"] = f"{max(peaks) / 1e9:.2f} GB" if peaks else "-"
    lines = [f"## {title}", "", markdown(rows)]
    shown = [c for c in found.contrasts if c.measure in ("accuracy", "backward_transfer_lopez_paz")]
    lines += [markdown(contrast_rows(shown, "plain"))] if shown else []
    return [*lines, *(f"- {note}" for note in found.notes), ""]


if __name__ == "__main__":
    typer.run(main)
