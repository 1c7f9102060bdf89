"""Split and permuted digits, task-, domain- and class-incremental: the field's classic targets, on a processor.

The ten classic methods on scikit-learn's 1797 digits of 8 x 8 pixels, with the perceptron of `recipes.digits_network`.
"Split" has five experiences of two digits each; "permuted" has five random orders of the pixels, ten digits each. The
scenarios are those of van de Ven & Tolias 2019 (arXiv:1904.07734): the prompt names the task and its answers alone
compete, in training and in tests ("task"); all experiences share their answers ("domain"); every class of every
experience is an answer of its own, and all compete from the start ("class").

    python -m recipes.digits --out runs/digits            # all of it, and the table
    python -m recipes.digits --quick                      # one seed, split digits alone, no table

A seed decides the first weights, the rows for training and for the test, the permutations, and all randomness inside
the runs. The strengths of EWC, SI and LwF are those of GRID with the highest ACC on seed 100, which is none of the
table's, for each stream and scenario anew; of equals the smallest. Nothing else was tuned. Replay of all kinds keeps
100 examples in all (GEM and A-GEM 20 of each experience); GDumb makes as many steps as the others. It can be stopped
and started again. scikit-learn is in the extra `test`.
"""

import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Annotated

import torch
import typer

from everlearn.config import show
from everlearn.data.streams import class_incremental, domain_incremental, experience, task_incremental
from everlearn.errors import ConfigError
from everlearn.examples import Example, Message
from everlearn.fold import Run, Settings, run
from everlearn.grid.standings import values
from everlearn.learner import Learner
from everlearn.method import Method, chain
from everlearn.methods.anchors import EWC
from everlearn.methods.dark_replay import DERPP
from everlearn.methods.distillation import LwF
from everlearn.methods.gdumb import GDumb
from everlearn.methods.importance import SI
from everlearn.methods.projection import AGEM, GEM
from everlearn.methods.replay import SpacedReplay
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.schedules import Schedule
from everlearn.progress import Bars
from everlearn.randomness import permutation
from everlearn.references import joint
from everlearn.run_folder import RunFolder
from everlearn.statistics import mean_over_seeds, paired_t
from everlearn.types import Experience, Progress, Stream
from recipes.digits_network import PIXELS, AllRight, digits_folder
from recipes.intervals import interval, measured
from recipes.pages import publish

Digit = tuple[tuple[int, ...], int]
"""Grey values in 0..16, row by row, and the class."""

KINDS, SCENARIOS = ("split", "permuted"), ("task", "domain", "class")
EPOCHS, LONG = 4, 16
SETTINGS = (*product(KINDS, SCENARIOS, (EPOCHS,)), ("split", "class", LONG))
"""Streams, scenarios and epochs; the last one shows what four times as much training changes."""
PARTS, TESTS = 5, 360
SHARE = {"split": (1437, TESTS), "permuted": (288, 100)}
"""Rows for training and for the test: of all experiences together where split, of each where permuted."""
RECIPE = Recipe(
    AdamW(learning_rate=1e-3, clip=None),
    Schedule("constant", warmup=0.0),
    epochs=EPOCHS,
    batch_size=16,
    length=80,
    tokens=1 << 15,
)
GRID: Mapping[str, tuple[Callable[[float], Method], tuple[float, ...]]] = {
    "ewc": (lambda strength: EWC(strength), (1e3, 1e4, 1e5, 1e6)),
    "si": (lambda strength: SI(strength), (0.1, 1.0, 10.0, 100.0)),
    "lwf": (lambda strength: LwF(strength), (0.25, 1.0, 4.0, 16.0)),
}
SWEPT = 100
"""The seed of the sweep."""
FIXED: Mapping[str, Method] = {
    "er": SpacedReplay(rows=16, capacity=100),
    "derpp": DERPP(rows=16, capacity=100),
    "gem": GEM(kept=20, side="update"),
    "gem-paper": GEM(kept=20, side="grad"),
    "agem": AGEM(kept=20, drawn=16, side="update"),
    "agem-paper": AGEM(kept=20, drawn=16, side="grad"),
    "gdumb": GDumb(capacity=100),
}


def digits_stream(kind: str, scenario: str, seed: int) -> Stream:
    """A stream of five experiences.

    Args:
        kind: "split" or "permuted".
        scenario: "task", "domain" or "class".
        seed: draws the rows and the permutations.
    """
    drawn = [digits()[i] for i in permutation(len(digits()), seed, "rows")]
    train, test = drawn[TESTS:], drawn[:TESTS]
    parts = [
        _experience(kind, scenario, part, seed, train[: SHARE[kind][0]], test[: SHARE[kind][1]])
        for part in range(PARTS)
    ]
    make = {"task": task_incremental, "domain": domain_incremental, "class": class_incremental}[scenario]
    return make(parts, f"{kind}-{scenario}")


