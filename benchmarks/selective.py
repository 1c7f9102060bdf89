"""Rows about selective language modelling: what the choice costs beside plain learning, with a warm cache."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from benchmarks import inputs, ours
from benchmarks.harness import ROUNDS, Finding, Goal, Sample, Spread, clock, interleave, ratios
from everlearn import Example, LanguageModel, Learner, NextToken, Selective
from everlearn.examples import Plan
from everlearn.learner import learn
from everlearn.models.optim import AdamW, Recipe
from everlearn.types import Objective
from everlearn.watch import Watch

WHOLE = Recipe(AdamW(learning_rate=1e-6), batch_size=2, length=1024, tokens=2048)
"""2 rows of 1024 tokens in a step and in a pass; a rate that leaves the model about as it is."""
STEPS = 3
"""The first one holds what comes before it, and does not count."""


def overhead(quick: bool = False, recipe: Recipe = WHOLE) -> list[Finding]:
    """CPU time of a step of full training over plain's, the reference's losses being kept.

    A step of one pass chooses by the pass that learns; the same step in two passes is read once more, unless each pass
    is ranked by itself.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = _found(folder, recipe, quick)
    size = f"{recipe.batch_size} x {recipe.length} tokens, all weights"
    goals = {"one pass": Goal(1.03, False), "two passes": None, "two passes, ranked apart": Goal(1.03, False)}
    return [
        Finding(
            f"selective language modelling, {size}, {name}: time of a step",
            "own plain learning",
            goal,
            ratios(found[name], found[_plain(name)]),
            f"{_seconds(found[name])} s",
            f"{_seconds(found[_plain(name)])} s",
            f"same rows and passes; {100 * found[name][0].value['share']:.0f} % of targets chosen, warm cache",
        )
        for name, goal in goals.items()
    ]


def _found(folder: str, recipe: Recipe, quick: bool) -> dict[str, list[Sample]]:
    chooses = Selective("embedded", share=0.6, folder=folder)
    halved = replace(recipe, tokens=recipe.tokens // 2)
    asked: dict[str, tuple[Objective, Recipe]] = {
        "plain, one pass": (NextToken(), recipe),
        "one pass": (chooses, recipe),
        "plain, two passes": (NextToken(), halved),
        "two passes": (chooses, halved),
        "two passes, ranked apart": (replace(chooses, ranking="pass"), halved),
    }
    by = Learner("embedded", recipe=recipe)
    model = by.open()
    rows = inputs.rows(model, ((64, recipe.length - 64),) * recipe.batch_size * STEPS, 0)
    list(chooses.steps(model, rows, _plan(recipe)))  # from here on the cache is warm

    def side(objective: Objective, recipe: Recipe) -> Sample:
        return _side(replace(by, recipe=recipe), model, objective, rows)

    sides = {name: lambda given=given: side(*given) for name, given in asked.items()}
    return interleave(sides, 1 if quick else ROUNDS, warm=0)


def _side(by: Learner, model: LanguageModel, objective: Objective, rows: Sequence[Example]) -> Sample:
    """A median step, and the share of targets that were chosen."""
    experience = replace(inputs.lesson("selective", rows), objective=objective)
    times, shares = [clock()], list[float]()

    def log(row: dict[str, Any]) -> None:
        times.append(clock())
        shares.append(row.get("notes", {}).get("chosen", getattr(objective, "share", 1.0)))

    learn(by, model, by.start(model), experience, Watch(log=log))
    return Sample(ours.typical([b - a for a, b in pairwise(times)]), {"share": shares[-1]})


def _plan(recipe: Recipe) -> Plan:
    return Plan(recipe.batch_size, recipe.tokens, recipe.length)


def _plain(name: str) -> str:
    return "plain, one pass" if name == "one pass" else "plain, two passes"


def _seconds(samples: list[Sample]) -> str:
    return Spread(tuple(s.seconds for s in samples)).show()
