"""The head on supervised positions equals log-softmax over all logits, in value and gradient."""

import pytest
import torch
from torch import Tensor

from everlearn.models import logprobs
from everlearn.models.logprobs import head_logprobs, head_scores


def parts(trained: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(13, 6, generator=rng, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(9, 6, generator=rng, dtype=torch.float64, requires_grad=trained)
    bias = torch.randn(9, generator=rng, dtype=torch.float64, requires_grad=trained)
    return hidden, weight, bias, torch.randint(9, (13,), generator=rng)


@pytest.mark.parametrize("trained", [False, True])
def test_value_and_gradients_equal_the_plain_computation(trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "CHUNK", 4)
    hidden, weight, bias, targets = parts(trained)
    upstream = torch.linspace(-1, 2, 13, dtype=torch.float64)
    leaves = [hidden, weight, bias] if trained else [hidden]
    plain = torch.nn.functional.linear(hidden, weight, bias).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    expected = torch.autograd.grad((plain * upstream).sum(), leaves)
    ours = head_logprobs(hidden, weight, bias, targets)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad((ours * upstream).sum(), leaves)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_trained_head_without_bias_and_a_frozen_body() -> None:
    hidden, weight, _, targets = parts(True)
    (found,) = torch.autograd.grad(head_logprobs(hidden.detach(), weight, None, targets).sum(), [weight])
    plain = (hidden.detach() @ weight.T).log_softmax(-1).gather(-1, targets[:, None]).sum()
    torch.testing.assert_close(found, torch.autograd.grad(plain, [weight])[0], rtol=1e-10, atol=1e-10)


def test_no_positions_give_no_log_probabilities() -> None:
    hidden, weight, bias, targets = parts(False)
    assert head_logprobs(hidden[:0], weight, bias, targets[:0]).shape == (0,)
    assert [t.shape for t in head_scores(hidden[:0], weight, bias, targets[:0])] == [(0,), (0,)]


def test_scores_say_which_token_is_the_most_probable() -> None:
    hidden, weight, bias, targets = parts(False)
    logp, hits = head_scores(hidden, weight, bias, targets)
    torch.testing.assert_close(logp, head_logprobs(hidden, weight, bias, targets), rtol=1e-12, atol=1e-12)
    best = torch.nn.functional.linear(hidden, weight, bias).argmax(-1)
    assert hits.tolist() == (best == targets).tolist()
