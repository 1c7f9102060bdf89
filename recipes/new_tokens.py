"""Warm starts against random ones: a vocabulary grown by 1,000 items, and the steps to equal loss.

Items are articles of DBpedia. Of each the first words after the title are read in training, and the words after those
in validation; the answer is the item, one new token among fifty thousand. A catalogue gives each item its title as the
description, and its topic and the words of its title as metadata. Some items are known before, learned from the same
rows in every arm, so that "similar" has something to be similar to; then the others join, each arm with its own start.
New rows alone learn, so that the loss shows nothing but them.

    python -m recipes.new_tokens --data path/to/mtl15 --out runs/new_tokens --workers 2    # all of it, and the table
    python -m recipes.new_tokens --data path/to/mtl15 --quick                  # few items, one seed, no table

A seed draws the articles and all randomness inside the runs. Nothing was tuned. It can be stopped and started again;
--items, --known, --epochs and --seeds make it larger. An arm reaches another's loss where its validation first falls to
the lowest that the other has; what it never reaches is left out of the mean, and counted.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Annotated

import torch
import typer

from everlearn.config import show
from everlearn.data.sources import read
from everlearn.errors import ConfigError, Interrupted
from everlearn.examples import Example, Message
from everlearn.files import write_atomic
from everlearn.fold import Run, Settings, run
from everlearn.learner import Learner
from everlearn.method import Context
from everlearn.methods.vocabulary import GrowVocabulary
from everlearn.metrics.likelihood import TokenAccuracy
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.schedules import Schedule
from everlearn.objectives.next_token import NextToken
from everlearn.progress import Bars
from everlearn.randomness import permutation
from everlearn.types import Experience, Progress, Stream
from recipes.deadline import Until
from recipes.intervals import interval
from recipes.pages import publish
from recipes.several import several

ARMS: Mapping[str, Mapping[str, object]] = {
    "random": {"warm": "random"},
    "mean": {"warm": "mean"},
    "pieces": {"warm": "pieces"},
    "similar": {"warm": "similar"},
}
RECIPE = Recipe(
    AdamW(learning_rate=3e-3), Schedule("constant", warmup=0.0), batch_size=16, length=128, validations=4, patience=9999
)
SHORT, TESTS, VALIDATION = 6, 8, 100
"""Words of the shortest half that is taken; test rows, which are no part of the table; validation rows."""
ASKED = "Which item is this?"


@dataclass(frozen=True)
class Size:
    """How large the study is.

    Args:
        items: that join in the second experience.
        known: that are learned before.
        epochs: over each.
        words: of each half of a text, at most.
    """

    items: int = 1000
    known: int = 200
    epochs: int = 2
    words: int = 10


@dataclass(frozen=True)
class Article:
    """A title, a topic, and the words that follow the title."""

    title: str
    topic: str
    words: tuple[str, ...]


@lru_cache(maxsize=1)
def articles(data: Path) -> list[Article]:
    """DBpedia's articles with words enough for two halves, each title once.

    Raises:
        ConfigError: if the data are not there.
    """
    files = [data / "TC" / "dbpedia" / f"{part}.json" for part in ("train", "test")]
    if not all(file.is_file() for file in files):
        raise ConfigError(f"{data} holds no TC/dbpedia/train.json and test.json; give the folder mtl15.")
    layout, found = {"prompt": "sentence", "response": "label"}, dict[str, Article]()
    for row in (row for file in files for row in read(file, layout).examples):
        _, _, text = row.prompt[-1].content.partition("Title: ")
        title, _, body = text.partition("\nText:")
        words = tuple(body.replace(title.strip(), "it").split())
        if len(words) >= 2 * SHORT:
            found.setdefault(title.strip(), Article(title.strip(), row.response.strip(), words))
    return list(found.values())


def item_stream(found: Sequence[Article], seed: int, size: Size, folder: Path) -> Stream:
    """Two experiences, "known" and "new", and their catalogue in `folder`.

    Raises:
        ConfigError: if there are too few articles.
    """
    count = size.known + size.items
    if len(found) < count:
        raise ConfigError(f"there are {len(found)} articles for {count} items; ask for fewer.")
    drawn = [found[i] for i in permutation(len(found), seed, "articles")[:count]]
    rows = [
        {
            "token": f"<item_{i}>",
            "description": f"{a.title}, {a.topic}",
            "metadata": {"topic": a.topic, "word": a.title.lower().split()},
            "joins": "known" if i < size.known else "new",
        }
        for i, a in enumerate(drawn)
    ]
    write_atomic(folder / "catalogue.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    halves = [_halves(a, i, size.words) for i, a in enumerate(drawn)]
    parts = halves[: size.known], halves[size.known :]
    return Stream(tuple(_experience(n, part) for n, part in zip(("known", "new"), parts, strict=True)), name="items")


def _halves(article: Article, number: int, words: int) -> tuple[Example, Example]:
    middle = min(words, len(article.words) // 2)
    texts = article.words[:middle], article.words[middle : middle + words]
    one, other = (
        Example(
            messages=(
                Message("system", ASKED),
                Message("user", " ".join(text)),
                Message("assistant", f"<item_{number}>"),
            )
        )
        for text in texts
    )
    return one, other


def _experience(name: str, halves: Sequence[tuple[Example, Example]]) -> Experience:
    train, asked = tuple(one for one, _ in halves), tuple(other for _, other in halves)
    validation = asked[TESTS : TESTS + VALIDATION]
    return Experience(name, train, asked[:TESTS], NextToken(), TokenAccuracy(), validation)


def method_of(arm: str, catalogue: Path) -> GrowVocabulary:
    """The arm's method: the last tokens that joined learn alone."""
    plain = GrowVocabulary(catalogue=str(catalogue.resolve()), trains="last")
    return replace(plain, **ARMS[arm])  # type: ignore[arg-type]


