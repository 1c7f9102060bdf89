"""Log-probabilities, entropies and divergences at the supervised positions alone: never a (B, T, V) tensor.

The head multiplies the hidden states h of N positions by the (V, D) output embedding W, CHUNK positions at a time. What
is wanted of the logits x = W h is one number f(x) a position, and its gradient with respect to h is (df/dx) W. That
does not depend on the upstream gradient but for a scalar factor, so with a frozen head it is made during the forward
pass and nothing is recomputed. A trained head recomputes its logits chunk by chunk in the backward pass.

With p = softmax(x): a log-probability has df/dx = e_y - p; the entropy H = -sum p log p has -p (log p + H); the
divergence KL(p || q) = sum p log(p / q) from fixed q has p (log(p / q) - KL).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.functional import linear

CHUNK = 256
"""Positions whose logits are there at a time: 256 x 49152 are 25 MB in half precision. Larger blocks of memory go back
to the system each time, and cost as much in page faults as they save in the matrix product."""
ROWS = 16
"""Positions that are normalised at a time in full precision: they stay in the processor's cache."""

Statistic = Callable[[Tensor, slice], Tensor]
"""(n, V) logits of the positions in a slice to n values; df/dx is left in the place of the logits."""


class _Head(torch.autograd.Function):
    """A statistic of the logits without logits kept; see the module's docstring."""

    @staticmethod
    def forward(ctx: FunctionCtx, hidden: Tensor, weight: Tensor, bias: Tensor | None, statistic: Statistic) -> Tensor:
        learns, *trained = ctx.needs_input_grad[:3]  # type: ignore[attr-defined]
        early = learns and not any(trained)
        values, slopes = [_empty(hidden)], []
        for part in _chunks(len(hidden)):
            logits = linear(hidden[part], weight, bias)
            values.append(statistic(logits, part))
            if early:
                slopes.append(logits @ weight)
        ctx.statistic = statistic  # type: ignore[attr-defined]
        ctx.save_for_backward(hidden, weight, bias, torch.cat(slopes) if slopes else None)  # type: ignore[arg-type]
        return torch.cat(values)

    @staticmethod
    def backward(ctx: FunctionCtx, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        hidden, weight, bias, slopes = ctx.saved_tensors  # type: ignore[attr-defined]
        (grad,) = upstream
        if slopes is not None:
            return slopes * grad[:, None].to(slopes.dtype), None, None, None
        grad_hidden, grad_weight = torch.zeros_like(hidden), torch.zeros_like(weight, dtype=grad.dtype)
        grad_bias = torch.zeros(len(weight), dtype=grad.dtype, device=grad.device)
        for part in _chunks(len(hidden)):
            slope = linear(hidden[part], weight, bias)
            ctx.statistic(slope, part)  # type: ignore[attr-defined]
            slope *= grad[part, None].to(slope.dtype)
            grad_hidden[part] = slope @ weight
            grad_weight += (slope.T @ hidden[part]).to(grad.dtype)
            grad_bias += slope.sum(0, dtype=grad.dtype)
        return grad_hidden, grad_weight.to(weight.dtype), None if bias is None else grad_bias.to(bias.dtype), None


class _Dense(torch.autograd.Function):
    """A statistic of logits that are there."""

    @staticmethod
    def forward(ctx: FunctionCtx, logits: Tensor, statistic: Statistic) -> Tensor:
        slope = logits.clone()
        value = statistic(slope, slice(0, len(logits)))
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx: FunctionCtx, *upstream: Tensor) -> tuple[Tensor, None]:
        (slope,), (grad,) = ctx.saved_tensors, upstream  # type: ignore[attr-defined]
        return slope * grad[:, None].to(slope.dtype), None


@dataclass(frozen=True)
class Said:
    """What a model said at N positions, to hold another one against; no gradient reaches it.

    Args:
        states: (N, D) last hidden states; or (N, V) logits, where there is no head.
        weight: (V, D) output embedding.
        bias: (V,) or None.
    """

    states: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None

    def logits(self, part: slice) -> Tensor:
        """(n, V) logits at the positions in a slice; a copy."""
        with torch.no_grad():
            return (
                self.states[part].clone() if self.weight is None else linear(self.states[part], self.weight, self.bias)
            )


def head_statistic(hidden: Tensor, weight: Tensor, bias: Tensor | None, statistic: Statistic) -> Tensor:
    """Any statistic of the logits at N positions: (N,), differentiable like `head_logprobs`."""
    return _Head.apply(hidden, weight, bias, statistic)  # type: ignore[no-any-return, no-untyped-call]


def dense_statistic(logits: Tensor, statistic: Statistic) -> Tensor:
    """Any statistic of (N, V) logits: (N,), differentiable."""
    return _Dense.apply(logits, statistic)  # type: ignore[no-any-return, no-untyped-call]


def squared_norm(logits: Tensor, part: slice) -> Tensor:
    """The statistic |x - mean(x)|^2: the squared length of what a softmax sees of the logits."""
    found = []
    for rows in torch.split(logits, ROWS):
        exact = rows.to(_precise(logits))
        centred = exact - exact.mean(-1, keepdim=True)
        found.append((centred**2).sum(-1))
        rows.copy_(2 * centred)
    return torch.cat(found)


