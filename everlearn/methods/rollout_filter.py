"""Choose what to learn from by trying it first: prompts that the policy never gets right carry no gradient."""

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import pstdev
from typing import Any, ClassVar, Literal

from everlearn.config import dump
from everlearn.data.sequences import Joined, each, select
from everlearn.errors import ConfigError, MethodError
from everlearn.examples import Example
from everlearn.method import Context, Method
from everlearn.models.language_model import LanguageModel
from everlearn.objectives.groups import Attempting
from everlearn.randomness import seed_of
from everlearn.types import Memory

TOGETHER = 256
"""Prompts that are attempted at a time, so that few attempts are in memory."""

Fate = Literal["kept", "solved", "failed", "unscorable"]
FATES: tuple[Fate, ...] = ("kept", "solved", "failed", "unscorable")


@dataclass(frozen=True)
class RIF(Method):
    """Learn from prompts that the policy can get right, and defer the others (RIF-RFT, arXiv:2507.05386).

    Rollout-based instance filtering: before an experience, the policy as it is attempts each of its prompts, and those
    stay whose best reward is above the threshold. What a version scores is measured on test rows, which are not
    filtered. With `PolicyGradient` as the experiences' objective this is RIF-RFT.

    Differs from the paper, whose rest is thrown away: the prompts that failed wait in memory, and are attempted again
    before the next experience that is learned by the same objective, as its own reward would be another's verdict. What
    passes then is learned with that experience, under the name of its own; what fails again goes on waiting, and where
    there are too many, those that failed most often leave first. Prompts that stand to the left in a chain and are not
    the experience's own (replayed ones) all stay.

    The log has `kept`, `failed`, `solved` and `unscorable` prompts, the keep `rate`, and how many were `retried`,
    `returned` and are `deferred`; the memory has the same by experience. Extra compute: `attempts` completions of each
    prompt before an experience, and of each that waits. Memory: the text of `capacity` examples with their objectives'
    fields, whatever the number of experiences; seven numbers for each experience; while one is learned, the text of
    what has returned, and 16 bytes for each prompt left out.

    Args:
        attempts: K, completions of each prompt; None takes as many as the objective learns from.
        threshold: tau; a prompt stays if one of its attempts earned more.
        drop_solved: whether prompts stay out too whose attempts all earned the same and more than the threshold. They
            carry no gradient either (DAPO, arXiv:2503.14476); they do not wait for anything.
        capacity: most prompts that wait.
        otherwise: what becomes of an experience whose objective attempts nothing: "refuse", or "keep" all of it.
    """

    keeps: ClassVar[str] = "capacity examples, in all"
    computes: ClassVar[str] = "attempts at each prompt, at the beginning"

    attempts: int | None = 8
    threshold: float = 0.0
    drop_solved: bool = False
    capacity: int = 1000
    otherwise: Literal["refuse", "keep"] = "refuse"

    def __post_init__(self) -> None:
        """Refuse counts below one."""
        if (self.attempts is not None and self.attempts < 1) or self.capacity < 0:
            raise ConfigError(f"{self}: attempts is 1 or more, or None for the objective's; capacity is 0 or more.")

    def init(self, model: LanguageModel) -> Memory:
        """Nothing waits."""
        return {"deferred": [], "returned": [], "out": [], "counts": {}}

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """What becomes of each prompt, as the policy is now.

        Raises:
            MethodError: if the experience's objective attempts nothing.
        """
        objective, name = ctx.experience.objective, ctx.experience.name
        if not isinstance(objective, Attempting):
            if self.otherwise == "keep":
                return memory
            raise MethodError(
                f"{name}: {self} keeps what the policy gets right, and {objective} attempts nothing. Give the "
                'experience an objective such as PolicyGradient, or the method otherwise="keep".'
            )
        fates, failed = dict[str, Fate](), list[Example]()
        for example, fate in self._tried(objective, ctx.experience.train, ctx):
            fates[example.key] = fate
            failed += [example] if fate in ("failed", "unscorable") else []
        waiting = [one for one in memory["deferred"] if one["objective"] == dump(objective) and one["key"] not in fates]
        again = {e.key: fate for e, fate in self._tried(objective, [Example.from_row(w["row"]) for w in waiting], ctx)}
        pool = [_deferred(e, ctx) for e in failed] + _still(memory["deferred"], dump(objective), fates, again)
        pool = sorted(pool, key=lambda one: int(one["tried"]))[: self.capacity]
        returned = [one["row"] for one in waiting if again[one["key"]] == "kept"]
        found = Counter(fates.values())
        counts: dict[str, int] = {fate: found[fate] for fate in FATES}
        counts |= {"retried": len(waiting), "returned": len(returned), "deferred": len(pool)}
        ctx.note({**counts, "rate": counts["kept"] / max(len(fates), 1)})
        out = [key for key, fate in fates.items() if fate != "kept"]
        return {"deferred": pool, "returned": returned, "out": out, "counts": memory["counts"] | {name: counts}}

    def data(self, memory: Memory, examples: Sequence[Example], ctx: Context) -> Sequence[Example]:
        """The experience's prompts that stay, and those that have returned."""
        if not memory["out"] and not memory["returned"]:
            return examples
        out = set(memory["out"])
        kept = select(examples, array("Q", [i for i, e in enumerate(examples) if e.key not in out]))
        return Joined((kept, tuple(Example.from_row(row) for row in memory["returned"])))

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """What was chosen for the experience is gone; what waits goes on waiting."""
        return memory | {"returned": [], "out": []}

    def _tried(
        self, objective: Attempting, examples: Sequence[Example], ctx: Context
    ) -> Iterator[tuple[Example, Fate]]:
        """Each different example, and what becomes of it."""
        seed, seen = seed_of(ctx.seed, ctx.seen, ctx.experience.name, "filter", *ctx.place), set[str]()
        for start in range(0, len(examples), TOGETHER):
            some = {e.key: e for e in each(examples, range(start, min(start + TOGETHER, len(examples))))}
            asked = [e for key, e in some.items() if key not in seen]
            seen |= some.keys()
            rewards: dict[str, list[float | None]] = {e.key: [] for e in asked}
            for attempt in objective.attempt(ctx.model, asked, seed, self.attempts):
                rewards[attempt.example.key].append(attempt.trace.reward)
            yield from ((e, self._fate(rewards[e.key])) for e in asked)

    def _fate(self, rewards: Sequence[float | None]) -> Fate:
        known = [reward for reward in rewards if reward is not None]
        if not known:
            return "unscorable"
        if max(known) <= self.threshold:
            return "failed"
        return "solved" if self.drop_solved and pstdev(known) == 0 else "kept"


def _deferred(example: Example, ctx: Context) -> dict[str, Any]:
    """A prompt as it waits, with the objective whose reward it failed."""
    row = example.row() | {"origin": example.origin or ctx.experience.name}
    return {"key": example.key, "row": row, "objective": dump(ctx.experience.objective), "tried": 1}


def _still(
    pool: Sequence[dict[str, Any]], objective: Any, new: Mapping[str, Fate], again: Mapping[str, Fate]
) -> list[dict[str, Any]]:
    """What goes on waiting: under another objective, or after it has failed again."""
    found = []
    for one in pool:
        fate = again.get(one["key"]) if one["objective"] == objective else None
        renewed = one["objective"] == objective and one["key"] in new
        if not renewed and fate not in ("kept", "solved"):
            found.append(one | {"tried": one["tried"] + (fate is not None)})
    return found