def digits_learner(stream: Stream, method: Method, seed: int, out: Path, epochs: int = EPOCHS) -> Learner:
    """The network with first weights of its own for each seed; it is made where it is not there yet.

    Args:
        stream: what it is to learn.
        method: what fights forgetting.
        seed: of everything.
        out: the folder of all runs.
        epochs: passes over an experience; GDumb's are over its buffer, and as many steps.
    """
    tasks = {f"task{number}": e.labels for number, e in enumerate(stream, start=1)}
    model = digits_folder(out / "models" / f"{stream.name}-{seed}", tasks, stream.scenario == "task", seed)
    passes = round(epochs * 15 / 4) if isinstance(method, GDumb) else epochs  # 100 rows and not 288
    return Learner(str(model), method, replace(RECIPE, epochs=passes), seed, dtype="float32", device="cpu")


def learned(learner: Learner, stream: Stream, folder: Path, progress: Progress) -> dict[str, float]:
    """A run's measures; what is done is not done again.

    Args:
        learner: how to learn.
        stream: what is learned.
        folder: of the run; one that is called "joint-..." learns all at once.
        progress: who wants to know how far it is.
    """
    if folder.name.startswith("joint-"):
        row = joint(learner, stream, folder, progress)
        found = {"accuracy": fmean(score or 0.0 for score in row.scores)}
    else:
        if not _finished(folder, len(stream)):
            run(learner, stream, folder, Settings(suite=(), checkpoint_every=60.0), progress)
        found = values(Run(folder).matrix)
    return found | {"minutes": sum(r["seconds"] for r in RunFolder(folder).metrics() if "seconds" in r) / 60}


def swept(kind: str, scenario: str, epochs: int, out: Path, progress: Progress) -> dict[str, dict[float, float]]:
    """ACC of each strength of each method of GRID on the seed of the sweep."""
    stream, place = digits_stream(kind, scenario, SWEPT), _folder(out, kind, scenario, epochs)
    found: dict[str, dict[float, float]] = {name: {} for name in GRID}
    for name, (make, strengths) in GRID.items():
        for strength in strengths:
            learner = digits_learner(stream, make(strength), SWEPT, out, epochs)
            run = place / f"{name}-{strength:g}-{SWEPT}"
            found[name][strength] = learned(learner, stream, run, progress)["accuracy"]
    return found


def _folder(out: Path, kind: str, scenario: str, epochs: int) -> Path:
    return out / (f"{kind}-{scenario}" if epochs == EPOCHS else f"{kind}-{scenario}-{epochs}")


def methods(sweep: Mapping[str, Mapping[float, float]]) -> dict[str, Method]:
    """All methods by name, with the strengths that a sweep has found best."""
    best = {name: max(sorted(found), key=found.__getitem__) for name, found in sweep.items()}
    tuned = {name: GRID[name][0](strength) for name, strength in best.items()}
    return {"none": chain(), "joint": chain(), **tuned, **FIXED}


def main(
    out: Annotated[Path, typer.Option(help="Where the runs are kept.")] = Path("runs/digits"),
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 5,
    quick: Annotated[bool, typer.Option(help="One seed, split digits, no sweep: strengths 1e4, 10, 1.")] = False,
) -> None:
    """Run the comparison, and write its table beside this file; the quick form prints ACC alone."""
    with Bars() as bars:
        if quick:
            fixed = methods({"ewc": {1e4: 0.0}, "si": {10.0: 0.0}, "lwf": {1.0: 0.0}})
            pages = [_page(("split", scenario, EPOCHS), fixed, range(1), out, bars) for scenario in SCENARIOS]
        else:
            pages = list(_pages(range(seeds), out, bars))
    if quick:
        typer.echo("\n".join(pages))
        return
    publish(Path(__file__).with_suffix(".md"), "\n".join([_heading(seeds), *pages]))


def _pages(seeds: Sequence[int], out: Path, progress: Progress) -> Iterator[str]:
    for done, setting in enumerate(SETTINGS):
        progress.update("settings", done, len(SETTINGS), ", ".join(map(str, setting)))
        sweep = swept(*setting, out, progress)
        yield _page(setting, methods(sweep), seeds, out, progress) + _sweep(sweep)
    progress.update("settings", len(SETTINGS), len(SETTINGS))


