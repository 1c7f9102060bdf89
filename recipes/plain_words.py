"""A preference flywheel on the embedded model, with a preference that it never sees but through pairs.

The hidden scorer likes plain words: the share of an answer's words that have five letters at most. The model answers
questions in a sentence, eight times each; the scorer tells which answers are better; the model learns the pairs, beside
a quarter of those of earlier rounds, and is compared with the version before on questions about other things. Each of
four rounds begins with the version that was kept last. The third one is made harmful on purpose: its pairs are the
wrong way round, as if a log of feedback had been read with its signs swapped. Judge and gate are not told.

    python -m recipes.plain_words --out runs/plain_words --workers 2   # all of it, and the table
    python -m recipes.plain_words --quick                              # one seed, few questions, no table

What is done is not done again.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer

from everlearn.config import show
from everlearn.errors import Interrupted
from everlearn.evaluate import Exam
from everlearn.examples import Example, Message
from everlearn.files import read_json
from everlearn.flywheel import WON, Flywheel, flywheel
from everlearn.learner import Learner
from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.replay import Replay
from everlearn.metrics.likelihood import Choice
from everlearn.metrics.suites import general_suite
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.sampling import Sampling
from everlearn.models.schedules import Schedule
from everlearn.objectives.preference import Preference
from everlearn.objectives.rollouts import SingleTurn
from everlearn.progress import Bars
from everlearn.randomness import permutation
from everlearn.registry.promotion import Promotion
from everlearn.rewards.reward import Answer, Scores
from everlearn.rewards.win_rate import WinRate, win_rate
from everlearn.types import Progress
from recipes.deadline import Until
from recipes.intervals import interval
from recipes.pages import publish
from recipes.several import several

WORDS = """
bridge river lamp song garden clock market window train school forest kitchen letter mountain hospital bicycle
library island farmer winter camera village doctor bottle story festival engine harbour teacher desert painting
museum blanket castle journey dinner shadow factory holiday weather mirror airport theatre jacket meadow thunder
planet carpet soldier basket newspaper umbrella butterfly telescope orchestra vegetable lighthouse calendar elevator
dictionary
"""
THINGS = tuple(WORDS.split())
ASKED = ("What is a {}?", "Why would anyone like a {}?", "Tell me about a {} that you remember.")
ROUNDS, HARMFUL = 4, 3
RECIPE = Recipe(AdamW(learning_rate=2e-4), Schedule("linear", warmup=0.1), epochs=2, batch_size=8)
METHOD = chain(LoRA(rank=8), Replay(fraction=0.25))


@dataclass(frozen=True)
class Plain:
    """The share of an answer's words that have five letters at most; 0 for less than six words.

    Nobody can tell of an answer that was cut.

    Args:
        wanted: whether plain words are liked; else all others.
    """

    wanted: bool = True

    def score(self, example: Example, replies: Sequence[Answer]) -> Scores:
        """See `everlearn.rewards.reward.Reward`."""
        return [self._share(reply.text.split()) if reply.finished else None for reply in replies]

    def _share(self, words: Sequence[str]) -> float:
        if len(words) < 6:
            return 0.0
        return fmean((len(word.strip(".,;:!?\"'()")) <= 5) == self.wanted for word in words)


def wheel(seed: int, things: int, suite: tuple[Exam, ...]) -> Flywheel:
    """The wheel with the hidden preference as its reward.

    Args:
        seed: draws which things are asked about in the rounds, and which in the comparisons.
        things: how many, a third of them for the comparisons.
        suite: what has to be held.
    """
    order = [THINGS[i] for i in permutation(len(THINGS), seed, "things")][:things]
    cut = things - things // 3
    return Flywheel(
        prompts=_questions(order[:cut]),
        held_out=_questions(order[cut:]),
        reward=Plain(),
        judge=Plain(),
        objective=Preference(),
        rollout=SingleTurn(Sampling(limit=48)),
        promotion=Promotion(drop=0.05),
        suite=suite,
    )


def _questions(things: Sequence[str]) -> tuple[Example, ...]:
    texts = [f"{asked.format(thing)} Answer in one sentence." for thing, asked in product(things, ASKED)]
    return tuple(Example(messages=(Message("user", text), Message("assistant", ""))) for text in texts)


def turned(seed: int, progress: Progress, things: int, per_ability: int | None, out: Path) -> list[dict[str, Any]]:
    """All rounds of a seed, and what is to be told of each: rows by measure.

    Args:
        seed: of everything.
        progress: who wants to know how far it is.
        things: see `wheel`.
        per_ability: items of each part of the general suite, which has to be held; None takes all.
        out: the folder of all seeds.
    """
    suite = (Exam("general", general_suite(per_ability=per_ability), Choice()),)
    learner, kind, folder = Learner("embedded", METHOD, RECIPE, seed), wheel(seed, things, suite), out / str(seed)
    for number in range(1, ROUNDS + 1):
        wanted = number != HARMFUL
        events = flywheel(learner, replace(kind, reward=Plain(wanted)), number, folder, progress)
    base, *rounds = events
    found = [{"kept": True, "general": base.scores["general"], "plain": _plain(kind, folder, base.version)}]
    for number, event in enumerate(rounds, start=1):
        over = _over(kind, folder, event.version, base.version)
        pairs = read_json(folder / "rounds" / f"round-{number}.json")["pairs"]
        row = {"kept": event.kind == "commit", "won": event.scores[WON], "over": over.share, "ends": over.interval}
        found.append(
            row
            | {"general": event.scores["general"], "plain": _plain(kind, folder, event.version), "pairs": pairs}
            | {"why": event.reason}
        )
    return found


def _answers(folder: Path, version: str) -> list[Answer]:
    return [Answer(**row) for row in read_json(folder / "answers" / f"{version}.json")]


def _over(kind: Flywheel, folder: Path, version: str, other: str) -> WinRate:
    return win_rate(Plain(), kind.held_out, _answers(folder, version), _answers(folder, other))


def _plain(kind: Flywheel, folder: Path, version: str) -> float:
    answers = _answers(folder, version)
    scores = [Plain().score(e, [answer])[0] for e, answer in zip(kind.held_out, answers, strict=True)]
    return fmean(score for score in scores if score is not None)


def page(found: Mapping[int, Sequence[Mapping[str, Any]]], things: int) -> str:
    """The tables as Markdown."""
    held_out = things // 3 * len(ASKED)
    lines = [
        "# A preference flywheel with a hidden preference",
        "",
        f"`python -m recipes.plain_words --seeds {len(found)}`; SmolLM2-135M-Instruct, `{show(METHOD)}`,",
        f"`{show(RECIPE)}`;",
        f"{(things - things // 3) * len(ASKED)} questions a round, eight answers each, {held_out} held-out ones;",
        f"mean [95 % t-interval] over {len(found)} seeds, percent. Round {HARMFUL} learns from pairs turned round.",
        "",
        "| round | kept | pairs | win rate over the version before | over the start | plain words | general ability |",
        "|---" * 7 + "|",
    ]
    for number, rows in enumerate(zip(*found.values(), strict=True)):
        cells = [f"{sum(row['kept'] for row in rows)} of {len(rows)}"]
        cells.append(f"{fmean(row['pairs'] for row in rows):.0f}" if number else "-")
        cells += [interval([row[name] for row in rows]) if number else "-" for name in ("won", "over")]
        cells += [interval([row[name] for row in rows]) for name in ("plain", "general")]
        lines.append(f"| {number or 'start'} | " + " | ".join(cells) + " |")
    lines += ["", "Win rate over the start, each seed with the 95 % interval of its items, and what the gate said:", ""]
    for seed, rows in found.items():
        for number, row in enumerate(rows[1:], start=1):
            low, high = (100 * end for end in row["ends"])
            lines.append(
                f"- seed {seed}, round {number}: {100 * row['over']:.1f} [{low:.1f}, {high:.1f}]. {row['why']}"
            )
    return "\n".join([*lines, ""])


def main(
    out: Annotated[Path, typer.Option(help="Where the runs are kept.")] = Path("runs/plain_words"),
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 3,
    things: Annotated[int, typer.Option(help="Things that are asked about.")] = len(THINGS),
    workers: Annotated[int, typer.Option(help="Seeds at a time.")] = 1,
    hours: Annotated[float | None, typer.Option(help="Stop after so many, to go on another day.")] = None,
    quick: Annotated[bool, typer.Option(help="One seed, few questions; the table is printed alone.")] = False,
) -> None:
    """Turn what is missing, and write the table beside this file."""
    out, seeds, things = (out / "quick", 1, 9) if quick else (out, seeds, things)
    make = partial(turned, things=things, per_ability=4 if quick else None, out=out)
    with Bars() as bars:
        until = Until(bars, hours)
        several(make, range(seeds), workers, until, "seeds")
        text = page({seed: make(seed, until) for seed in range(seeds)}, things)
    if quick:
        typer.echo(text)
        return
    publish(Path(__file__).with_suffix(".md"), text)


if __name__ == "__main__":
    try:
        typer.run(main)
    except Interrupted as stopped:
        sys.exit(str(stopped))
