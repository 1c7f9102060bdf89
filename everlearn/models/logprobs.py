"""Log-probabilities at the supervised positions alone, in chunks: never a (B, T, V) tensor.

The head multiplies the hidden states of N positions by the (V, D) output embedding. The gradient of a token's
log-probability with respect to its hidden state h is W[y] - sum_v p_v W[v]; it does not depend on the upstream
gradient but for a scalar factor, so with a frozen head it is made during the forward pass and nothing is recomputed.
A trained head recomputes its logits chunk by chunk in the backward pass.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

CHUNK = 512
"""Positions scored at a time: 512 x 49152 logits are 100 MB in fp32."""


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias)
    return logits if logits.dtype == torch.float64 else logits.float()


class _Head(torch.autograd.Function):
    """Log-probabilities without logits kept; see the module's docstring."""

    @staticmethod
    def forward(ctx: FunctionCtx, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        early = ctx.needs_input_grad[0] and not ctx.needs_input_grad[1]  # type: ignore[attr-defined]
        scores, slopes = [], []
        for h, y in zip(torch.split(hidden, CHUNK), torch.split(targets, CHUNK), strict=True):
            logp = _logits(h, weight, bias).log_softmax(-1)
            scores.append(logp.gather(-1, y[:, None])[:, 0])
            if early:
                slopes.append(weight[y] - logp.exp_().to(weight.dtype) @ weight)
        ctx.save_for_backward(hidden, weight, bias, targets, torch.cat(slopes) if slopes else None)  # type: ignore[arg-type]
        return torch.cat(scores) if scores else hidden.new_zeros(0)

    @staticmethod
    def backward(ctx: FunctionCtx, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        hidden, weight, bias, targets, slopes = ctx.saved_tensors  # type: ignore[attr-defined]
        (grad,) = upstream
        if slopes is not None:
            return (slopes * grad[:, None].to(slopes.dtype)), None, None, None
        grad_hidden, grad_weight = torch.zeros_like(hidden), torch.zeros_like(weight, dtype=grad.dtype)
        grad_bias = torch.zeros(len(weight), dtype=grad.dtype, device=grad.device)
        for start in range(0, len(hidden), CHUNK):
            part = slice(start, start + CHUNK)
            error = -_logits(hidden[part], weight, bias).softmax(-1)
            error[torch.arange(len(error), device=error.device), targets[part]] += 1
            error *= grad[part, None]
            grad_hidden[part] = error.to(weight.dtype) @ weight
            grad_weight += (error.to(hidden.dtype).T @ hidden[part]).to(grad.dtype)
            grad_bias += error.sum(0)
        return grad_hidden, grad_weight.to(weight.dtype), None if bias is None else grad_bias.to(bias.dtype), None


def head_logprobs(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Log-probability of each target, in nats.

    Args:
        hidden: (N, D) last hidden states at the positions before the targets.
        weight: (V, D) output embedding.
        bias: (V,) or None.
        targets: (N,) token ids.

    Returns:
        (N,) in fp32 (fp64 for fp64 models), differentiable in `hidden`, `weight` and `bias`.
    """
    return _Head.apply(hidden, weight, bias, targets)  # type: ignore[no-any-return, no-untyped-call]


def head_scores(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each target in nats, and whether it is the most probable token; both (N,), no gradient."""
    scores, hits = [hidden.new_zeros(0, dtype=torch.float32)], [targets.new_zeros(0, dtype=torch.bool)]
    with torch.no_grad():
        for h, y in zip(torch.split(hidden, CHUNK), torch.split(targets, CHUNK), strict=True):
            logits = _logits(h, weight, bias)
            scores.append(logits.gather(-1, y[:, None])[:, 0] - logits.logsumexp(-1))
            hits.append(logits.argmax(-1) == y)
    return torch.cat(scores), torch.cat(hits)
