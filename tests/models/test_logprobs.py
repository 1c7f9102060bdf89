"""The head on supervised positions equals log-softmax over all logits, in value and gradient."""

import math

import pytest
import torch
from torch import Tensor

from everlearn.models import logprobs
from everlearn.models.logprobs import (
    Said,
    dense_statistic,
    divergence_from,
    entropy,
    head_logprobs,
    head_scores,
    head_statistic,
    squared_norm,
)


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


@pytest.mark.parametrize("trained", [False, True])
def test_entropies_and_divergences_equal_the_plain_computation(trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "CHUNK", 4)
    monkeypatch.setattr(logprobs, "ROWS", 3)
    hidden, weight, bias, _ = parts(trained)
    other, rng = torch.randn(13, 5, dtype=torch.float64), torch.Generator().manual_seed(1)
    head = (torch.randn(9, 5, generator=rng, dtype=torch.float64), torch.randn(9, generator=rng, dtype=torch.float64))
    upstream, leaves = torch.linspace(-1, 2, 13, dtype=torch.float64), [hidden, weight, bias] if trained else [hidden]
    logp = torch.nn.functional.linear(hidden, weight, bias).log_softmax(-1)
    logq = torch.nn.functional.linear(other, *head).log_softmax(-1)
    plain = (-(logp.exp() * logp).sum(-1), (logp.exp() * (logp - logq)).sum(-1))
    asked = (entropy, divergence_from(Said(other, *head), forward=False))
    ours = tuple(head_statistic(hidden, weight, bias, statistic) for statistic in asked)
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)
        found, expected = (torch.autograd.grad((v * upstream).sum(), leaves, retain_graph=True) for v in (mine, theirs))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_two_tokens_by_hand() -> None:
    hidden, weight = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    p = 1 / (1 + math.exp(-1))
    assert head_logprobs(hidden, weight, None, torch.tensor([0])).item() == pytest.approx(math.log(p))
    expected = -p * math.log(p) - (1 - p) * math.log(1 - p)
    assert head_statistic(hidden, weight, None, entropy).item() == pytest.approx(expected)
    even = divergence_from(Said(torch.zeros(1, 2, dtype=torch.float64), weight), forward=False)
    assert head_statistic(hidden, weight, None, even).item() == pytest.approx(math.log(2) - expected)


def test_half_precision_rounds_the_logits_alone() -> None:
    rng = torch.Generator().manual_seed(2)
    hidden = torch.randn(40, 32, generator=rng).bfloat16()
    weight, targets = torch.randn(500, 32, generator=rng).bfloat16(), torch.randint(500, (40,), generator=rng)
    logits = torch.nn.functional.linear(hidden, weight).double()
    exact = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(head_logprobs(hidden, weight, None, targets).double(), exact, rtol=0, atol=1e-5)
    torch.testing.assert_close(head_scores(hidden, weight, None, targets)[0].double(), exact, rtol=0, atol=1e-5)


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


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_statistics_equal_the_plain_computation(
    trained: bool, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "CHUNK", 4)
    monkeypatch.setattr(logprobs, "ROWS", 3)
    hidden, weight, bias, _ = parts(trained)
    rng = torch.Generator().manual_seed(1)
    said = Said(*(torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in ((13, 5), (9, 5), (9,))))
    upstream, leaves = torch.linspace(-1, 2, 13, dtype=torch.float64), [hidden, weight, bias] if trained else [hidden]
    logits, others = torch.nn.functional.linear(hidden, weight, bias), said.logits(slice(0, 13))
    logp, logq = ((x / temperature).log_softmax(-1) for x in (logits, others))
    pairs = [
        (squared_norm, ((logits - logits.mean(-1, keepdim=True)) ** 2).sum(-1)),
        (divergence_from(said, temperature), (logq.exp() * (logq - logp)).sum(-1)),
        (divergence_from(said, temperature, forward=False), (logp.exp() * (logp - logq)).sum(-1)),
        (divergence_from(Said(others), temperature), (logq.exp() * (logq - logp)).sum(-1)),
    ]
    for statistic, plain in pairs:
        expected = torch.autograd.grad((plain * upstream).sum(), leaves, retain_graph=True)
        for ours in (head_statistic(hidden, weight, bias, statistic), dense_statistic(logits, statistic)):
            torch.testing.assert_close(ours, plain, rtol=1e-11, atol=1e-11)
            found = torch.autograd.grad((ours * upstream).sum(), leaves, retain_graph=True)
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_squared_norm_and_a_divergence_by_hand() -> None:
    # |(3, 1) - (2, 2)|^2 = 2, with gradient 2 (1, -1); a shift of both logits changes nothing.
    for shift in (0.0, 5.0):
        logits = (torch.tensor([[3.0, 1.0]]) + shift).requires_grad_()
        value = dense_statistic(logits, squared_norm)
        assert value.item() == 2
        assert torch.autograd.grad(value.sum(), logits)[0].tolist() == [[2.0, -2.0]]
    # q = (3/4, 1/4), p = (1/2, 1/2): KL(q || p) = 3/4 ln 3/2 + 1/4 ln 1/2 and p - q = (-1/4, 1/4);
    # at T = 2 the same of logits twice as far apart, and half the slope.
    for temperature in (1.0, 2.0):
        said = Said(torch.tensor([[temperature * math.log(3), 0.0]]))
        even = torch.zeros(1, 2, requires_grad=True)
        value = dense_statistic(even, divergence_from(said, temperature))
        assert value.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
        slope = torch.autograd.grad(value.sum(), even)[0].flatten().tolist()
        assert slope == pytest.approx([-0.25 / temperature, 0.25 / temperature])


def test_a_statistic_leaves_what_was_said_alone() -> None:
    said = Said(torch.tensor([[1.0, 2.0]]))
    dense_statistic(torch.zeros(1, 2, requires_grad=True), divergence_from(said)).sum().backward()  # type: ignore[no-untyped-call]
    assert said.states.tolist() == [[1.0, 2.0]]
