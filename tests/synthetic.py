"""Matrices and run folders made of invented outcomes, for what is shown of a run."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from everlearn import ExactMatch, Example, Experience, Learner, Matrix, Message, Method, NextToken, Recipe, Run, Stream
from everlearn.config import dump
from everlearn.files import append_jsonl
from everlearn.matrix import Row
from everlearn.registry.gates import AllOf
from everlearn.run_folder import RunFolder, describe_stream
from everlearn.types import Outcome

NAMES = ("words", "sums", "family", "facts")
ABILITIES = ("knowledge", "grammar", "arithmetic")
PLAIN = ((5, 0, 10, 2), (80, 2, 11, 2), (30, 70, 9, 1), (20, 30, 60, 4), (10, 15, 35, 75))
PROTECTED = ((5, 0, 10, 2), (79, 2, 12, 2), (76, 66, 10, 3), (74, 60, 58, 5), (72, 57, 55, 74))
KNOWING = ((70, 60, 40), (69, 60, 38), (66, 55, 38), (60, 54, 30), (55, 50, 25))
KEEPING = ((70, 60, 40), (70, 60, 41), (69, 60, 39), (70, 58, 40), (69, 59, 40))

Rates = Sequence[Sequence[float]]


def question(name: str, number: int, note: str = "") -> Example:
    """One test item."""
    turns = (Message("user", f"What is the {name} of {number}?{note}"), Message("assistant", f"it is {number}{note}"))
    return Example(messages=turns, origin=name)


def items(name: str, rate: float, n: int, note: str = "") -> list[Outcome]:
    """n items of which `rate` percent are right: always the same ones first, so that versions are alike."""
    order, right = random.Random(name).sample(range(n), n), round(rate * n / 100)
    tests = [question(name, i, note) for i in range(n)]
    return [
        Outcome(test.key, float(place < right), test.response if place < right else f"I would say {place}{note}")
        for test, place in zip(tests, order, strict=True)
    ]


def matrix(
    rates: Rates = PLAIN,
    general: Rates | None = KNOWING,
    repeat: Sequence[float] | None = None,
    n: int = 60,
    note: str = "",
) -> Matrix:
    """R by percent right, row by row from the base model's, with general abilities alike."""
    names, abilities = NAMES[: len(rates[0])], ABILITIES[: len(general[0]) if general else 0]
    rows = [{name: items(name, rate, n, note) for name, rate in zip(names, row, strict=True)} for row in rates]
    known = [{a: items(a, rate, n) for a, rate in zip(abilities, row, strict=True)} for row in general or ()]
    made = Matrix.from_outcomes(names, rows, known[: len(rows)])
    if repeat is None:
        return made
    again = {name: items(name, rate, n, note) for name, rate in zip(names, repeat, strict=True)}
    return replace(made, repeat=Row.from_outcomes(names, again))


def routed_to(made: Matrix, often: str, seldom: str) -> Matrix:
    """The same, its last version taking three prompts of four for one experience and the fourth for another."""
    last = made.rows[-1]
    outcomes = tuple(
        tuple(replace(o, routed=often if i % 4 else seldom, confidence=0.5) for i, o in enumerate(cell))
        for cell in last.outcomes
    )
    return replace(made, rows=(*made.rows[:-1], replace(last, outcomes=outcomes)))


def stream(names: Sequence[str] = NAMES, note: str = "") -> Stream:
    """Experiences with the names, of a few questions each."""
    parts = {name: [question(name, i, note) for i in range(90)] for name in names}
    taught = [Experience(name, rows[60:], rows[:60], NextToken(), ExactMatch()) for name, rows in parts.items()]
    return Stream(tuple(taught), name=f"invented{note}")


def write_run(folder: Path, made: Matrix, method: Method, note: str = "", tests: bool = True) -> Run:
    """The folder that a run would have left: objects, environment, metrics, ledger, matrix and test items."""
    files, learned = RunFolder(folder), stream(made.names, note)
    learner = Learner("embedded", method, Recipe(batch_size=8), seed=3)
    asked = {"learner": dump(learner), "stream": describe_stream(learned), "suite": [], "source": {}}
    asked["gate"] = dump(AllOf(()))
    files.describe(asked, f"invented-model{note}", "cpu float32")
    files.write_matrix(made)
    for example in (example for experience in learned if tests for example in experience.test):
        append_jsonl(folder / "tests.jsonl", example.row())
    noise, parent = random.Random(0), None
    for t, row in enumerate(made.rows):
        name, version = (made.names[t - 1] if t else ""), f"{t}abcdef0123456789"
        for step in range(1, 41 if t else 1):
            numbers = {"loss": 3.0 / step**0.4 + 0.2 * noise.random(), "norm": 1.0, "rate": 1e-3}
            files.log({"experience": name, "step": step} | numbers | {"tokens": 500, "seconds": 0.25})
        scores: Mapping[str, float | None] = dict(zip(made.names, row.scores, strict=True))
        files.ledger.append("commit", version, parent, name, scores, f"kept: {name or 'the base model'}{note}")
        parent = version
    return Run(folder)
