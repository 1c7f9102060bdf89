"""One adapter for all experiences, drawn layer by layer towards that old one whose gradients are most alike."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.examples import Batch
from everlearn.method import Context, Method
from everlearn.methods.adapters import require_rank
from everlearn.models.language_model import LanguageModel
from everlearn.models.lora import adapters, wrap
from everlearn.types import Memory

Formula = Literal["paper", "repo"]
Tree = Any
"""A leaf is the number of an experience, an inner node a list of two trees."""

NO_STEP = {"mean": {}, "steps": 0, "chosen": {}, "visits": {}}
"""What is remembered inside an experience, before its first step."""

Visits = Mapping[str, tuple[int, float]]
"""By a node's path from the root, such as "01": how often it was passed, and the mean distance found below it."""


@dataclass(frozen=True)
class TreeLoRA(Method):
    """Draw each layer's adapter towards that of the old experience with the likest gradients (arXiv:2506.10355).

    For each layer, the old experiences stand in a tree: at each node those below are parted at the median of their
    gradients' product with the mean gradient. After each step a bandit goes down from the root to the child with the
    lowest bound, mean distance - sqrt(log(2 N (s + 1)(s + 2)) / (2 n)), unseen ones first; the distance found at the
    leaf, between this step's gradient and the experience's mean gradient, counts for all nodes on the way. There is one
    adapter at test, without any task identity. Folds into the base exactly.

    Reconstruction, where the sources leave open: a layer's gradient is that of its A and B together; distances are
    ||g - g_j||_1 / (||g||_1 + ||g_j||_1), in [0, 1]; the term is -alignment * ramp * (mean over layers of the cosine of
    A and the A that experience j ended with), where ramp rises over one epoch from 0 to 1. The paper's sparse updates
    are the adapters themselves. An account of the paper has another bound, mean - 2 sqrt(log s / n), and for the term
    the distance ||g - g_j||_1 itself, whose gradient with respect to A is one of second order.

    The official code, `formula="repo"`, takes the mean of A over an experience's steps for its gradient and draws j
    from softmax(distance_j + bonus_j), a sign that prefers experiences that are farther away, with the number of steps
    in an epoch for N. Its term is -alignment * ramp * S / detached S with S = sum over layers of <A, A_j>, so that the
    size of S grows, be S positive or negative. Differs from it: the official term is multiplied by each step's loss,
    and here alignment is in nats; the official mean starts again in each epoch; and its scores are stretched to a range
    of 1, those on one side of the tree's root by a further factor, which is all the use that it has for the tree.

    Memory for each experience and adapted layer: 4 rank (2 in + out) bytes, or 4 rank in for the official formula.

    Args:
        rank: r.
        alpha: scales the update by alpha / rank; None takes 2 * rank.
        targets: leaf names of the layers to adapt, such as ("q_proj", "v_proj"); "all-linear" takes all but the head.
        dropout: probability of dropping each input of A while learning.
        alignment: nats per token gained at the end of the ramp where A points as the old one does; at 0 this is `LoRA`.
        formula: see above.
    """

    keeps: ClassVar[str] = "4 r (2 in + out) a layer and experience"
    computes: ClassVar[str] = "distances of A, each step"
    reads_batch: ClassVar[bool] = False

    rank: int = 16
    alpha: float | None = None
    targets: str | tuple[str, ...] = "all-linear"
    dropout: float = 0.0
    alignment: float = 0.5
    formula: Formula = "paper"

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        require_rank(self, self.rank, self.dropout)
        if not 0 <= self.alignment < float("inf"):
            raise ConfigError(f"{self}: alignment is 0 or more, and finite.")

    def init(self, model: LanguageModel) -> Memory:
        """No old experience."""
        return {"old": {}, "tree": {}} | NO_STEP

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        """Wrap the target layers and freeze everything else."""
        alpha = 2.0 * self.rank if self.alpha is None else self.alpha
        wrap(model.module, self.targets, self.rank, alpha, self.dropout)
        return model

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """The term; it does not depend on the batch."""
        if not memory["chosen"]:
            return 0.0
        layers = adapters(ctx.model.module)
        past = {name: memory["old"][name][memory["chosen"][name]] for name in layers}
        pairs = [(layer.A.flatten(), past[n].get("A", past[n]["g"]).flatten()) for n, layer in layers.items()]
        products = torch.stack([a @ old.to(a) for a, old in pairs])
        if self.formula == "repo":
            total = products.sum()
            value = total / total.detach()
        else:
            value = (products / torch.stack([a.norm() * old.norm().to(a) for a, old in pairs])).mean()
        ramp = min(1.0, ctx.step * ctx.plan.batch_size / max(len(ctx.experience.train), 1))
        term: Tensor = -self.alignment * ramp * value
        return term

    def step(self, memory: Memory, grads: Mapping[str, Tensor], update: Mapping[str, Tensor], ctx: Context) -> Memory:
        """The mean gradient so far, and which old experience each layer is drawn to in the next step."""
        count, now = memory["steps"], self._gradients(grads, ctx)
        mean = {
            n: g.clone() if not count else torch.lerp(memory["mean"][n], g, 1 / (count + 1)) for n, g in now.items()
        }
        chosen, visits = dict(memory["chosen"]), dict(memory["visits"])
        for name, tree in memory["tree"].items():
            old, seen = [e["g"] for e in memory["old"][name]], visits.get(name, {})
            if self.formula == "paper":
                path = descend(tree, seen, len(old), ctx.step)
                chosen[name] = leaf(tree, path)
                visits[name] = passed(seen, path, distance(now[name], old[chosen[name]]))
            else:
                far = [float((mean[name] - g.to(now[name])).abs().mean()) for g in old]
                steps = -(-len(ctx.experience.train) // ctx.plan.batch_size)
                chosen[name] = drawn(far, seen, steps, ctx.step, ctx.rng(name))
                visits[name] = passed(seen, str(chosen[name]), far[chosen[name]])
        return memory | {"mean": mean, "steps": count + 1, "chosen": chosen, "visits": visits}

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The old experiences with this one, in new trees."""
        still = {name: torch.zeros_like(p) for name, p in ctx.trainable().items()}
        means, old = memory["mean"] or self._gradients(still, ctx), dict[str, list[Memory]]()
        for name, layer in adapters(ctx.model.module).items():
            last = {"A": layer.A.detach().clone()} if self.formula == "paper" else {}
            old[name] = [*memory["old"].get(name, []), last | {"g": means[name]}]
        return {"old": old, "tree": {n: grown([e["g"] for e in past]) for n, past in old.items()}} | NO_STEP

    def _gradients(self, grads: Mapping[str, Tensor], ctx: Context) -> dict[str, Tensor]:
        layers = adapters(ctx.model.module)
        if self.formula == "repo":
            return {name: layer.A.detach().flatten() for name, layer in layers.items()}
        return {n: torch.cat([grads[f"{n}.A"].flatten(), grads[f"{n}.B"].flatten()]) for n in layers}


def grown(gradients: Sequence[Tensor], among: Sequence[int] | None = None) -> Tree:
    """The tree over experiences with these gradients; those below the median come first, equal ones in their order."""
    among = range(len(gradients)) if among is None else among
    if len(among) == 1:
        return among[0]
    mean = torch.stack([gradients[i] for i in among]).mean(0)
    ordered = sorted(among, key=lambda i: (float(gradients[i] @ mean), i))
    half = len(ordered) // 2
    return [grown(gradients, ordered[:half]), grown(gradients, ordered[half:])]


def descend(tree: Tree, visits: Visits, count: int, step: int) -> str:
    """The path to the leaf that the lowest bounds lead to.

    Args:
        tree: of one layer.
        visits: so far.
        count: N, of old experiences.
        step: s.
    """
    path = ""
    while isinstance(tree, list):
        bounds = [-math.inf, -math.inf]
        for child in (0, 1):
            if found := visits.get(f"{path}{child}"):
                bounds[child] = found[1] - bonus(found[0], count, step)
        child = 0 if bounds[0] <= bounds[1] else 1
        path, tree = f"{path}{child}", tree[child]
    return path


def leaf(tree: Tree, path: str) -> int:
    """The experience at the end of a path."""
    for child in path:
        tree = tree[int(child)]
    found: int = tree
    return found


def passed(visits: Visits, path: str, found: float) -> dict[str, tuple[int, float]]:
    """The visits with one more along a path, which has found a distance."""
    more = dict(visits)
    for end in range(1, len(path) + 1):
        count, mean = visits.get(path[:end], (0, 0.0))
        more[path[:end]] = (count + 1, mean + (found - mean) / (count + 1))
    return more


def drawn(far: Sequence[float], visits: Visits, steps: int, step: int, rng: torch.Generator) -> int:
    """An experience drawn as the official code draws: the farther, the likelier.

    Args:
        far: the distance of each old experience.
        visits: so far.
        steps: N, of an epoch.
        step: s.
        rng: random source.
    """
    counts = [visits.get(str(i), (0, 0.0))[0] for i in range(len(far))]
    scores = [d + bonus(max(n, 1), steps, step) for d, n in zip(far, counts, strict=True)]
    return int(torch.multinomial(torch.tensor(scores, dtype=torch.float64).softmax(0), 1, generator=rng))


def bonus(visits: int, count: int, step: int) -> float:
    """sqrt(log(2 N (s + 1)(s + 2)) / (2 n)): how far a mean of n distances may be off."""
    return math.sqrt(math.log(2 * count * (step + 1) * (step + 2)) / (2 * visits))


def distance(a: Tensor, b: Tensor) -> float:
    """||a - b||_1 as a part of ||a||_1 + ||b||_1, in [0, 1]; 0 where both are zero."""
    b = b.to(a)
    whole = float(a.abs().sum() + b.abs().sum())
    return float((a - b).abs().sum()) / whole if whole > 0 else 0.0
