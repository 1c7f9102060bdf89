"""Rows about many experiences: whether cost grows with their number, and what a method costs beside plain learning."""

from collections.abc import Mapping
from typing import Any

from benchmarks import inputs, ours
from benchmarks.harness import (
    ROUNDS,
    Finding,
    Goal,
    Sample,
    Spread,
    clock,
    fresh,
    interleave,
    peak_memory,
    ratios,
)
from everlearn import EWC, L2SP, Method, Replay
from everlearn.models.optim import AdamW, Recipe

METHODS: Mapping[str, Method] = {"EWC": EWC(samples=2), "L2SP": L2SP(), "Replay": Replay(fraction=0.1)}
"""What folds: the memory of all experiences is one. A small Fisher, since there are fifty of them."""

SMALL = Recipe(AdamW(), batch_size=2, length=128, tokens=256)
EXPERIENCES = 50
PROBE = 8
"""Steps by which the 2nd and the 50th are timed."""

NORMAL = Recipe(AdamW(), batch_size=8, length=512, tokens=2048)
ROWS = 1000
"""Demonstrations of an experience, to which the moments at its end are spread."""


def growth(quick: bool = False) -> list[Finding]:
    """Time of a step and peak of memory in the 50th experience over those in the 2nd."""
    count = 6 if quick else EXPERIENCES
    findings = []
    for name in METHODS:
        found, _ = fresh("benchmarks.continual:many", [name, count, 1 if quick else ROUNDS])
        steps = Spread(tuple(late / early for early, late in found["steps"]))
        before, after = found["peaks"]
        early, late = found["steps"][0]
        work, peer = f"{name}, 2 -> {count} experiences: ", "own 2nd experience"
        checked = f"same rows; {PROBE} steps of 2 x 64 tokens, one epoch"
        memory = Spread((after / before,))
        findings += [
            Finding(f"{work}time of a step", peer, Goal(1.1, False), steps, f"{late:.3f} s", f"{early:.3f} s", checked),
            Finding(
                f"{work}peak memory",
                peer,
                Goal(1.1, False),
                memory,
                f"{after:.0f} MB",
                f"{before:.0f} MB",
                "a process of its own",
            ),
        ]
    return findings


def many(name: str, count: int, rounds: int) -> dict[str, Any]:
    """Learn so many experiences; peaks of memory after the 2nd and the last, and the steps of both, interleaved."""
    by = ours.learner(SMALL, METHODS[name])
    model = by.open()
    state, kept, peaks = by.start(model), {}, []
    sizes = ((32, 32),) * SMALL.batch_size
    for number in range(1, count + 1):
        kept[number] = state
        state = ours.study(by, model, state, inputs.rows(model, sizes, number), f"e{number}").state
        if number in (2, count):
            peaks.append(peak_memory())
        kept = {n: s for n, s in kept.items() if n in (2, count)}
    probe = inputs.rows(model, ((32, 32),) * SMALL.batch_size * PROBE, 0)

    def learn_from(number: int) -> Sample:
        by.restore(model, kept[number])
        done = ours.study(by, model, kept[number], probe, f"probe{number}")
        return Sample(ours.typical(done.steps))

    found = interleave({str(n): lambda n=n: learn_from(n) for n in (2, count)}, rounds)
    pairs = zip(found["2"], found[str(count)], strict=True)
    return {"peaks": peaks, "steps": [(early.seconds, late.seconds) for early, late in pairs]}


def overhead(quick: bool = False) -> list[Finding]:
    """CPU time for each new token over plain learning, in a second experience.

    What happens once (a Fisher of 64 examples, the choice of what to keep) is spread over an experience of 1,000
    demonstrations; the steps are those of 48.
    """
    methods: dict[str, tuple[Method, ...]] = {
        "plain": (),
        "L2SP": (L2SP(),),
        "EWC": (EWC(),),
        "Replay": (Replay(fraction=0.1),),
    }
    sides, tokens = {}, 0
    for name, chosen in methods.items():
        by = ours.learner(NORMAL, *chosen)
        model = by.open()
        first = inputs.rows(model, inputs.instruction_sizes(64, 1), 1)
        second = inputs.rows(model, inputs.instruction_sizes(24 if quick else 48, 2), 2)
        state = ours.study(by, model, by.start(model), first, "first").state
        tokens = sum(len(model.encode(e).tokens) for e in second)

        def side(by: Any = by, model: Any = model, state: Any = state, rows: Any = second) -> Sample:
            by.restore(model, state)
            start = clock()
            done = ours.study(by, model, state, rows, "second")
            steps = clock() - start - done.end
            return Sample(steps + done.end * len(rows) / ROWS, {"end": done.end, "tokens": done.tokens})

        sides[name] = side
    found = interleave(sides, 1 if quick else ROUNDS)
    goals = {"L2SP": Goal(1.05, False), "EWC": Goal(1.10, False), "Replay": Goal(1.12, False)}
    return [
        Finding(
            f"overhead of {name}{' 10 %' if name == 'Replay' else ''} for each new token",
            "own plain learning",
            goal,
            ratios(found[name], found["plain"]),
            f"{_per_token(found[name], tokens)} ms a token",
            f"{_per_token(found['plain'], tokens)} ms a token",
            f"{tokens} new tokens, {found[name][0].value['tokens']} seen; the end's "
            f"{found[name][0].value['end']:.1f} s spread over {ROWS} rows",
        )
        for name, goal in goals.items()
    ]


def _per_token(samples: list[Sample], tokens: int) -> str:
    return Spread(tuple(1000 * s.seconds / tokens for s in samples)).show()
