"""Experts: several adapters on a layer, weighed by the input."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from everlearn.errors import ConfigError, MethodError
from everlearn.examples import Batch
from everlearn.method import Context, Method
from everlearn.models.bank import Shape, grow, listening
from everlearn.models.language_model import LanguageModel
from everlearn.models.routes import Request, Routes, Switch, documents, one_hot, requests, routed_by
from everlearn.randomness import permutation
from everlearn.types import Memory

Formula = Literal["paper", "repo"]


@dataclass(frozen=True)
class SAPT(Method):
    """Share the adapters of all experiences by one attention over them (arXiv:2401.08295, eq. 2, 3 and 6).

    Each experience has an adapter on every target layer and one key k_i; with x the mean of a prompt's input
    embeddings, a = softmax_i(k_i . f(x) / sqrt(D)) weighs the adapters of all layers: y = W x + sum_i a_i B_i A_i x.
    The newest adapter, its key and f learn; earlier adapters and keys are frozen. Attentive reflection keeps f from
    sending old prompts elsewhere: reflection * KL(a as it was || a) over stored prompts of earlier experiences.

    f is as in the official code, two matrices, SiLU and a layer norm; keys are drawn from [-1, 1] as there. Differs
    from the paper: prompts of real examples are stored, not generated ones, and of each its mean embedding alone, since
    nothing else of it is needed. `formula="repo"` takes the largest value of each embedding's coordinate for the mean,
    as that code does. A raw text's prompt is its first token, so that it is hardly told from others. A new key takes
    attention from the old ones at once: the function changes before its adapter has learned anything.

    Where the scenario tells the experience and it was learned, its own adapter answers alone (told=True), which the
    paper does not do; the others' share was part of what it learned with. It adds to no fixed matrix, so that it is not
    folded.

    Memory: 4 * kept * (D + experiences) bytes for each experience.

    Args:
        rank: of each adapter.
        alpha: an adapter's output is scaled by alpha / rank; None takes 2 * rank.
        targets: leaf names of the layers to adapt; "all-linear" takes all but the head.
        width: inner width of f.
        reflection: weight of attentive reflection, for a mean over stored prompts.
        kept: prompts stored of each experience.
        told: see above.
        formula: see above.
    """

    keeps: ClassVar[str] = "4 kept D an experience"
    computes: ClassVar[str] = "all adapters, each pass; attention of each prompt"
    reads_batch: ClassVar[bool] = False
    rank: int = 8
    alpha: float | None = None
    targets: str | tuple[str, ...] = "all-linear"
    width: int = 100
    reflection: float = 1.0
    kept: int = 64
    told: bool = True
    formula: Formula = "paper"

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        if min(self.rank, self.width, self.kept) < 1 or self.reflection < 0:
            raise ConfigError(f"{self}: rank, width and kept are 1 or more, reflection 0 or more.")

    def init(self, model: LanguageModel) -> Memory:
        """No adapter yet."""
        return {"names": [], "pooled": [], "attention": []}

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """An adapter and a key for the new experience."""
        return memory | {"names": [*memory["names"], ctx.experience.name]}

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        """Grow the banks and the keys."""
        if not (names := memory["names"]):
            return model
        shape = Shape(self.rank, (2.0 * self.rank if self.alpha is None else self.alpha) / self.rank)
        banks = grow(model.module, self.targets, [shape] * len(names))
        router = routed_by(model, SharedAttention, lambda: SharedAttention(self, model))
        router.know(names)
        for bank in banks.values():
            bank.gate = router.switch
        return model

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """Attentive reflection; it does not depend on the batch."""
        router = ctx.model.router
        if not memory["pooled"] or not self.reflection or not isinstance(router, SharedAttention):
            return 0.0
        # Copies: a product of what was read from a file, where it lies unaligned, is rounded otherwise.
        pooled, then = ([t.to(ctx.model.device, copy=True) for t in memory[n]] for n in ("pooled", "attention"))
        terms = [divergence(a, router.attention(x)) for x, a in zip(pooled, then, strict=True)]
        return self.reflection * torch.cat(terms).mean()

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """Store some prompts and where their attention lies now."""
        train, router = ctx.experience.train, ctx.model.router
        assert isinstance(router, SharedAttention)
        order = permutation(len(train), ctx.seed, ctx.seen, "reflection", *ctx.place)[: self.kept]
        prompts = [r.prompt for batch in ctx.batches([train[i] for i in order]) for r in requests(batch)]
        with torch.no_grad():
            pooled = router.pool(prompts[: self.kept])
            found = {"pooled": pooled, "attention": router.attention(pooled)}
        return memory | {name: [*memory[name], value.cpu()] for name, value in found.items()}


def divergence(then: Tensor, now: Tensor) -> Tensor:
    """KL in nats of attention (n, K) from what it was (n, k), with nothing on what has come since; (n,)."""
    then = then.to(now.device, now.dtype)
    shared = now[:, : then.shape[1]].clamp_min(torch.finfo(now.dtype).tiny)
    return (torch.xlogy(then, then) - then * shared.log()).sum(1)


class SharedAttention(nn.Module):
    """The router of `SAPT` (arXiv:2401.08295): attention over keys by what a prompt's embeddings are on the mean.

    Args:
        method: whose it is.
        model: whose embeddings are pooled; the parameters become part of it.
    """

    def __init__(self, method: SAPT, model: LanguageModel) -> None:
        super().__init__()
        weight = model.module.get_input_embeddings().weight  # type: ignore[operator]
        kind, size = torch.promote_types(weight.dtype, torch.float32), weight.shape[1]
        self.method, self.model, self.switch, self.names = method, model, Switch(0), list[str]()
        self.keys = nn.ParameterList()
        # Matrices and not layers: adapters that go on all linear layers would go on these too.
        self.down, self.up = (
            nn.Parameter(nn.init.kaiming_uniform_(torch.empty(shape), a=5**0.5).to(weight.device, kind))
            for shape in ((method.width, size), (size, method.width))
        )
        self.norm = nn.LayerNorm(size).to(weight.device, kind)
        model.module.add_module("everlearn_attention", self)

    def know(self, names: Sequence[str]) -> None:
        """Have a key for each experience, the last one to learn."""
        self.names, self.switch.count = list(names), len(names)
        self.requires_grad_(False)
        self.keys = nn.ParameterList(list(self.keys)[: len(names)])
        while len(self.keys) < len(names):
            drawn = 2 * torch.rand(self.up.shape[0]) - 1
            self.keys.append(nn.Parameter(drawn.to(self.up.device, self.up.dtype)))
        for learns in (self.keys[-1], self.down, self.up, *self.norm.parameters()):
            learns.requires_grad_(True)

    def pool(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """(n, D) of each prompt's input embeddings, without gradient."""
        tokens = torch.tensor([t for prompt in prompts for t in prompt], device=self.up.device)
        with torch.no_grad():
            vectors = self.model.module.get_input_embeddings()(tokens).to(self.up.dtype)  # type: ignore[operator]
        parts = torch.split(vectors, [len(prompt) for prompt in prompts])
        return torch.stack([p.mean(0) if self.method.formula == "paper" else p.amax(0) for p in parts])

    def attention(self, pooled: Tensor) -> Tensor:
        """(n, K) of (n, D)."""
        inner = silu(pooled.to(self.up.dtype) @ self.down.T @ self.up.T)
        query = layer_norm(inner, inner.shape[-1:], self.norm.weight, self.norm.bias)
        scores: Tensor = query @ torch.stack(list(self.keys)).T / query.shape[1] ** 0.5
        return scores.softmax(-1)

    def route(self, requests: Sequence[Request]) -> Routes:
        """A told experience's own adapter where it was learned, otherwise the attention."""
        weights = self.attention(self.pool([r.prompt for r in requests]))
        told = torch.tensor([self.method.told and r.task in self.names for r in requests], device=weights.device)
        own = one_hot([r.task for r in requests], self.names).to(weights)
        return Routes(torch.where(told[:, None], own, weights))

    def identify(self, requests: Sequence[Request]) -> list[tuple[str, float]]:
        """The experience with most of the attention, and how much."""
        best = self.attention(self.pool([r.prompt for r in requests])).max(1)
        return [(self.names[i], a) for i, a in zip(best.indices.tolist(), best.values.tolist(), strict=True)]


