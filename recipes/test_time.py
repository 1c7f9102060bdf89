"""Test-time reinforcement learning in two regimes (arXiv:2504.16084): the majority is right, and the majority is wrong.

The embedded model learns from a few labelled rows which of two numbers is larger. Then it adapts to prompts that
nobody has answered, by the majority of its own answers, in one of two regimes:

- `right`: the same question about other numbers, which most of its answers get right;
- `wrong`: which of two is *smaller*. It goes on naming the larger one in most of its answers, and the majority with it.

Each regime is adapted to in four ways: `probe`, which labelled items stop, and whose weights are those with which they
went best (`ttrl`); `blind`, without a probe, to the end; `form`, the control that is rewarded for any number
(`format_only`); and `oracle`, rewarded for the right answer, an upper bound that no unlabelled prompt allows. Prompts,
probe and held-out items are disjoint; the table is of the held-out items.

    python -m recipes.test_time --out runs/test_time --workers 2   # all of it, and the table
    python -m recipes.test_time --quick                            # one seed, few prompts, no sweep, no table

A seed draws the numbers, the adapters and every attempt. The learning rate is the one with which `blind` ends
best in `right`, on seeds that are none of the table's. What is done is not done again.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate, combinations, pairwise, product
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer

from everlearn.adaptation import TTRL, Measured, format_only, measure, ttrl
from everlearn.config import show
from everlearn.errors import Interrupted
from everlearn.examples import Example, Message
from everlearn.files import read_json, write_json
from everlearn.learner import Learner, learn
from everlearn.methods.adapters import LoRA
from everlearn.metrics.text import ExactMatch
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.sampling import Sampling
from everlearn.models.schedules import Schedule
from everlearn.objectives.next_token import NextToken
from everlearn.objectives.policy_gradient import PolicyGradient
from everlearn.objectives.rollouts import SingleTurn
from everlearn.progress import Bars
from everlearn.randomness import generator, permutation
from everlearn.rewards.extraction import Number
from everlearn.rewards.numbers import NumericEqual, SameNumber
from everlearn.rewards.votes import MajorityVote
from everlearn.types import Experience, Progress, State
from everlearn.watch import Watch
from recipes.deadline import Until
from recipes.intervals import interval, measured
from recipes.pages import publish
from recipes.several import several

REGIMES = ("right", "wrong")
WAYS = ("probe", "blind", "form", "oracle")
VOTE = MajorityVote(extract=Number(), equality=SameNumber())
ATTEMPTS = SingleTurn(Sampling(limit=8))
VOTED = PolicyGradient(VOTE, group=32, learned=16, scale="group", rollout=ATTEMPTS)
LABELLED = Recipe(AdamW(learning_rate=1e-3), Schedule("constant", warmup=0.1), epochs=1, batch_size=8)
ADAPTING = Recipe(schedule=Schedule("constant", warmup=0.1), epochs=3, batch_size=8)
RATES, SWEPT = (3e-5, 1e-4, 3e-4), (100, 101)
"""Learning rates of the sweep, and its seeds."""
GUARDED = TTRL(every=4, margin=0.1, samples=16)


@dataclass(frozen=True)
class Size:
    """How many rows there are.

    Args:
        labelled: rows that are learned from with their answers.
        prompts: that are adapted to.
        probe: labelled items that stop it.
        held_out: items that are reported.
    """

    labelled: int = 48
    prompts: int = 64
    probe: int = 24
    held_out: int = 64


def questions(regime: str, seed: int) -> list[Example]:
    """A regime's question about all pairs of numbers, with the right answers, in an order that the seed draws.

    Args:
        regime: of REGIMES.
        seed: of the order, and of which number comes first; the pairs' order is the same in both regimes.
    """
    pairs = list(combinations(range(10, 100), 2))
    swap = torch.randint(2, (len(pairs),), generator=generator(seed, "which comes first")).tolist()
    return [_question(regime, pairs[i], bool(swap[i])) for i in permutation(len(pairs), seed, "questions")]


def _question(regime: str, pair: tuple[int, int], swap: bool) -> Example:
    first, second = reversed(pair) if swap else pair
    asked, right = ("larger", max(pair)) if regime == "right" else ("smaller", min(pair))
    text = f"Which is {asked}, {first} or {second}?"
    return Example(messages=(Message("user", text), Message("assistant", str(right))))


@dataclass(frozen=True)
class Setting:
    """A seed's rows, all disjoint, and its warm start.

    Args:
        seed: of everything.
        size: how many rows there are.
    """

    seed: int
    size: Size

    def learner(self, recipe: Recipe) -> Learner:
        """The embedded model with adapters."""
        return Learner("embedded", LoRA(rank=8), recipe, self.seed)

    @cached_property
    def begun(self) -> State:
        """The version that knows a little."""
        rows, learner = questions("right", self.seed)[: self.size.labelled], self.learner(LABELLED)
        model = learner.open()
        return learn(
            learner, model, learner.start(model), Experience("labelled", rows, rows[:1], NextToken(), ExactMatch())
        )

    def experience(self, regime: str) -> Experience:
        """What is adapted to: prompts, whose answers the vote does not see, the probe, and the held-out items."""
        rows = questions(regime, self.seed)[self.size.labelled :]
        ends = accumulate((self.size.prompts, self.size.probe, self.size.held_out))
        prompts, probe, held_out = (rows[start:end] for start, end in pairwise((0, *ends)))
        return Experience(regime, prompts, held_out, VOTED, ExactMatch(), validation=probe)


def adapted(place: Setting, regime: str, way: str, rate: float) -> dict[str, Any]:
    """What a run has come to.

    Args:
        place: the seed's rows.
        regime: of REGIMES.
        way: of WAYS.
        rate: the learning rate.
    """
    learner = place.learner(replace(ADAPTING, optimiser=AdamW(learning_rate=rate)))
    experience = place.experience(regime)
    if way in ("probe", "form"):
        adapt = ttrl if way == "probe" else format_only
        found = adapt(learner, place.begun, experience, GUARDED)
        return _row(found.before, found.after, found.log) | {"ended": found.ended[0]}
    if way == "oracle":
        experience = replace(experience, objective=replace(VOTED, reward=NumericEqual()))
    model, log = learner.restore(learner.open(), place.begun), list[Mapping[str, Any]]()
    before = measure(model, experience, VOTE, GUARDED.samples, learner.seed)
    learn(learner, model, place.begun, experience, Watch(log=log.append))
    return _row(before, measure(model, experience, VOTE, GUARDED.samples, learner.seed), log) | {"ended": "done"}


def _row(before: Measured, after: Measured, log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    ratios = [row["notes"]["majority ratio"] for row in log if "majority ratio" in row.get("notes", {})]
    ends = {"ratio": ratios[0], "ratio after": ratios[-1]} if ratios else {}
    return {**_scores("", before), **_scores(" after", after), **ends}


def _scores(when: str, found: Measured) -> dict[str, float]:
    return {f"{name}{when}": value for name, value in asdict(found).items()}


Runs = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]


Cell = tuple[int, str, str, float]
"""A run: its seed, regime, way and learning rate."""


@dataclass(frozen=True)
class Study:
    """All runs of a folder.

    Args:
        out: the folder; what is done is not done again.
        size: how many rows there are.
        workers: runs at a time.
    """

    out: Path
    size: Size
    workers: int = 1

    def found(self, cell: Cell, progress: Progress) -> Mapping[str, Any]:
        """What a run has come to; one that is done is read."""
        seed, regime, way, rate = cell
        file = self.out / f"{regime}-{way}-{rate:g}-{seed}.json"
        if not file.exists():
            progress.update("run", 0, 1, file.stem)
            write_json(file, adapted(_place(seed, self.size), regime, way, rate))
            progress.update("run", 1, 1, file.stem)
        return read_json(file)

    def made(self, plan: Sequence[Cell], until: Until) -> list[Mapping[str, Any]]:
        """What runs have come to."""
        several(self.found, plan, self.workers, until)
        return [self.found(cell, until) for cell in plan]

    def swept(self, until: Until) -> dict[float, float]:
        """mean@16 after `right` was adapted to without a probe, by learning rate."""
        found = self.made([(seed, "right", "blind", rate) for rate, seed in product(RATES, SWEPT)], until)
        runs = dict(zip(product(RATES, SWEPT), found, strict=True))
        return {rate: fmean(runs[rate, seed]["attempts after"] for seed in SWEPT) for rate in RATES}

    def all(self, seeds: Sequence[int], rate: float, until: Until) -> Runs:
        """Those of the table, by regime and way."""
        plan = [(seed, regime, way, rate) for seed, regime, way in product(seeds, REGIMES, WAYS)]
        found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for (_, regime, way, _), run in zip(plan, self.made(plan, until), strict=True):
            found.setdefault((regime, way), []).append(run)
        return found


@lru_cache(maxsize=1)
def _place(seed: int, size: Size) -> Setting:
    """The seed that was asked for last, with its warm start."""
    return Setting(seed, size)


def page(found: Runs, seeds: Sequence[int], size: Size) -> str:
    """The table as Markdown."""
    lines = [
        "# Test-time reinforcement learning in two regimes",
        "",
        f"`python -m recipes.test_time --seeds {len(seeds)}`; SmolLM2-135M-Instruct after {size.labelled} labelled "
        f"rows; {size.prompts} prompts, a probe of {size.probe}, {size.held_out} held-out items a seed; "
        f"mean [95 % t-interval] over {len(seeds)} seeds, percent.",
        "",
        f"`{show(VOTED)}`",
        "",
        f"`{show(GUARDED)}`",
        "",
        "mean@16: of what the model draws; maj@16: of the majority among it; answer: the likeliest one. Majority",
        "ratio: of the first and of the last step, on the prompts.",
        "",
        "| regime | way | mean@16 | after | maj@16 | after | answer | after | majority ratio | after | ended |",
        "|---" * 11 + "|",
    ]
    for (regime, way), runs in found.items():
        cells = [
            measured(runs, f"{name}{when}")
            for name in ("attempts", "majority", "answers", "ratio")
            for when in ("", " after")
        ]
        ended = Counter(str(run["ended"]) for run in runs)
        cells.append(", ".join(f"{why} {count}" for why, count in ended.items()))
        lines.append(f"| {regime} | {way} | " + " | ".join(cells) + " |")
    lines += ["", "What the ways have changed in mean@16, and mean@16 after less maj@16 before, in points:", ""]
    for (regime, way), runs in found.items():
        gain = interval([run["attempts after"] - run["attempts"] for run in runs])
        past = interval([run["attempts after"] - run["majority"] for run in runs])
        lines.append(f"- {regime}, {way}: {gain}; {past}")
    return "\n".join([*lines, ""])


def main(
    out: Annotated[Path, typer.Option(help="Where the runs are kept.")] = Path("runs/test_time"),
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 5,
    prompts: Annotated[int, typer.Option(help="Prompts that are adapted to.")] = Size.prompts,
    workers: Annotated[int, typer.Option(help="Runs at a time.")] = 1,
    hours: Annotated[float | None, typer.Option(help="Stop after so many, to go on another day.")] = None,
    quick: Annotated[bool, typer.Option(help="One seed, few rows; the table is printed alone.")] = False,
) -> None:
    """Run what is missing, and write the table beside this file."""
    size = Size(16, 8, 8, 8) if quick else Size(prompts=prompts)
    study, chosen = Study(out / "quick" if quick else out, size, workers), range(1 if quick else seeds)
    with Bars() as bars:
        until = Until(bars, hours)
        swept = {1e-4: 0.0} if quick else study.swept(until)
        rate = max(swept, key=swept.__getitem__)
        text = page(study.all(chosen, rate, until), chosen, size)
    if quick:
        typer.echo(text)
        return
    text += f"\nLearning rate {rate:g}: mean@16 after `right`, `blind` on the seeds {SWEPT} was "
    text += ", ".join(f"{100 * score:.1f} at {one:g}" for one, score in swept.items()) + ".\n"
    publish(Path(__file__).with_suffix(".md"), text)


if __name__ == "__main__":
    try:
        typer.run(main)
    except Interrupted as stopped:
        sys.exit(str(stopped))
