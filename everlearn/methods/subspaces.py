"""Subspaces that movements stay out of: of old gradients, of old inputs, of the weights' largest singular directions.

What is projected is the movement that the optimiser proposes, weight decay and momentum included, so that the weights
do stay as the subspace demands. The papers project the gradient, which is the same under plain gradient descent. In
half precision it is the masters that stay; what the model reads of them is rounded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from everlearn.errors import ConfigError, MethodError
from everlearn.examples import Batch
from everlearn.method import Context, Method, Tensors
from everlearn.methods.spans import extended_basis, extended_directions, laid_out, off_directions, off_inputs, precise
from everlearn.models.adapted import is_transposed, matrix
from everlearn.models.inputs import layer_inputs, linear_layers
from everlearn.models.lora import LoRALinear
from everlearn.randomness import permutation
from everlearn.types import Memory

Output = Literal["logits", "logprobs"]
Others = Literal["still", "free"]
Formula = Literal["paper", "repo"]


@dataclass(frozen=True)
class OGD(Method):
    """Move at right angles to the gradients of old outputs (orthogonal gradient descent, arXiv:1910.07104, alg. 1).

    For some examples of each experience the gradient of the model's own output, not of a loss, is kept at the weights
    that the experience ends with, and all of them are made orthonormal. A movement loses its part in their span, so
    that old outputs stay, to first order at those weights, which they drift from as learning goes on.

    Differs from the paper: an output is the mean over an example's supervised tokens of the logit of the right token
    (the paper's OGD-GTL, for one token), and the movement of the optimiser is projected, not the gradient. With LoRA
    it holds for the adapters' own parameters.

    Memory: 4 * kept bytes for each trained parameter and each experience (a row of an example each), no less: use it
    on adapters. In a step 4 * kept multiplications for each trained parameter and each past experience.

    Args:
        kept: examples whose gradient is kept of each experience.
        of: "logits" (the paper's), or "logprobs", whose gradient vanishes where the model is sure.
    """

    keeps: ClassVar[str] = "4 kept P an experience"
    computes: ClassVar[str] = "products with the basis, each step"

    kept: int = 16
    of: Output = "logits"

    def __post_init__(self) -> None:
        """Refuse an empty memory."""
        if self.kept < 1:
            raise ConfigError(f"{self}: kept is 1 or more.")

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """Add what is new in the gradients of some examples to the basis."""
        examples = ctx.experience.train
        order = permutation(len(examples), ctx.seed, ctx.seen, "gradients", *ctx.place)[: self.kept]
        basis: Tensors = memory or {}
        for index in order:
            for batch in ctx.batches([examples[index]], batch_size=1):
                outputs = ctx.model.token_logits(batch) if self.of == "logits" else ctx.model.token_logprobs(batch)
                found = ctx.grads(outputs.mean())
                basis = extended_directions(basis, {n: g.to(precise(g)) for n, g in found.items()})
        return basis

    def update(self, memory: Memory, update: Tensors, ctx: Context) -> Tensors:
        """What is left of the movement outside of the span."""
        return off_directions(update, memory) if memory else update


@dataclass(frozen=True)
class GPM(Method):
    """Move each linear layer where its old inputs do not reach (gradient projection memory, arXiv:2103.09762).

    After an experience the inputs R (in, n) of each layer at some tokens are decomposed, and the fewest singular
    vectors that hold `threshold` of their energy |R|^2, together with the basis M that is known (eq. 8 and 9), join M.
    A movement U of a weight (out, in) becomes U - U M M' (eq. 6 and 7), so that W x does not change for x inside M.

    With LoRA, A (rank, in) is such a weight: its rows leave the input space, and A x stays. B (out, rank) is one too,
    and its input is A x: were B free, B A x would change. The space of A x has few dimensions and is soon full; B then
    stands still, and what is new is learned through A alone.

    Differs from the paper: a movement is projected, not a gradient; tokens are sampled in place of images' patches;
    and what has learned and is no linear layer (norms, embeddings, a head tied to them) stands still from then on, as
    batch norms do there, or layers above would read something else. Tokens that a model gives huge activations hold
    nearly all energy of some layers: a higher threshold keeps more of the others.

    Memory: 4 * in * k bytes for each trained layer, where k <= min(in, experiences * tokens). At the end of an
    experience 4 * in * tokens bytes for each layer, and a singular value decomposition of it.

    Args:
        threshold: epsilon, the share of energy that is kept in M.
        rise: what is added to the threshold after each experience, up to 1.
        samples: examples that the tokens are drawn from.
        tokens: n, inputs of each layer that are decomposed.
        others: parameters that are no linear layer's weight: "still" once they have learned one experience, or "free".
    """

    keeps: ClassVar[str] = "4 in k a layer, in all"
    computes: ClassVar[str] = "products with bases, each step; an SVD a layer, at the end"

    threshold: float = 0.97
    rise: float = 0.003
    samples: int = 64
    tokens: int = 512
    others: Others = "still"

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        if not 0 < self.threshold <= 1 or self.rise < 0 or self.samples < 1 or self.tokens < 1:
            raise ConfigError(f"{self}: threshold is in (0, 1], rise 0 or more, samples and tokens 1 or more.")

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """Refuse a model whose inputs cannot be followed before it has learned for hours."""
        if memory is None:
            replace(self, samples=1, tokens=1)._inputs(ctx)
        return memory

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """Extend each layer's basis by what is new in its inputs."""
        share = min(1.0, self.threshold + self.rise * ctx.seen)
        bases, others = (dict(memory["bases"]), set(memory["others"])) if memory else ({}, set())
        for name, inputs in self._inputs(ctx).items():
            bases[name] = extended_basis(bases.get(name), inputs.T, share)
        return {"bases": bases, "others": sorted((others | ctx.trainable().keys()) - bases.keys())}

    def update(self, memory: Memory, update: Tensors, ctx: Context) -> Tensors:
        """What is left of the movement outside of the old inputs' spaces."""
        if not memory:
            return update
        turned = {f"{name}.weight" for name, layer in linear_layers(ctx.model).items() if is_transposed(layer)}
        still = set(memory["others"]) if self.others == "still" else set()
        left = {n: torch.zeros_like(u) if n in still else u for n, u in update.items()}
        bases = {n: b.to(left[n].device, left[n].dtype) for n, b in memory["bases"].items() if n in left}
        return left | {n: off_inputs(left[n], b, n in turned) for n, b in bases.items()}

    def _inputs(self, ctx: Context) -> dict[str, Tensor]:
        """(n, in) for each trained weight of a linear layer, by parameter name."""
        trained, layers = ctx.trainable(), linear_layers(ctx.model)
        parts: dict[str, list[Tensor]] = {}
        wanted = {name for name in layers if any(f"{name}.{leaf}" in trained for leaf in ("weight", "A", "B"))}
        if not wanted:
            raise MethodError(f"{self}: no linear layer of {ctx.model.name} learns, so there is nothing to protect.")
        for batch, where in self._drawn(ctx):
            for name, x in layer_inputs(ctx.model, wanted, batch, where).items():
                for parameter, read in _read_by(name, layers[name], x).items():
                    if parameter in trained:
                        parts.setdefault(parameter, []).append(read)
        return {name: torch.cat(part).to(precise(part[0])) for name, part in parts.items()}

    def _drawn(self, ctx: Context) -> Sequence[tuple[Batch, Tensor]]:
        """Batches of some examples, each with the tokens (B, T) that were drawn of it."""
        examples = ctx.experience.train
        order = permutation(len(examples), ctx.seed, ctx.seen, "inputs", *ctx.place)[: self.samples]
        batches = list(ctx.batches([examples[i] for i in order]))
        there = torch.cat([(b.segments > 0).flatten() for b in batches]).nonzero()[:, 0].cpu()
        drawn = there[torch.randperm(len(there), generator=ctx.rng("tokens"))[: self.tokens]]
        mask = torch.zeros(sum(b.tokens.numel() for b in batches), dtype=torch.bool)
        mask[drawn] = True
        pieces = torch.split(mask, [b.tokens.numel() for b in batches])
        return [(b, piece.view(b.tokens.shape)) for b, piece in zip(batches, pieces, strict=True) if piece.any()]


@dataclass(frozen=True)
class OSF(Method):
    """Move each weight off its largest singular directions (orthogonal-subspace fine-tuning, arXiv:2504.07097).

    Before an experience each trained linear layer's weight is decomposed, W = U S V'; U_h and V_h are the singular
    vectors of the largest values, those that old knowledge is read from. A movement D loses U_h U_h' D V_h V_h'.

    Differs from the paper: the same share of directions is held in all layers, where the paper holds
    mrr + I (trr - mrr) of them, 0.1 and 0.8 in its code, with I the mean cosine of a layer's inputs and outputs on the
    last experience, scaled over the layers, which is defined for square weights alone. The projection is as a review of
    the paper quotes it. The authors' code (svd/projected_gradient_descent.py of
    Red-Hat-AI-Innovation-Team/orthogonal-subspace-learning, and PEFT's port) trains U_l, S_l, V_l of the small values
    with gradients that stay off U_h and V_h: the weight then moves by (1 - U_h U_h') D (1 - V_h V_h') to first order,
    and the large singular values keep their vectors exactly; `formula="repo"` projects so. Norms, embeddings and the
    head move freely.

    It is for whole weights: an adapter's matrices hold nothing old.

    Memory: none from one experience to the next; inside one, 4 * k * (in + out) bytes for each layer with
    k = held * min(in, out), and a singular value decomposition of it at the beginning: for the 210 weights of the
    embedded model 40 seconds on one core.

    Args:
        held: share of each weight's singular directions that are held; PEFT's default too.
        formula: see above.
    """

    keeps: ClassVar[str] = "nothing"
    computes: ClassVar[str] = "products with bases, each step; an SVD a weight, at the beginning"

    held: float = 0.5
    formula: Formula = "paper"

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        if not 0 <= self.held <= 1:
            raise ConfigError(f"{self}: held is in [0, 1].")

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """Decompose the weights as they are."""
        weights = _whole_weights(ctx)
        if not weights:
            raise MethodError(f"{self} holds parts of whole weights, and none of {ctx.model.name} learns; train them.")
        found = {}
        for name, layer in weights.items():
            weight = matrix(layer).detach()
            left, _, right = torch.linalg.svd(weight.to(precise(weight)), full_matrices=False)
            count = round(self.held * min(weight.shape))
            found[name] = (laid_out(left[:, :count]), laid_out(right[:count].T))
        return found

    def update(self, memory: Memory, update: Tensors, ctx: Context) -> Tensors:
        """What is left of the movement off the held directions."""
        if not memory:
            return update
        turned = {name for name, layer in _whole_weights(ctx).items() if is_transposed(layer)}
        return {n: self._off(u, memory[n], n in turned) if n in memory else u for n, u in update.items()}

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """Forget the decomposition, which is that of weights that are no more."""
        return None

    def _off(self, update: Tensor, held: tuple[Tensor, Tensor], turned: bool) -> Tensor:
        left, right = (t.to(update.device, update.dtype) for t in (held[::-1] if turned else held))
        if self.formula == "paper":
            return update - left @ (left.T @ update @ right) @ right.T
        rows = update - left @ (left.T @ update)
        return rows - (rows @ right) @ right.T


def _read_by(name: str, layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What each matrix of a layer multiplies, by parameter name."""
    if isinstance(layer, LoRALinear):
        x = x.to(layer.A.dtype)
        return {f"{name}.A": x, f"{name}.B": x @ layer.A.detach().T}
    return {f"{name}.weight": x}


def _whole_weights(ctx: Context) -> dict[str, nn.Module]:
    """The inner linear layers whose weight learns, by its parameter's name."""
    trained, apart = ctx.trainable(), ctx.model.embeddings()
    layers = {f"{name}.weight": layer for name, layer in linear_layers(ctx.model).items()}
    return {name: layer for name, layer in layers.items() if name in trained and name not in apart}
