"""Selective language modelling on a noisy corpus: how many tokens less to the same loss on clean text.

Half of the corpus is Wikipedia as it is; of a quarter half of the words are replaced, and of a quarter the words stand
in another order (`recipes.noisy_text`). The base is a small Llama that has read Shakespeare, so that it knows some
English and nothing of the domain. References are trained from the base: one on curated articles that are no part of the
corpus, and one, `self`, on as much of the noisy corpus itself, both for three epochs along a cosine (Rho-1,
arXiv:2404.07965, 3). Then each arm learns the same number of tokens at a constant rate, in passes over its documents:

- `plain`: all of the corpus, all tokens;
- `slm-40`, `slm-60`, `slm-80`: the share of each step's tokens with the highest excess loss over the reference;
- `self`: what loss and entropy of the self-reference both put among the lowest 60 %;
- `documents`: the half of the corpus with the highest `Learnability` by the same reference, all tokens of it;
- `clean`: the clean half, which nobody would know in practice, all tokens of it: what there is to win;
- `added`: plain, on the corpus and the reference's curated text together.

    python -m recipes.noisy_corpus --data path/to/text --out runs/noisy_corpus    # all of it, page and picture
    python -m recipes.noisy_corpus --data path/to/text --quick                    # some steps, one seed, no page

Rates are those of RATES with the lowest loss at the end on seed 100, which has other held-out articles; arms that learn
alike share one, see LIKE. Nothing else was tuned. It can be stopped and started again; a second process with
--backwards and the same folder shares the work. On a larger machine --model embedded (or another) takes the small
Llama's place, and --layers, --width, --tokens, --batch, --length and --seeds make it larger.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from everlearn.errors import ConfigError
from everlearn.examples import Example
from everlearn.files import atomic_folder, lock, read_json, write_atomic, write_json
from everlearn.learner import Learner, learn
from everlearn.method import chain
from everlearn.metrics.likelihood import TokenLikelihood
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe, Schedule
from everlearn.objectives.next_token import NextToken
from everlearn.objectives.selective import Selective
from everlearn.progress import Bars
from everlearn.selecting.choosing import Selection
from everlearn.selecting.criteria import DocumentReader, Learnability
from everlearn.types import Experience, Objective, Progress
from everlearn.watch import Watch
from recipes.noisy_curve import Curve, Probe
from recipes.noisy_page import page, picture
from recipes.noisy_text import OTHER, Parts, articles, held_apart, parts
from recipes.pages import publish
from recipes.small_llama import Shape, small_llama

ARMS = ("plain", "slm-40", "slm-60", "slm-80", "self", "documents", "clean", "added")
RATES, SWEPT = (1e-3, 2e-3, 4e-3), 100
"""Learning rates of the sweep, and its seed."""
LIKE = {"slm-40": "slm-60", "slm-80": "slm-60"} | dict.fromkeys(("documents", "clean", "added"), "plain")
"""Arms that take the rate of another, which learns by the same objective."""
BEFORE, EPOCHS = 2e-3, 3
"""Of the base and of references: peak of the rate, and epochs."""
WARMUP = 0.05
"""Of an arm's tokens in which the rate rises."""
HOURS = 3600.0
"""Seconds that one process waits for a run of the other."""


@dataclass(frozen=True)
class Size:
    """How large the study is.

    Args:
        tokens: that each arm learns.
        batch: rows in a step; all are one forward pass, and tokens are ranked over them.
        length: of a row in tokens; documents have three bytes for each at most.
        asked: held-out documents, and as many of the probe.
        marks: how often the curve is drawn.
        few: most documents that the base and each reference learn; None takes all.
        model: in the small Llama's place; "" takes that.
        shape: of the small Llama.
    """

    tokens: int = 400_000
    batch: int = 8
    length: int = 256
    asked: int = 48
    marks: int = 16
    few: int | None = None
    model: str = ""
    shape: Shape = field(default_factory=Shape)

    @property
    def name(self) -> str:
        """Of its folder."""
        shape = f"{self.shape.layers}x{self.shape.width}"
        return f"{Path(self.model).name or shape}-{self.tokens}-{self.batch}x{self.length}"