def entropy(logits: Tensor, part: slice) -> Tensor:
    """The statistic H = -sum p log p, in nats; df/dx is -p (log p + H)."""
    found = []
    for rows in torch.split(logits, ROWS):
        logp = rows.log_softmax(-1, _precise(logits))
        p = logp.exp()
        found.append(-(p * logp).sum(-1))
        rows.copy_(p.mul_(logp.add_(found[-1][:, None])).neg_())
    return torch.cat(found)


def divergence_from(said: Said, temperature: float = 1.0, forward: bool = True) -> Statistic:
    """The statistic KL(q || p), or KL(p || q) where not forward, in nats over the whole vocabulary.

    With logits x and temperature T, p = softmax(x / T), and q likewise of what was said. df/dx is (p - q) / T, or
    p (log(p / q) - KL) / T.

    Args:
        said: the reference, at the same positions.
        temperature: T, of both.
        forward: whether the reference stands first: the model is charged where it misses what the reference does.
    """

    def statistic(logits: Tensor, part: slice) -> Tensor:
        found = []
        for rows, fixed in zip(torch.split(logits, ROWS), torch.split(said.logits(part), ROWS), strict=True):
            logp = (rows.to(_precise(logits)) / temperature).log_softmax(-1)
            logq = (fixed.to(logp.dtype) / temperature).log_softmax(-1)
            p, q, ratio = logp.exp(), logq.exp(), logp - logq
            found.append(-(q * ratio).sum(-1) if forward else (p * ratio).sum(-1))
            slope = p - q if forward else p * (ratio - found[-1][:, None])
            rows.copy_(slope / temperature)
        return torch.cat(found)

    return statistic


def head_logprobs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float = 1.0
) -> Tensor:
    """Log-probability of each target, in nats.

    Args:
        hidden: (N, D) last hidden states at the positions before the targets.
        weight: (V, D) output embedding.
        bias: (V,) or None.
        targets: (N,) token ids.
        temperature: logits are divided by it, in full precision.

    Returns:
        (N,) in fp32 (fp64 for fp64 models), differentiable in `hidden`, `weight` and `bias`.
    """

    def chosen(logits: Tensor, part: slice) -> Tensor:
        mine = targets[part, None]
        scores = logits.gather(-1, mine)[:, 0].to(_precise(logits)) / temperature
        norms = []
        for rows in torch.split(logits, ROWS):
            cooled = rows if temperature == 1 else rows.to(_precise(logits)) / temperature
            p = cooled.softmax(-1, _precise(logits))
            norms.append(_norm(cooled, p))
            rows.copy_(p.neg_() if temperature == 1 else p.neg_().div_(temperature))
        logits[torch.arange(len(mine), device=mine.device), mine[:, 0]] += 1 / temperature
        return scores - torch.cat(norms)

    return _Head.apply(hidden, weight, bias, chosen)  # type: ignore[no-any-return, no-untyped-call]


def head_scores(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each target in nats, and whether it is the most probable token; both (N,), no gradient."""
    scores, hits = [_empty(hidden)], [targets.new_zeros(0, dtype=torch.bool)]
    with torch.no_grad():
        for part in _chunks(len(hidden)):
            logits, mine = linear(hidden[part], weight, bias), targets[part]
            norms = [_norm(rows, rows.softmax(-1, _precise(rows))) for rows in torch.split(logits, ROWS)]
            chosen = logits.gather(-1, mine[:, None])[:, 0]
            scores.append(chosen.to(_precise(logits)) - torch.cat(norms))
            hits.append(_is_first_largest(logits, mine, chosen))
    return torch.cat(scores), torch.cat(hits)


def said_logprobs(said: Said, at: Tensor, targets: Tensor) -> Tensor:
    """Log-probability in nats of tokens, any number of them at a place; (M,), no gradient.

    Args:
        said: what a model said at N places.
        at: (M,) int64 the place of each token among them.
        targets: (M,) token ids.
    """
    found = _empty(said.states).new_zeros(len(at))
    for part in _chunks(len(said.states)):
        logits, here = said.logits(part), (at >= part.start) & (at < part.stop)
        norms = torch.cat([_norm(rows, rows.softmax(-1, _precise(rows))) for rows in torch.split(logits, ROWS)])
        rows = at[here] - part.start
        found[here] = logits[rows, targets[here]].to(found.dtype) - norms[rows]
    return found


def _is_first_largest(logits: Tensor, targets: Tensor, chosen: Tensor) -> Tensor:
    """Whether `argmax` is the target, (N,) bool; slow on a processor, and only rows that may be right need it."""
    right = chosen == logits.amax(-1)
    right[right.clone()] = logits[right].argmax(-1) == targets[right]
    return right


def _chunks(count: int) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, count, CHUNK)]


def _precise(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _empty(hidden: Tensor) -> Tensor:
    return hidden.new_zeros(0, dtype=_precise(hidden))


def _norm(logits: Tensor, p: Tensor) -> Tensor:
    """Log sum exp of each row, read off the most probable entry, whose probability is 1 / V at least."""
    return logits.amax(-1).to(p.dtype) - p.amax(-1).log()