@dataclass(frozen=True)
class Curve:
    """An arm's validation loss, in nats per token of the answer (the item and the end of the turn).

    Args:
        start: before the new items learn.
        steps: of each validation.
        losses: at each.
        seconds: inside optimiser steps of the second experience.
    """

    start: float
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    seconds: float

    def reaches(self, loss: float) -> int | None:
        """The first step whose loss is no higher, 0 for the start; None if there is none."""
        if self.start <= loss:
            return 0
        return next((step for step, own in zip(self.steps, self.losses, strict=True) if own <= loss), None)


def curve(cell: tuple[int, str], progress: Progress, data: Path, size: Size, out: Path) -> Curve:
    """The curve of a seed's arm; what is done is not done again."""
    (seed, arm), found = cell, articles(data)
    place = out / f"{size.known}-{size.items}-{size.epochs}-{size.words}" / f"seed-{seed}"
    stream, method = item_stream(found, seed, size, place), method_of(arm, place / "catalogue.jsonl")
    learner = Learner("embedded", method, replace(RECIPE, epochs=size.epochs), seed)
    folder = place / arm.replace(" ", "-")
    settings = Settings(suite=(), scored="last", scores=place / "scores")
    if not (folder / "matrix.json").exists() or Run(folder).matrix.learned < len(stream):
        run(learner, stream, folder, settings, progress)
    rows = [row for row in Run(folder).files.metrics() if row["experience"] == "new"]
    asked = [(row["step"], row["validation"]) for row in rows if "validation" in row]
    steps, losses = zip(*asked, strict=True)
    return Curve(_start(learner, stream, folder), steps, losses, sum(row.get("seconds", 0.0) for row in rows))


def _start(learner: Learner, stream: Stream, folder: Path) -> float:
    """The loss with first rows; that old logits are the same to the bit is made sure of on the way."""
    file = folder / "start.json"
    if not file.exists():
        files, method = Run(folder).files, learner.method
        first = next(e.version for e in files.events() if e.experience == "known")
        state, model = files.versions.get(first), learner.open()
        learner.restore(model, state)
        ctx = Context(model, stream.experiences[1], seed=learner.seed, seen=1, place=(0,))
        memory, before = method.begin(state.memory[0], ctx), _old_logits(model)
        method.params(memory, model)
        if not torch.equal(_old_logits(model)[..., : before.shape[-1]], before):
            raise AssertionError("logits of old tokens have changed before training")
        write_atomic(file, json.dumps(_loss(ctx)))
    return float(json.loads(file.read_text(encoding="utf-8")))


