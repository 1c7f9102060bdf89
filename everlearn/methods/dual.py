"""Two adapters for each experience: one off what old experiences have read, one where the new one alone reads."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import linear

from everlearn.errors import ConfigError
from everlearn.examples import Example
from everlearn.method import Context, Method, Tensors
from everlearn.models.bank import Bank, Shape, banks, listening
from everlearn.models.bank import grow as grow_banks
from everlearn.models.language_model import LanguageModel
from everlearn.models.lora import chosen
from everlearn.models.moments import all_tokens, input_moments, input_statistics, prompt_tokens
from everlearn.models.prompts import prompt_batches
from everlearn.models.routes import Request, Routes, Switch, one_hot, routed_by
from everlearn.models.subspace import Subspace, grow, spectrum
from everlearn.randomness import permutation
from everlearn.types import Memory

Gating = Literal["share", "cosine"]
Identity = Literal["own", "residual"]


@dataclass(frozen=True)
class DualLoRA(Method):
    """Orthogonal and residual adapters under a dynamic memory (DualLoRA, arXiv:2411.00623): a reconstruction.

    y = W x + sum_t O_t x + sum_t w_t(x) R_t x, after experiences t. O_t = B_t A_t is a low-rank adapter whose A stays
    off the subspace Psi of what earlier experiences have read: its movement under the optimiser is projected, so that O
    adds nothing to what they see. R_t = B_t Phi_t' has fixed rows, the strongest directions of the new experience's
    inputs off Psi, and only its B learns. The dynamic memory w_t(x) = |Theta_t' z|^2 / sum_s |Theta_s' z|^2 says for
    each token how much of R_t answers; z = x - m, and Theta_t are bases that experience t is told by. On the mean over
    layers and a prompt's tokens it gives the posterior of the experience, p = softmax(sharpness * w); with c the
    largest of it, a candidate of experience t is chosen with its probability times (1 - c) + c p_t.

    Neither code nor equations were to be had, and the paper is about image classifiers. Open choices, taken so:

    - What an experience is told by (`identity`). "own": Theta_t are the `rank` strongest directions of its own inputs
      about m, the mean of the first experience's, at the tokens of its prompts (of raw documents, at all). "residual":
      Theta_t = Phi_t and m = 0, which is what descriptions of the paper say in words. It cannot tell experiences apart
      where their inputs have strong directions in common, as a language model's always have (the cosine of two prompts'
      is 0.94 on the embedded model, a chat template's part above all): those are all in Phi_1, and every prompt is
      taken for the first experience's. Taking off the mean alone does not cure it.
    - A new O and R for each experience, the old frozen, since a shared B would undo what A's projection keeps. While
      R_t learns it answers with weight 1 and no other R does (the paper's "no interaction"), by the origin of examples;
      where the scenario tells the experience it is so at inference too.
    - Phi and Psi are those of the inputs at all tokens, where the paper has class tokens. Psi takes the fewest
      directions that, with it and Phi_t, hold a share of the inputs' energy as they are after learning, and the share
      rises to 0.99; Phi_t has `rank` directions, whatever their energy.
    - `gating="cosine"` takes w_t(x) = |Theta_t' z| / |z|. A candidate of no experience counts as one of posterior 0.

    Look at the routing accuracy before it is trusted. Not folded, since w depends on the input. Memory for each adapted
    layer: at most 2 in^2 bytes for Psi, 4 in for m, and 8 rank in for Phi and Theta of each experience; a version grows
    by 4 rank (in + 2 out) for each.

    Args:
        rank: of each adapter.
        alpha: adapters are scaled by alpha / rank; None takes 2 * rank.
        targets: leaf names of the layers to adapt; "all-linear" takes all but the head.
        energy: epsilon, the share of energy at the first experience.
        rise: what is added to it after each experience, up to 0.99.
        samples: examples from which the inputs of an experience are known.
        gating: see above.
        sharpness: kappa.
        identity: see above.
    """

    keeps: ClassVar[str] = "2 in^2 a layer, in all; 8 r in a layer and experience"
    computes: ClassVar[str] = "all adapters, each pass; moments and an SVD a layer, two at the start, one at the end"

    rank: int = 8
    alpha: float | None = None
    targets: str | tuple[str, ...] = "all-linear"
    energy: float = 0.95
    rise: float = 0.005
    samples: int = 256
    gating: Gating = "share"
    sharpness: float = 10.0
    identity: Identity = "own"

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        if min(self.rank, self.samples) < 1 or not 0 < self.energy <= 1 or min(self.rise, self.sharpness) < 0:
            raise ConfigError(
                f"{self}: rank and samples are 1 or more, energy in (0, 1], rise and sharpness 0 or more."
            )

    def init(self, model: LanguageModel) -> Memory:
        """No adapter, and no old inputs."""
        return {"names": [], "labels": [], "old": {}, "residual": {}, "own": {}, "centre": {}}

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """Two adapters for the new experience, with the residual bases of its inputs."""
        residual = {
            name: [*memory["residual"].get(name, []), self._bases(_subspace(memory, name, moment), moment)]
            for name, moment in self._moments(ctx).items()
        }
        known = {"names": [*memory["names"], ctx.experience.name], "residual": residual, **self._told_by(memory, ctx)}
        return memory | known | {"labels": [*memory["labels"], [label.strip() for label in ctx.experience.labels]]}

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        """Grow the banks: O_t and R_t by turns; the last two learn, of R_t its B alone."""
        names = memory["names"]
        if not names:
            return model
        old = {name: len(bank.shapes) for name, bank in banks(model.module).items()}
        scale = (2.0 * self.rank if self.alpha is None else self.alpha) / self.rank
        router = routed_by(model, _Router, lambda: _Router(self, model))
        router.names, router.labels, router.switch.count = list(names), memory["labels"], len(names)
        shapes = [Shape(self.rank, scale)] * (2 * len(names))
        for name, bank in grow_banks(model.module, self.targets, shapes).items():
            bank.gate = DynamicMemory(bank, router.switch, self.gating, self._told(memory, name))
            with torch.no_grad():
                for number, basis in enumerate(memory["residual"][name]):
                    bank.A[2 * number + 1].copy_(basis)
                if old.get(name, 0) < len(shapes):
                    new = bank.A[-2]
                    new.copy_(_subspace(memory, name, new).off(new.T).T)
            for learns, part in ((True, bank.A[-2]), (True, bank.B[-2]), (False, bank.A[-1])):
                part.requires_grad_(learns)
        return model

    def update(self, memory: Memory, update: Tensors, ctx: Context) -> Tensors:
        """The movement, that of O's rows without its part in what old experiences have read."""
        leaf = f".A.{2 * len(memory['names']) - 2}"
        rows = {name: name.removesuffix(leaf) for name in update if name.endswith(leaf)}
        return dict(update) | {n: _subspace(memory, at, update[n]).off(update[n].T).T for n, at in rows.items()}

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The subspace of old inputs, with those of this experience as they are now."""
        threshold = min(self.energy + self.rise * (len(memory["names"]) - 1), max(self.energy, 0.99))

        def more(name: str, moment: Tensor) -> Memory:
            basis = memory["residual"][name][-1].to(moment, copy=True)
            there = _subspace(memory, name, moment).grown(basis[basis.any(1)].T)
            found = grow(there, moment, threshold, squared=False)
            return {"basis": found.basis.cpu().contiguous(), "complement": found.complement}

        return memory | {"old": {name: more(name, moment) for name, moment in self._moments(ctx).items()}}

    def _bases(self, old: Subspace, moment: Tensor) -> Tensor:
        """(rank, in) the strongest directions off a subspace as rows, zero where there are not so many."""
        vectors = spectrum(moment, old, squared=False)[0][:, : self.rank]
        rows = moment.new_zeros(self.rank, len(moment))
        rows[: vectors.shape[1]] = vectors.T
        return rows.cpu()

    def _moments(self, ctx: Context) -> dict[str, Tensor]:
        return input_moments(ctx.model, chosen(ctx.model.module, self.targets), ctx.batches(self._samples(ctx)))

    def _samples(self, ctx: Context) -> list[Example]:
        train = ctx.experience.train
        picked = permutation(len(train), ctx.seed, ctx.seen, "inputs", *ctx.place)[: self.samples]
        return [train[i] for i in picked]

    def _told_by(self, memory: Memory, ctx: Context) -> dict[str, Memory]:
        """Theta of the new experience beside the old ones', and m; nothing where Phi takes their place."""
        if self.identity == "residual":
            return {}
        asked = [e for e in self._samples(ctx) if not e.text]
        where, batches = prompt_tokens if asked else all_tokens, ctx.batches(asked or self._samples(ctx))
        names = chosen(ctx.model.module, self.targets)
        own, centres = dict[str, list[Tensor]](), dict(memory["centre"])
        for name, (mean, moment) in input_statistics(ctx.model, names, batches, where).items():
            centre = centres.setdefault(name, mean.cpu()).to(mean)
            about = moment - centre.outer(mean) - mean.outer(centre) + centre.outer(centre)
            own[name] = [*memory["own"].get(name, []), self._bases(Subspace.empty(about), about)]
        return {"own": own, "centre": centres}

    def _told(self, memory: Memory, name: str) -> "Told | None":
        """(K, rank, in) Theta and (in,) m of a layer."""
        return None if self.identity == "residual" else (torch.stack(memory["own"][name]), memory["centre"][name])


def shares(x: Tensor, bases: Tensor, gating: Gating = "share") -> Tensor:
    """How much of inputs lies in each experience's bases.

    Args:
        x: (..., in).
        bases: (K, rank, in) orthonormal rows for each experience, or rows of zero.
        gating: see `DualLoRA`.

    Returns:
        (..., K); with "share" they sum to 1, unless nothing of an input lies in any.
    """
    inner: Tensor = linear(x, bases.flatten(0, 1)).view(*x.shape[:-1], *bases.shape[:2])
    energies = inner.square().sum(-1)
    if gating == "cosine":
        return (energies / x.square().sum(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)).sqrt()
    return energies / energies.sum(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


def calibration(posterior: Sequence[float], labels: Sequence[Sequence[str]], candidates: Sequence[str]) -> list[float]:
    """log((1 - c) + c p) for each candidate, in nats.

    Args:
        posterior: p of each experience; the largest is c.
        labels: of each experience.
        candidates: p of one is that of all experiences that have it.
    """
    pairs, sure = list(zip(posterior, labels, strict=True)), max(posterior)
    found = [sum(p for p, own in pairs if candidate.strip() in own) for candidate in candidates]
    return [math.log(max(1 - sure + sure * p, LEAST)) for p in found]


LEAST = 1e-30
"""What stands for a probability of nothing."""
Told = tuple[Tensor, Tensor]
"""(K, rank, in) the bases that experiences are told by, and (in,) what is taken off an input before."""


class DynamicMemory:
    """The gate of a bank of `DualLoRA` (arXiv:2411.00623): 1 for each O_t, and w_t(x) or what the switch says for R_t.

    Args:
        bank: O_t and R_t by turns.
        switch: of the experiences; where it holds no number, the input says it.
        gating: see `DualLoRA`.
        told: None takes the rows of R_t, and takes nothing off.
    """

    def __init__(self, bank: Bank, switch: Switch, gating: Gating, told: Told | None = None) -> None:
        self.bank, self.switch, self.gating, self.told = bank, switch, gating, told
        self.listened, self.heard = False, list[Tensor]()

    def __call__(self, x: Tensor) -> Tensor:
        """(..., 2 K) of (..., in)."""
        weights = self.switch.weights
        if weights is None or bool(weights.isnan().any()):
            own = self._shares(x.to(self.bank.kind))
            if self.listened:
                self.heard.append(own)
            weights = own if weights is None else torch.where(weights.isnan(), own, weights.to(own.dtype))
        return torch.stack([torch.ones_like(weights), weights], -1).flatten(-2)

    def _shares(self, x: Tensor) -> Tensor:
        if self.told is None:
            return shares(x, torch.stack(list(self.bank.A)[1::2]), self.gating)
        bases, centre = self.told = (self.told[0].to(x), self.told[1].to(x))  # moved once
        return shares(x - centre, bases, self.gating)


class _Router:
    """Tells a known experience to the banks, and infers an unknown one from what their dynamic memories say."""

    def __init__(self, method: DualLoRA, model: LanguageModel) -> None:
        self.method, self.model, self.switch = method, model, Switch(0)
        self.names, self.labels = list[str](), list[list[str]]()

    def route(self, requests: Sequence[Request]) -> Routes:
        """1 for a told experience's R; no number where the input says it. A told one that was not learned has none."""
        told = [bool(r.task) or r.origin in self.names for r in requests]
        if not any(told):
            return Routes()
        weights = one_hot([r.task or r.origin for r in requests], self.names).to(self.model.device)
        weights[[row for row, known in enumerate(told) if not known]] = math.nan
        return Routes(weights)

    def identify(self, requests: Sequence[Request]) -> list[tuple[str, float]]:
        """The experience of highest posterior, and that."""
        best = self.posterior([r.prompt for r in requests]).max(1)
        return [(self.names[i], p) for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]

    def calibrate(self, requests: Sequence[Request], offered: Sequence[Sequence[str]]) -> list[list[float]]:
        """The logarithm of (1 - c) + c p for each candidate; 0 where the experience is told, or no label is known."""
        if not any(self.labels):
            return [[0.0] * len(own) for own in offered]
        posteriors = self.posterior([r.prompt for r in requests]).tolist()
        return [
            [0.0] * len(own) if request.task else calibration(posterior, self.labels, own)
            for request, own, posterior in zip(requests, offered, posteriors, strict=True)
        ]

    def posterior(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """(n, K) p of each prompt."""
        gates = [bank.gate for bank in banks(self.model.module).values() if isinstance(bank.gate, DynamicMemory)]
        means = torch.zeros(len(prompts), len(self.names))
        for group, batch in prompt_batches(prompts):
            with torch.no_grad(), self.model.padded(), listening(gates):
                self.model.hidden(batch)
                for place, number in enumerate(group):
                    size = len(prompts[number])
                    heard = [gate.heard[0][place, :size].mean(0) for gate in gates]
                    means[number] = torch.stack(heard).mean(0).to(means)
        return (self.method.sharpness * means).softmax(-1)


def _subspace(memory: Memory, name: str, like: Tensor) -> Subspace:
    """What old experiences have read at a layer, as tensors like another whose last dimension is the layer's input."""
    old = memory["old"].get(name)
    if old is None:
        return Subspace(like.new_zeros(like.shape[-1], 0))
    # A copy, since products round otherwise where memory is laid out otherwise, as it is in what a file gives back.
    return Subspace(old["basis"].to(like, copy=True), old["complement"])
