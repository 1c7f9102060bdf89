"""Branches of a learning rate that falls: what is deployed is annealed, what goes on learning is not.

P is the number of weights that learn.
"""

from dataclasses import dataclass
from typing import ClassVar

from everlearn.method import Context, Method, Tensors
from everlearn.models.language_model import LanguageModel
from everlearn.types import Memory


@dataclass(frozen=True)
class StableBranch(Method):
    """Anneal a branch for each experience, and let the next begin where the rate was last stable (arXiv:2404.06395).

    Under a warm-up-stable-decay schedule, section 4 of the paper, the version that is kept, scored and deployed is the
    one that the decay has ended in; the weights before the decay, the trunk, stay in memory, and the next experience
    begins there. With `Schedule("wsd", rewarm=False)`, or "infinite", the trunk's learning rate never rises again. The
    trunk ends at the last step whose rate was not below that of the step before it. Differs from the paper: Adam's
    moments begin anew in each experience, as everywhere here. The trunk is the sum of its steps, and so equals what was
    there up to rounding in the weights' full precision.

    Memory: 4 P bytes, and while it learns 8 P.
    """

    keeps: ClassVar[str] = "4 P in all"
    computes: ClassVar[str] = "a sum over P, each step"

    def init(self, model: LanguageModel) -> Memory:
        """No trunk yet: the first experience begins at the base."""
        return {"trunk": {}, "factor": 0.0, "moved": {}, "fallen": {}}

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """A trunk that has not moved."""
        return memory | {"factor": 0.0, "moved": {}, "fallen": {}}

    def start(self, memory: Memory, weights: Tensors, ctx: Context) -> Tensors:
        """The trunk, in place of the branch that was kept."""
        return {**weights, **memory["trunk"]}

    def step(self, memory: Memory, grads: Tensors, update: Tensors, ctx: Context) -> Memory:
        """A step of the trunk, with those before it that had seemed to be a branch's; or one of the branch."""
        moved, fallen = memory["moved"], memory["fallen"]
        fallen = {name: fallen[name].to(u) + u if name in fallen else u.clone() for name, u in update.items()}
        if not ctx.fell(memory["factor"]):
            moved = {name: moved[name].to(u) + u if name in moved else u for name, u in fallen.items()}
            fallen = {}
        return memory | {"factor": ctx.factor, "moved": moved, "fallen": fallen}

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The trunk's weights."""
        before, moved = ctx.before or dict(ctx.trainable()), memory["moved"]
        trunk = {name: w.detach() + moved[name].to(w) if name in moved else w.detach() for name, w in before.items()}
        return {"trunk": trunk, "factor": 0.0, "moved": {}, "fallen": {}}

    def merge(self, memory: Memory, before: Tensors, after: Tensors, ctx: Context) -> Tensors:
        """The branch; asked for so that `end` sees the weights before the experience in full precision."""
        return after