def _page(
    setting: tuple[str, str, int], asked: Mapping[str, Method], seeds: Sequence[int], out: Path, progress: Progress
) -> str:
    """The table of a stream and a scenario."""
    kind, scenario, epochs = setting
    found: dict[str, list[dict[str, float]]] = {name: [] for name in asked}
    for done, (seed, name) in enumerate(product(seeds, asked)):
        progress.update(f"{kind}, {scenario}", done, len(seeds) * len(asked), f"{name}, seed {seed}")
        stream = digits_stream(kind, scenario, seed)
        learner, run = digits_learner(stream, asked[name], seed, out, epochs), _folder(out, *setting) / f"{name}-{seed}"
        found[name].append(learned(learner, stream, run, progress))
    progress.update(f"{kind}, {scenario}", len(seeds) * len(asked), len(seeds) * len(asked))
    tests = sum(len(e.test) for e in digits_stream(kind, scenario, 0))
    longer = "" if epochs == EPOCHS else f", {epochs} epochs"
    lines = [f"## {kind.capitalize()}, {scenario}-incremental{longer}", "", f"{tests} test items a seed.", ""]
    lines += ["| | ACC | learning accuracy | forgetting | ACC - none | p | minutes |", "|---" * 7 + "|"]
    for name, each in found.items():
        gains = [a["accuracy"] - b["accuracy"] for a, b in zip(each, found["none"], strict=True)]
        p = paired_t(mean_over_seeds(gains)) if name != "none" else None
        cells = [measured(each, key) for key in ("accuracy", "learning_accuracy", "forgetting_chaudhry")]
        cells += [interval(gains) if name != "none" else "-", "-" if p is None else f"{p:.1g}"]
        cells += [f"{fmean(one['minutes'] for one in each):.2f}"]
        lines.append(f"| {name}: `{show(asked[name])}` | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _sweep(sweep: Mapping[str, Mapping[float, float]]) -> str:
    lines = [f"ACC by strength on seed {SWEPT}, in percent:", ""]
    for name, found in sweep.items():
        lines.append(f"- {name}: " + ", ".join(f"{strength:g} {100 * acc:.1f}" for strength, acc in found.items()))
    return "\n".join(["", *lines, ""])


def _heading(seeds: int) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("everlearn", "torch", "transformers", "scikit-learn"))
    return "\n".join(
        [
            "# Split and permuted digits",
            "",
            f"`python -m recipes.digits --seeds {seeds}`; {packages}, Python {platform.python_version()}, "
            f"{torch.get_num_threads()} thread. `{show(RECIPE)}` (GDumb: 15 epochs of its buffer, as many steps; "
            "16 and 60 in the last table).",
            "",
            f"Percent and points, mean [95 % t-interval] over the seeds 0 to {seeds - 1}, each with its own weights "
            "and rows; p of the paired t-test over seeds, not corrected for the number of comparisons. "
            "Minutes inside optimiser steps, a run.",
            "",
        ]
    )


@cache
def digits() -> tuple[Digit, ...]:
    """All images of the bundled set.

    Raises:
        ConfigError: if scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ConfigError("the digits come with scikit-learn, which is missing: pip install scikit-learn.") from error
    found = load_digits()
    return tuple((tuple(map(int, x)), int(y)) for x, y in zip(found.data, found.target, strict=True))


def _experience(
    kind: str, scenario: str, part: int, seed: int, train: Sequence[Digit], test: Sequence[Digit]
) -> Experience:
    """Digits 2 part and 2 part + 1 where split; all digits with their pixels in an order of its own where permuted."""
    digits = (2 * part, 2 * part + 1) if kind == "split" else tuple(range(10))
    order = range(PIXELS) if kind == "split" else permutation(PIXELS, seed, "pixels", part)
    if kind == "split":
        names = ("first", "second") if scenario == "domain" else tuple(f"digit{digit}" for digit in digits)
    else:
        names = tuple(f"digit{digit}" if scenario == "domain" else f"digit{digit}of{part + 1}" for digit in digits)
    answers, named = dict(zip(digits, names, strict=True)), f" task{part + 1}" if scenario == "task" else ""

    def rows(of: Sequence[Digit]) -> list[Example]:
        found = ((" ".join(str(image[i]) for i in order) + named, answers[y]) for image, y in of if y in answers)
        return [Example(messages=(Message("user", x), Message("assistant", answer))) for x, answer in found]

    return experience(f"{kind}-{part + 1}", rows(train), rows(test), (), AllRight(), names)


def _finished(folder: Path, experiences: int) -> bool:
    return (folder / "matrix.json").exists() and Run(folder).matrix.learned == experiences


if __name__ == "__main__":
    try:
        typer.run(main)
    except ConfigError as error:
        sys.exit(str(error))
