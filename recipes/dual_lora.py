"""DualLoRA beside InfLoRA and O-LoRA, class-incremental and without replay, on features of the embedded model.

The topics of DBpedia (14) and AG News (4), two classes an experience in an order that the seed draws, nine experiences.
All classes compete from the start, and nobody is told the experience of a test text.

    python -m recipes.dual_lora --data path/to/mtl15 --out runs/dual_lora     # all of it, and the table
    python -m recipes.dual_lora --data path/to/mtl15 --quick                  # one seed, no sweep, no table

The papers adapt layers of a pre-trained vision transformer under a classifier that learns. Here it is the last
feed-forward block of the embedded model under a classifier (`recipes.feature_network`): its inputs are kept, so that
the model reads each text once, and one token of each text goes on, as a class token does. The other way, the upper
layers of the whole model with its vocabulary as classifier, has a classifier that stands still, and DualLoRA, whose
routed adapters allow no kept activations, would have to run all 30 layers: hours, not minutes.

A seed draws the rows, the classes' order, and all randomness inside the runs. The learning rate of each method is that
of RATES with the highest ACC on seed 100, which is none of the table's; of equals the smallest. Variants of DualLoRA
take DualLoRA's. Nothing else was tuned. It can be stopped and started again.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Annotated

import torch
import typer

from everlearn.config import show
from everlearn.data.streams import class_incremental, split_by_class
from everlearn.errors import ConfigError
from everlearn.examples import Example, Message
from everlearn.fold import Run, Settings, run
from everlearn.grid.standings import values
from everlearn.learner import Learner
from everlearn.method import Method, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.dual import DualLoRA
from everlearn.methods.inflora import InfLoRA
from everlearn.methods.orthogonal import OLoRA
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.schedules import Schedule
from everlearn.progress import Bars
from everlearn.randomness import permutation
from everlearn.references import joint
from everlearn.run_folder import RunFolder
from everlearn.statistics import mean_over_seeds, paired_t
from everlearn.types import Progress, Stream
from recipes.feature_network import LAYERS, Classifier, Texts, feature_folder
from recipes.intervals import interval, measured
from recipes.pages import publish
from recipes.topic_features import Pool, pool

TRAIN, TESTS = 100, 40
"""Rows of each class that a seed draws."""
RECIPE = Recipe(AdamW(), Schedule("constant", warmup=0.0), epochs=5, batch_size=16, length=8, tokens=1 << 14)
RATES, SWEPT = (1e-4, 3e-4, 1e-3, 3e-3), 100
"""Learning rates of the sweep, and its seed."""
METHODS: Mapping[str, Method] = {
    "head": Classifier(alone=True),
    "lora": chain(LoRA(rank=8, targets=LAYERS), Classifier()),
    "olora": chain(OLoRA(rank=8, targets=LAYERS), Classifier()),
    "inflora": chain(InfLoRA(rank=8, targets=LAYERS, experiences=9), Classifier()),
    "duallora": chain(DualLoRA(rank=8, targets=LAYERS), Classifier()),
    "joint": chain(LoRA(rank=8, targets=LAYERS), Classifier()),
}
VARIANTS: Mapping[str, Method] = {
    "duallora, sharpness 100": chain(DualLoRA(rank=8, targets=LAYERS, sharpness=100.0), Classifier()),
    "duallora, residual identity": chain(DualLoRA(rank=8, targets=LAYERS, identity="residual"), Classifier()),
}


def feature_stream(texts: Pool, seed: int) -> Stream:
    """Experiences of two classes each, whose prompts are the names of texts, "text0" and so on."""
    parts: tuple[list[Example], list[Example]] = ([], [])
    for label in sorted(set(texts.labels)):
        own = [i for i, other in enumerate(texts.labels) if other == label]
        drawn = [own[i] for i in permutation(len(own), seed, "rows", label)]
        for part, chosen in zip(parts, (drawn[:TRAIN], drawn[TRAIN : TRAIN + TESTS]), strict=True):
            part += [Example(messages=(Message("user", f"text{i}"), Message("assistant", label))) for i in chosen]
    return class_incremental(split_by_class(*parts, 2, seed, "topics"), f"features-{seed}")


def feature_learner(texts: Pool, stream: Stream, method: Method, rate: float, local: bool, out: Path) -> Learner:
    """The network over the stream's texts; it is made where it is not there yet.

    Args:
        texts: all of them.
        stream: what is learned; its name ends with the seed.
        method: what fights forgetting.
        rate: the learning rate.
        local: whether classes of other experiences do not compete while learning.
        out: the folder of all runs.
    """
    tasks = {e.messages[0].content: task for task, x in enumerate(stream) for e in (*x.train, *x.validation)}
    tasks |= {e.messages[0].content: -1 for x in stream for e in x.test}
    features = texts.features[[int(name.removeprefix("text")) for name in tasks]]
    told = Texts(tuple(tasks), features, tuple(tasks.values()), tuple(x.labels for x in stream), local)
    folder = feature_folder(out / "models" / f"{stream.name}{'' if local else '-all'}", told, texts.block)
    recipe = replace(RECIPE, optimiser=AdamW(learning_rate=rate))
    return Learner(str(folder), method, recipe, int(stream.name.rpartition("-")[2]), dtype="float32", device="cpu")


def learned(texts: Pool, name: str, rate: float, seed: int, out: Path, progress: Progress) -> dict[str, float]:
    """A run's measures, in fractions; what is done is not done again.

    Args:
        texts: see `pool`.
        name: of METHODS or VARIANTS; "joint" learns all at once, and all classes compete.
        rate: the learning rate.
        seed: of everything.
        out: the folder of all runs.
        progress: who wants to know how far it is.
    """
    stream, method = feature_stream(texts, seed), (METHODS | VARIANTS)[name]
    learner = feature_learner(texts, stream, method, rate, name != "joint", out)
    folder = out / stream.name / f"{name.replace(', ', '-').replace(' ', '-')}-{rate:g}"
    if name == "joint":
        found = {"accuracy": fmean(score or 0.0 for score in joint(learner, stream, folder, progress).scores)}
    else:
        if not (folder / "matrix.json").exists() or Run(folder).matrix.learned < len(stream):
            scored = Settings(suite=(), scored="last" if seed == SWEPT else "past", scores=out / stream.name / "scores")
            run(learner, stream, folder, scored, progress)
        matrix = Run(folder).matrix
        found = values(matrix)
        routed = [o.routed == x for i, x in enumerate(matrix.names) for o in matrix.rows[-1].items(i) if o.routed]
        found |= {"routing": fmean(routed)} if routed else {}
    return found | {"minutes": sum(r["seconds"] for r in RunFolder(folder).metrics() if "seconds" in r) / 60}


def swept(texts: Pool, out: Path, progress: Progress) -> dict[str, dict[float, float]]:
    """ACC of each method at each rate on the seed of the sweep."""
    found: dict[str, dict[float, float]] = {name: {} for name in METHODS}
    for done, (name, rate) in enumerate(product(METHODS, RATES)):
        progress.update("sweep", done, len(METHODS) * len(RATES), f"{name} at {rate:g}")
        found[name][rate] = learned(texts, name, rate, SWEPT, out, progress)["accuracy"]
    return found


def rates(sweep: Mapping[str, Mapping[float, float]]) -> dict[str, float]:
    """The best rate of each method, and for the variants DualLoRA's; of equals the smallest."""
    best = {name: max(sorted(found), key=found.__getitem__) for name, found in sweep.items()}
    return best | dict.fromkeys(VARIANTS, best["duallora"])