@dataclass(frozen=True)
class Study:
    """Where everything is.

    Args:
        data: the folder text/.
        out: of all runs of this size.
        size: how large.
        progress: who wants to know how far it is.
    """

    data: Path
    out: Path
    size: Size
    progress: Progress

    def parts(self, seed: int) -> Parts:
        """The seed's documents."""
        return parts(articles(self.data), seed, seed == SWEPT, 3 * self.size.length, self.size.asked)

    def base(self) -> str:
        """Where all arms begin: one for all seeds."""
        if self.size.model:
            return self.size.model
        other = (self.data / OTHER).read_text(encoding="utf-8")
        _, _, known = held_apart(articles(self.data))  # the tokenizer has seen no held-out article
        texts = [Example(text=other[i : i + 600]) for i in range(0, len(other), 600)]
        with self.alone("base"):
            fresh = small_llama(self.out / "untrained", [other, *known], self.size.shape)
            return self.trained("base", str(fresh), texts, 0)

    def reference(self, seed: int, name: str) -> str:
        """A model trained from the base, by three epochs: "curated", or "self" on as many documents of the corpus."""
        found, base = self.parts(seed), self.base()
        mixed = found.corpus[:: max(1, len(found.corpus) // len(found.curated))][: len(found.curated)]
        with self.alone(f"{name}-{seed}"):
            return self.trained(f"{name}-{seed}", base, found.curated if name == "curated" else mixed, seed)

    def trained(self, name: str, base: str, texts: Sequence[Example], seed: int) -> str:
        """The folder of a model that has learned texts; what is done is not done again."""
        folder = self.out / name
        if not folder.exists():
            recipe = replace(self.recipe(BEFORE), schedule=Schedule(), epochs=EPOCHS)
            learner = self.learner(base, recipe, seed)
            model, rows = learner.open(), texts[: self.size.few]
            told = Watch(progress=self.progress)
            learn(learner, model, learner.start(model), _experience(name, rows, NextToken()), told)
            with atomic_folder(folder) as place:
                model.module.save_pretrained(place)  # type: ignore[operator]
                model.tokenizer.save_pretrained(place)
        return str(folder)

    def recipe(self, rate: float) -> Recipe:
        """A step is one forward pass."""
        batch, length = self.size.batch, self.size.length
        return Recipe(AdamW(learning_rate=rate), batch_size=batch, length=length, tokens=batch * length)

    def learner(self, base: str, recipe: Recipe, seed: int) -> Learner:
        """Full training; a small Llama in full precision."""
        return Learner(base, chain(), recipe, seed, None if self.size.model else "float32")

    def alone(self, name: str) -> AbstractContextManager[None]:
        """Hold what another process may be making."""
        message = f"{name} has been in the making by another process for {HOURS:.0f} s; stop it."
        return lock(self.out / f".{name}.making", HOURS, message)

    def objective(self, arm: str, seed: int) -> Objective:
        """What an arm learns by."""
        kept = str(self.out / "token_losses")
        if arm == "self":
            return Selective(self.reference(seed, "self"), 0.6, "both", folder=kept)
        if arm.startswith("slm-"):
            return Selective(self.reference(seed, "curated"), int(arm[4:]) / 100, folder=kept)
        return NextToken()

    def documents(self, arm: str, seed: int, model: LanguageModel) -> Sequence[Example]:
        """What an arm passes over."""
        found = self.parts(seed)
        if arm == "clean":
            return [e for e in found.corpus if e.metadata["kind"] == "clean"]
        if arm == "added":
            return [*found.corpus, *found.curated]
        if arm == "documents":
            by = (Learnability(self.reference(seed, "curated")),)
            reader = DocumentReader(model, self.size.length)
            return Selection(by, 0.5, quality=None, near=None).choose(found.corpus, reader, self.progress).documents
        return found.corpus


def _experience(name: str, rows: Sequence[Example], objective: Objective) -> Experience:
    return Experience(name, tuple(rows), tuple(rows[:1]), objective, TokenLikelihood())


def learned(study: Study, arm: str, rate: float, seed: int) -> Curve:
    """An arm's curve; what is done is read."""
    file = study.out / "curves" / f"{arm}-{rate:g}-{seed}.json"
    with study.alone(file.stem):
        if not file.exists():
            write_json(file, vars(_learned(study, arm, rate, seed)))
    return Curve(**read_json(file))


def _learned(study: Study, arm: str, rate: float, seed: int) -> Curve:
    size, found, objective = study.size, study.parts(seed), study.objective(arm, seed)
    learner = study.learner(study.base(), study.recipe(rate), seed)
    model = learner.open()
    rows = study.documents(arm, seed, model)
    whole = sum(len(model.encode(e).tokens) for e in rows)
    epochs = -(-size.tokens // whole) + 1  # windows of long documents share tokens: rather one pass too many
    schedule = Schedule("constant", warmup=WARMUP * size.tokens / (epochs * whole))
    learner = replace(learner, recipe=replace(learner.recipe, schedule=schedule, epochs=epochs))
    judge = Selective(study.reference(seed, "curated"), 0.6, folder=str(study.out / "token_losses"))
    probe = Probe(model, found, judge, learner.recipe, size.tokens, size.marks)
    watch = Watch(progress=study.progress, log=probe.log, enough=probe.enough)
    learn(learner, model, learner.start(model), _experience("corpus", rows, objective), watch)
    return probe.curve(rows, objective)


def walked(
    study: Study, plan: Sequence[tuple[str, float, int]], backwards: bool
) -> Iterator[tuple[tuple[str, float, int], Curve]]:
    """The curve of each arm, rate and seed of the plan."""
    for done, one in enumerate(reversed(plan) if backwards else plan):
        study.progress.update("runs", done, len(plan), "{} at {:g}, seed {}".format(*one))
        yield one, learned(study, *one)
    study.progress.update("runs", len(plan), len(plan))


def rates(sweep: Mapping[tuple[str, float], float]) -> dict[str, float]:
    """The rate of each arm: that with the lowest loss of its own or of the arm that it is like; the first of equals.

    Args:
        sweep: the loss at the end by arm and rate.
    """
    best = {}
    for arm in ARMS:
        own = {rate: loss for (other, rate), loss in sweep.items() if other == LIKE.get(arm, arm)}
        best[arm] = min(sorted(own), key=own.__getitem__)
    return best


def main(
    data: Annotated[Path, typer.Option(help="The folder text.")],
    out: Annotated[Path, typer.Option(help="Where models and runs are kept.")] = Path("runs/noisy_corpus"),
    model: Annotated[str, typer.Option(help="In the small Llama's place.")] = "",
    layers: Annotated[int, typer.Option(help="Of the small Llama.")] = 4,
    width: Annotated[int, typer.Option(help="Of the small Llama; a multiple of 64.")] = 128,
    tokens: Annotated[int, typer.Option(help="That each arm learns.")] = 400_000,
    batch: Annotated[int, typer.Option(help="Rows in a step.")] = 8,
    length: Annotated[int, typer.Option(help="Tokens in a row.")] = 256,
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 3,
    backwards: Annotated[bool, typer.Option(help="From the end: a second process beside another.")] = False,
    quick: Annotated[bool, typer.Option(help="Some steps, one seed, no sweep; prints its page alone.")] = False,
) -> None:
    """Run what is missing, and write the page and the picture beside this file."""
    size = Size(tokens, batch, length, model=model, shape=Shape(layers, width, length=2 * length))
    if quick:
        size = Size(6_000, 4, 128, 6, 2, 24, model, Shape(2, 64, 512))
    seeds = 1 if quick else seeds
    with Bars() as bars:
        study = Study(data, out / size.name, size, bars)
        plan = [] if quick else [(a, r, SWEPT) for a, r in product(ARMS, RATES) if a not in LIKE]
        sweep = {(a, r): curve.held_out[-1] for (a, r, _), curve in walked(study, plan, backwards)}
        asked = dict.fromkeys(ARMS, BEFORE) if quick else rates(sweep)
        table = [(arm, asked[arm], seed) for seed, arm in product(range(seeds), ARMS)]
        runs = {(arm, seed): curve for (arm, _, seed), curve in walked(study, table, backwards)}
    found = {arm: [runs[arm, seed] for seed in range(seeds)] for arm in ARMS}
    command = f"--model {model}" if model else f"--layers {layers} --width {width}"
    command += f" --tokens {tokens} --batch {batch} --length {length} --seeds {seeds}"
    written = page(found, asked, sweep, "--quick" if quick else command)
    if quick:
        typer.echo(written)
        return
    file = Path(__file__).with_suffix(".md")
    write_atomic(file.with_suffix(".svg"), picture(found))
    publish(file, written)


if __name__ == "__main__":
    try:
        typer.run(main)
    except ConfigError as error:
        sys.exit(str(error))