@dataclass(frozen=True)
class MoELoRA(Method):
    """Mix adapters token by token, some kept for knowledge and some for tasks (LoRAMoE, arXiv:2312.09979, eq. 4 to 8).

    y = W x + (alpha / rank) sum_i softmax(W_g x)_i B_i A_i x on each feed-forward matrix, with one set of experts for
    all experiences. To the loss is added, a mean over layers, balance * var(Z) / mean(Z) with Z = Q * I: Q_nm is the
    weight of expert n summed over the tokens of document m, and I is 1 + delta where the two are of a kind and
    1 - delta otherwise. The first half of the experts, the smaller one, is for knowledge and the rest for tasks; here
    raw texts are knowledge and conversations are tasks. As printed, Z is even where an expert of the other kind has
    (1 + delta) / (1 - delta) times the weight.

    The official code has mean(Z)^2 in place of mean(Z) and the variance of a sample: `formula="repo"`. Differs from
    both: a mean over layers in place of their sum, so that a balance means the same on another model. Routing is by
    token, so that nothing is inferred about experiences, and what the scenario tells is not used. It adds no fixed
    matrix to a layer, so that it is not folded. The term costs a second pass over each batch.

    Memory: none beside the weights, which do not grow.

    Args:
        experts: adapters on each layer.
        rank: of each.
        alpha: an expert's output is scaled by alpha / rank; None takes 2 * rank.
        targets: leaf names of the layers that have experts; "all-linear" takes all but the head.
        balance: beta, weight of the added term; 0 leaves it away.
        delta: how unevenly kinds are to be spread, in [0, 1].
        formula: see above.
    """

    keeps: ClassVar[str] = "nothing"
    computes: ClassVar[str] = "all experts, each pass; a second pass, each batch"

    experts: int = 6
    rank: int = 4
    alpha: float | None = None
    targets: str | tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    balance: float = 0.1
    delta: float = 0.1
    formula: Formula = "paper"

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        if min(self.experts, self.rank) < 1 or self.balance < 0 or not 0 <= self.delta <= 1:
            raise ConfigError(f"{self}: experts and rank are 1 or more, balance 0 or more, delta in [0, 1].")

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        """Put the experts and their gates there; all of them learn."""
        shape = Shape(self.rank, (2.0 * self.rank if self.alpha is None else self.alpha) / self.rank)
        banks = grow(model.module, self.targets, [shape] * self.experts).values()
        for bank in banks:
            if not isinstance(bank.gate, TokenGate):
                bank.gate = TokenGate(bank.in_features, self.experts).to(bank.weight.device, bank.kind)
            for part in (bank.A, bank.B, bank.gate):
                part.requires_grad_(True)
        return model

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """The balance of the experts on this batch."""
        if not self.balance or self.experts == 1:
            return 0.0
        places = documents(batch)
        if len(batch.examples) != len(places):
            raise MethodError(f"{self} has to know each document's example, and the objective's batches do not say it.")
        kinds = torch.tensor([bool(example.text) for example in batch.examples])
        gates = [module for module in ctx.model.module.modules() if isinstance(module, TokenGate)]
        with ctx.model.padded(), listening(gates):
            ctx.model.hidden(batch)
            sums = [torch.stack([gate.heard[0][row, here].sum(0) for row, here in places]) for gate in gates]
        return self.balance * torch.stack([imbalance(q, kinds, self.delta, self.formula) for q in sums]).mean()


def imbalance(weights: Tensor, knowledge: Tensor, delta: float, formula: Formula = "paper") -> Tensor:
    """How unevenly experts share documents, arXiv:2312.09979, eq. 6 to 8.

    Args:
        weights: (M, N) of each expert, summed over the tokens of each document.
        knowledge: (M,) bool, whether a document is knowledge, as the first N // 2 experts are.
        delta: how unevenly kinds are to be spread.
        formula: see `MoELoRA`.
    """
    experts = torch.arange(weights.shape[1], device=weights.device) < weights.shape[1] // 2
    alike = experts == knowledge.to(weights.device)[:, None]
    z = weights * torch.where(alike, 1 + delta, 1 - delta).to(weights.dtype)
    if formula == "repo":
        return z.var() / z.mean() ** 2
    return z.var(correction=0) / z.mean()


class TokenGate(nn.Module):
    """softmax(W_g x) over experts, for each token (arXiv:2312.09979, eq. 4).

    Args:
        width: of x.
        experts: how many.
    """

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(experts, width), a=5**0.5))
        self.listened, self.heard = False, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        """(..., experts) of (..., width)."""
        found = (x.to(self.weight.dtype) @ self.weight.T).softmax(-1)
        if self.listened:
            self.heard.append(found)
        return found