def _old_logits(model: LanguageModel) -> torch.Tensor:
    tokens = torch.tensor([model.tokenizer("A red bicycle stood in the rain.").input_ids], device=model.device)
    with torch.no_grad():
        found: torch.Tensor = model.module(input_ids=tokens).logits
    return found


def _loss(ctx: Context) -> float:
    with torch.no_grad():
        pairs = [(float(ctx.loss(batch)), batch.weight) for batch in ctx.batches(ctx.experience.validation)]
    return sum(loss * weight for loss, weight in pairs) / sum(weight for _, weight in pairs)


def main(
    data: Annotated[Path, typer.Option(help="The folder mtl15.")],
    out: Annotated[Path, typer.Option(help="Where the runs are kept.")] = Path("runs/new_tokens"),
    items: Annotated[int, typer.Option(help="Items that join.")] = 1000,
    known: Annotated[int, typer.Option(help="Items that are known before.")] = 250,
    epochs: Annotated[int, typer.Option(help="Passes over the rows.")] = 2,
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 2,
    workers: Annotated[int, typer.Option(help="Runs at a time.")] = 1,
    hours: Annotated[float | None, typer.Option(help="Stop after so many, to go on another day.")] = None,
    quick: Annotated[bool, typer.Option(help="24 items, 8 known, one seed; prints its table alone.")] = False,
) -> None:
    """Run the comparison, and write its table beside this file."""
    size = Size(24, 8, 1) if quick else Size(items, known, epochs)
    cells = list(product(range(1 if quick else seeds), ARMS))
    make = partial(curve, data=data, size=size, out=out)
    with Bars() as bars:
        until = Until(bars, hours)
        several(make, cells, workers, until)
        curves = {arm: [make((seed, of), until) for seed, of in cells if of == arm] for arm in ARMS}
    page = _page(curves, size)
    if quick:
        typer.echo(page)
        return
    publish(Path(__file__).with_suffix(".md"), page)


def _page(curves: Mapping[str, Sequence[Curve]], size: Size) -> str:
    seeds = len(curves["random"])
    lines = [
        f"# A vocabulary grown by {size.items} items: warm starts against random ones",
        "",
        f"`python -m recipes.new_tokens --data path/to/mtl15 --items {size.items} --known {size.known} "
        f"--epochs {size.epochs} --seeds {seeds}`; everlearn {version('everlearn')}, torch {version('torch')}, "
        f"{torch.get_num_threads()} thread.",
        f"`{show(RECIPE)}`, {size.epochs} epochs; new rows alone learn. Validation loss in nats per token of the",
        f"answer, {min(size.items - TESTS, VALIDATION)} rows a seed; mean [95 % t-interval] over {seeds} seeds.",
        "Logits of old tokens were compared before training in each run, and are the same to the bit.",
        "",
        "| start | loss at first | lowest loss | steps to random's lowest | of random's own steps | minutes |",
        "|---" * 6 + "|",
    ]
    for arm, each in curves.items():
        lowest = [min(other.losses) for other in curves["random"]]
        own = [one.reaches(loss) for one, loss in zip(each, lowest, strict=True)]
        theirs = [one.reaches(loss) or 0 for one, loss in zip(curves["random"], lowest, strict=True)]
        pairs = [(step, other) for step, other in zip(own, theirs, strict=True) if step is not None]
        cells = [interval([one.start for one in each], 1, 2), interval([min(one.losses) for one in each], 1, 2)]
        late = f" ({len(own) - len(pairs)} never)" if len(pairs) < len(own) else ""
        cells.append((interval([float(step) for step, _ in pairs], 1, 0) if pairs else "-") + late)
        cells.append(interval([step / other for step, other in pairs], 1, 2) if pairs else "-")
        lines.append(f"| {arm} | " + " | ".join([*cells, f"{fmean(one.seconds for one in each) / 60:.1f}"]) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    try:
        typer.run(main)
    except (ConfigError, Interrupted) as error:
        sys.exit(str(error))