def main(
    data: Annotated[Path, typer.Option(help="The folder mtl15.")],
    out: Annotated[Path, typer.Option(help="Where features and runs are kept.")] = Path("runs/dual_lora"),
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 5,
    quick: Annotated[bool, typer.Option(help="One seed, no sweep: the rate is 1e-3.")] = False,
) -> None:
    """Run the comparison, and write its table beside this file; the quick form prints its table alone."""
    with Bars() as bars:
        texts = pool(data, out, bars)
        sweep = {} if quick else swept(texts, out, bars)
        asked = dict.fromkeys(METHODS | VARIANTS, 1e-3) if quick else rates(sweep)
        page = _page(texts, asked, range(1 if quick else seeds), out, bars)
    if quick:
        typer.echo(page)
        return
    publish(Path(__file__).with_suffix(".md"), "\n".join([_heading(seeds), page, *_sweep(sweep)]))


def _page(texts: Pool, asked: Mapping[str, float], seeds: Sequence[int], out: Path, progress: Progress) -> str:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in asked}
    for done, (seed, name) in enumerate(product(seeds, asked)):
        progress.update("table", done, len(seeds) * len(asked), f"{name}, seed {seed}")
        found[name].append(learned(texts, name, asked[name], seed, out, progress))
    progress.update("table", len(seeds) * len(asked), len(seeds) * len(asked))
    lines = [
        "| | rate | ACC | learning accuracy | forgetting | routing accuracy | ACC - lora | p | ACC - duallora | p |"
    ]
    lines[0] += " minutes |"
    lines.append("|---" * 11 + "|")
    for name, each in found.items():
        cells = [f"{asked[name]:g}"]
        cells += [measured(each, k) for k in ("accuracy", "learning_accuracy", "forgetting_chaudhry", "routing")]
        for other in ("lora", "duallora"):
            cells += _gains(each, found[other]) if other != name else ["-", "-"]
        lines.append(f"| {name} | " + " | ".join([*cells, f"{fmean(one['minutes'] for one in each):.2f}"]) + " |")
    return "\n".join([*lines, "", *(f"- {name}: `{show((METHODS | VARIANTS)[name])}`" for name in asked), ""])


