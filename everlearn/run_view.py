"""A run as a report shows it: read from its folder, measured, and set against the first run of the page."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from everlearn.comparison import Comparison, Difference, Flips, NoiseFloor, compare, flips, noise_floor
from everlearn.config import CHAIN, restore, show
from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example
from everlearn.files import read_json, read_jsonl
from everlearn.fold import Run
from everlearn.matrix import Matrix
from everlearn.measures import Measure, cells, routing_accuracy, summary
from everlearn.methods.stability import LOSS_ON

LEARNER = "everlearn.learner:Learner"


@dataclass(frozen=True)
class Cost:
    """What one experience took: optimiser steps, tokens, and seconds inside steps."""

    steps: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class RunView:
    """What a page needs of one run.

    Args:
        name: on the page.
        number: its place on the page, from 0; decides its colour and marker.
        run: the run.
        first: the matrix of the page's first run, which the others are compared with; None for that run itself.
    """

    name: str
    number: int
    run: Run
    first: Matrix | None = None

    @property
    def matrix(self) -> Matrix:
        """R so far."""
        return self.run.matrix

    @cached_property
    def asked(self) -> dict[str, Any]:
        """What the run was asked for."""
        return self.run.files.asked()

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions of packages, commit, device."""
        found: dict[str, Any] = read_json(self.run.folder / "env.json")
        return found

    @property
    def about(self) -> Mapping[str, Mapping[str, Any]]:
        """What is known of each experience, by name."""
        return {experience["name"]: experience for experience in self.asked["stream"]["experiences"]}

    @cached_property
    def learner(self) -> str:
        """The learner as an expression."""
        return expression(self.asked["learner"])

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.asked["learner"][LEARNER]["model"])

    @cached_property
    def method(self) -> str:
        """The method as it is given on the command line, the members of a chain between commas."""
        method = self.asked["learner"][LEARNER]["method"]
        members = method[CHAIN]["methods"] if CHAIN in method else [method]
        return ", ".join(map(expression, members)) or "plain fine-tuning of all weights"

    @cached_property
    def cells(self) -> tuple[tuple[Measure, ...], ...]:
        """R with intervals."""
        return cells(self.matrix)

    @cached_property
    def routing(self) -> tuple[Measure, ...]:
        """How many of each experience's prompts the last version takes for it; empty where it infers none."""
        return routing_accuracy(self.matrix)

    @cached_property
    def measures(self) -> dict[str, Measure]:
        """Every measure by its name."""
        return {measure.name: measure for measure in summary(self.matrix)}

    @cached_property
    def comparison(self) -> Comparison | str | None:
        """This run against the first; in words, why there is none; None for the first itself."""
        if self.first is None:
            return None
        try:
            return compare(self.first, self.matrix)
        except DataError as error:
            return str(error)

    @cached_property
    def differences(self) -> dict[str, Difference]:
        """What this run has more than the first, by measure; empty where they cannot be compared."""
        return {d.name: d for d in self.comparison.measures} if isinstance(self.comparison, Comparison) else {}

    @cached_property
    def since_learned(self) -> dict[str, Flips]:
        """Items lost and gained since each experience was learned, by experience."""
        return {f.name: f for f in flips(self.matrix.names, self.matrix.diagonal, self.matrix.rows[-1])}

    @cached_property
    def since_base(self) -> dict[str, Flips]:
        """Items lost and gained since the base model, by experience."""
        return {f.name: f for f in flips(self.matrix.names, self.matrix.rows[0], self.matrix.rows[-1])}

    @cached_property
    def noise(self) -> NoiseFloor | None:
        """How far two measurements of the base model lie apart; None where there is only one."""
        return None if self.matrix.repeat is None else noise_floor(self.matrix)

    @cached_property
    def general(self) -> list[float | None]:
        """The mean over the general abilities for each version; None where one was not measured."""
        rows = self.matrix.general.rows if self.matrix.general is not None else ()
        known = [[score for score in row.scores if score is not None] for row in rows]
        complete = [len(k) == len(row.scores) > 0 for k, row in zip(known, rows, strict=True)]
        return [sum(k) / len(k) if whole else None for k, whole in zip(known, complete, strict=True)]

    @cached_property
    def steps(self) -> list[dict[str, Any]]:
        """The rows of the optimiser's steps."""
        return [row for row in self.run.files.metrics() if "loss" in row]

    @cached_property
    def starts(self) -> list[tuple[str, int]]:
        """Each experience, and the number of optimiser steps before it."""
        found, before = list[tuple[str, int]](), 0
        for name, cost in self.costs.items():
            found.append((name, before))
            before += cost.steps
        return found

    @cached_property
    def looks(self) -> dict[str, list[tuple[int, float]]]:
        """For each earlier experience that was looked at: optimiser steps, and the loss on it after each."""
        found, starts = dict[str, list[tuple[int, float]]](), dict(self.starts)
        for row in self.run.files.metrics():
            for name, value in row.get("notes", {}).items():
                if name.startswith(LOSS_ON) and row["experience"] in starts:
                    step = starts[row["experience"]] + int(row["step"])
                    found.setdefault(name.removeprefix(LOSS_ON), []).append((step, float(value)))
        return found

    @cached_property
    def costs(self) -> dict[str, Cost]:
        """What each experience took, in the order they were learned."""
        by_name: dict[str, list[dict[str, Any]]] = {}
        for row in self.steps:
            by_name.setdefault(row["experience"], []).append(row)
        return {
            name: Cost(len(rows), sum(r["tokens"] for r in rows), sum(r["seconds"] for r in rows))
            for name, rows in by_name.items()
        }

    @cached_property
    def cost(self) -> Cost:
        """What all experiences took together."""
        costs = self.costs.values()
        return Cost(sum(c.steps for c in costs), sum(c.tokens for c in costs), sum(c.seconds for c in costs))

    @cached_property
    def tests(self) -> dict[str, Example]:
        """The test items by key, where the run's folder has kept them."""
        file = self.run.folder / "tests.jsonl"
        examples = [Example.from_row(row) for _, row in read_jsonl(file)] if file.exists() else []
        return {example.key: example for example in examples}


def expression(plain: Any) -> str:
    """Dumped objects as an expression; as they stand where a class is not to be had here."""
    try:
        return show(restore(plain))
    except ConfigError:
        return json.dumps(plain, ensure_ascii=False)