def _gains(each: Sequence[Mapping[str, float]], others: Sequence[Mapping[str, float]]) -> list[str]:
    gains = [a["accuracy"] - b["accuracy"] for a, b in zip(each, others, strict=True)]
    p = paired_t(mean_over_seeds(gains))
    return [interval(gains), "-" if p is None else f"{p:.1g}"]


def _sweep(sweep: Mapping[str, Mapping[float, float]]) -> Iterator[str]:
    yield from (f"ACC by learning rate on seed {SWEPT}, in percent:", "")
    for name, found in sweep.items():
        yield f"- {name}: " + ", ".join(f"{rate:g} {100 * acc:.1f}" for rate, acc in found.items())
    yield ""


def _heading(seeds: int) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("everlearn", "torch", "transformers"))
    return "\n".join(
        [
            "# DualLoRA beside InfLoRA and O-LoRA on features of the embedded model",
            "",
            f"`python -m recipes.dual_lora --data path/to/mtl15 --seeds {seeds}`; {packages}, "
            f"{torch.get_num_threads()} thread.",
            f"`{show(RECIPE)}`, with the learning rate of the table. 18 topics in nine experiences of two,",
            f"class-incremental, no replay; {TRAIN} rows of each class to learn from (a tenth of them set aside) and",
            f"{TESTS} for the test, so that n = {18 * TESTS} a seed. Chance is 5.6 for ACC and 11.1 for routing.",
            "",
            f"Percent and points, mean [95 % t-interval] over the seeds 0 to {seeds - 1}, each with its own rows and",
            "order of classes; p of the paired t-test over seeds, not corrected for the number of comparisons. Minutes",
            "inside optimiser steps, a run. `joint` learns all classes at once; `head` learns the classifier alone.",
            "",
        ]
    )


if __name__ == "__main__":
    try:
        typer.run(main)
    except ConfigError as error:
        sys.exit(str(error))
