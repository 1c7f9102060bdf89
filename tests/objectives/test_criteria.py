"""Losses of judged answers, worked by hand on answers of two tokens, and TRL's on the same tensors."""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from everlearn.errors import ConfigError
from everlearn.objectives.criteria import DPO, IPO, KTO, Criterion, Hinge, Judged, RobustDPO, SimPO


def judged(logprobs: list[float], reference: list[float], baseline: float = 0.0) -> Judged:
    """Answers of two tokens, good and bad in turn."""
    count = len(logprobs)
    good = torch.tensor([i % 2 == 0 for i in range(count)])
    numbers = [torch.tensor(values, dtype=torch.float64) for values in (logprobs, reference, [2.0] * count)]
    return Judged(*numbers, good, torch.full((count,), baseline, dtype=torch.float64))


RANDOM = Judged(
    *(torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 5),
    lengths=torch.tensor([2.0, 3.0, 5.0, 1.0, 4.0, 2.0], dtype=torch.float64),
    good=torch.arange(6) % 2 == 0,
    baseline=torch.zeros(6, dtype=torch.float64),
)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


# The chosen answer's tokens have log-probabilities -0.5 and -1.5, with the reference -1 and -2: the log-ratio is 1.
# The rejected one's have -2 and -2, with the reference -1.5 and -1.5: the log-ratio is -1. So d = 2 beta.
PAIR = judged([-2.0, -4.0], [-3.0, -3.0])


@pytest.mark.parametrize(
    ("criterion", "loss"),
    [
        (DPO(beta=0.5), -log_sigmoid(1.0)),
        (DPO(beta=0.5, smoothing=0.2), -0.8 * log_sigmoid(1.0) - 0.2 * log_sigmoid(-1.0)),
        (RobustDPO(beta=0.5, smoothing=0.2), (-0.8 * log_sigmoid(1.0) + 0.2 * log_sigmoid(-1.0)) / 0.6),
        (Hinge(beta=0.25), 0.5),  # 1 - 0.25 * 2
        (Hinge(beta=0.75), 0.0),  # 1 - 0.75 * 2 < 0
        (IPO(beta=0.5), 1.0),  # (2 - 1 / (2 * 0.5))^2
        (IPO(beta=0.5, normalised=True), 0.0),  # by token the ratios are 0.5 and -0.5: (1 - 1)^2
        (IPO(beta=0.25, normalised=True), 1.0),  # (1 - 2)^2
        (SimPO(beta=2.0, margin=0.5), -log_sigmoid(1.5)),  # 2 (-2 / 2) - 2 (-4 / 2) - 0.5
    ],
    ids=str,
)
def test_the_loss_of_a_pair_by_hand(criterion: Criterion, loss: float) -> None:
    assert criterion.losses(PAIR).tolist() == pytest.approx([loss], abs=1e-12)


def test_kto_by_hand() -> None:
    answers = judged([-2.0, -4.0], [-3.0, -3.0], baseline=0.6)
    # Rewards are 0.5 and -0.5, z is 0.3: 1 - sigmoid(0.2), and twice 1 - sigmoid(0.3 + 0.5).
    expected = [1 - 1 / (1 + math.exp(-0.2)), 2 * (1 - 1 / (1 + math.exp(-0.8)))]
    assert KTO(beta=0.5, undesirable=2.0).losses(answers).tolist() == pytest.approx(expected, abs=1e-12)
    assert KTO(beta=0.5, desirable=3.0).losses(answers)[0].item() == pytest.approx(3 * expected[0], abs=1e-12)


@pytest.mark.parametrize(
    ("criterion", "loss"),
    [
        (DPO(beta=0.3), math.log(2)),
        (DPO(beta=0.3, smoothing=0.1), math.log(2)),
        (RobustDPO(beta=0.3), math.log(2)),
        (Hinge(beta=0.3), 1.0),
        (IPO(beta=0.25), 4.0),
        (KTO(beta=0.3), 0.5),
    ],
    ids=str,
)
def test_where_policy_and_reference_are_the_same_the_loss_is_known_and_the_gradient_raises_the_chosen(
    criterion: Criterion, loss: float
) -> None:
    same = torch.tensor([-2.0, -4.0], dtype=torch.float64, requires_grad=True)
    answers = Judged(same, same.detach(), torch.full_like(same, 2), torch.tensor([True, False]), torch.zeros_like(same))
    losses = criterion.losses(answers)
    assert losses.tolist() == pytest.approx([loss] * len(losses), abs=1e-12)
    (gradient,) = torch.autograd.grad(losses.mean(), same)
    assert gradient[0] < 0 < gradient[1]
    assert gradient.sum().item() == pytest.approx(0, abs=1e-12)


def test_dpos_gradient_at_the_reference_is_half_of_beta() -> None:
    same = torch.tensor([-2.0, -4.0], requires_grad=True)
    answers = Judged(same, same.detach(), torch.ones(2), torch.tensor([True, False]), torch.zeros(2))
    (gradient,) = torch.autograd.grad(DPO(beta=0.3).losses(answers).sum(), same)
    assert gradient.tolist() == pytest.approx([-0.15, 0.15])


def test_robust_dpo_is_unbiased_under_flips() -> None:
    e, right, wrong = 0.2, PAIR, judged([-4.0, -2.0], [-3.0, -3.0])
    robust = RobustDPO(beta=0.5, smoothing=e)
    mean = (1 - e) * robust.losses(right) + e * robust.losses(wrong)
    assert_close(mean, DPO(beta=0.5).losses(right))


def test_simpo_looks_at_no_reference() -> None:
    assert_close(SimPO().losses(PAIR), SimPO().losses(judged([-2.0, -4.0], [-9.0, -1.0])))


@pytest.mark.parametrize("make", [DPO, RobustDPO, Hinge, IPO, SimPO, KTO])
def test_numbers_without_a_meaning_are_refused(make: type[DPO]) -> None:
    with pytest.raises(ConfigError, match="beta is 0"):
        make(beta=0)


def test_a_half_of_the_pairs_cannot_be_wrong() -> None:
    for make in (DPO, RobustDPO):
        with pytest.raises(ConfigError, match="smoothing is"):
            make(smoothing=0.5)
    with pytest.raises(ConfigError, match="not negative"):
        KTO(desirable=-1.0)


@pytest.mark.parametrize(
    ("criterion", "kind", "smoothing"),
    [
        (DPO(beta=0.3), "sigmoid", 0.0),
        (RobustDPO(beta=0.3, smoothing=0.1), "robust", 0.1),
        (Hinge(beta=0.3), "hinge", 0.0),
        (IPO(beta=0.3, normalised=True), "ipo", 0.0),
    ],
    ids=["sigmoid", "robust", "hinge", "ipo"],
)
def test_losses_of_pairs_are_trls(criterion: Criterion, kind: str, smoothing: float) -> None:
    trl = pytest.importorskip("trl", reason="TRL is the referee here, and it is not installed")
    own = {"loss_types": [kind], "loss_weights": [1.0], "label_smoothing": smoothing, "f_divergence_type": "reverse_kl"}
    trainer = trainer_like(own | {"ld_alpha": None, "use_weighting": False})
    turned = torch.tensor([0, 2, 4, 1, 3, 5])  # TRL has the chosen answers first
    reference = RANDOM.reference[turned].chunk(2)
    inputs = told(turned) | {"ref_chosen_logps": reference[0], "ref_rejected_logps": reference[1]}
    theirs = trl.DPOTrainer._compute_loss(trainer, said(turned), inputs, False)
    assert_close(criterion.losses(RANDOM).mean(), theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("apart", [0.7, -0.7])
def test_kto_is_trls(apart: float) -> None:
    trl = pytest.importorskip("trl", reason="TRL is the referee here, and it is not installed")
    own = {"loss_type": "kto", "calculate_KL": True, "desirable_weight": 1.5, "undesirable_weight": 0.5}
    trainer = trainer_like(own)
    trainer._compute_kl_logps = lambda model, batch: RANDOM.reference + apart
    inputs = told(torch.arange(6)) | {"ref_logps": RANDOM.reference, "ref_KL_logps": RANDOM.reference}
    theirs = trl.KTOTrainer._compute_loss(trainer, said(torch.arange(6)), inputs | {"label": RANDOM.good}, False)
    answers = replace(RANDOM, baseline=torch.full((6,), max(apart, 0.0), dtype=torch.float64))
    ours = KTO(beta=0.3, desirable=1.5, undesirable=0.5).losses(answers).mean()
    assert_close(ours, theirs, atol=1e-6, rtol=0)


def trainer_like(own: dict[str, Any]) -> SimpleNamespace:
    """What TRL's losses ask of their trainer, which needs a model, a data set and arguments to be made."""
    alone = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)
    asked = {"model": SimpleNamespace(training=False), "accelerator": alone, "aux_loss_enabled": False, "beta": 0.3}
    kept = {"precompute_ref_logps": True, "_metrics": {"eval": defaultdict(list)}, "_total_train_tokens": 0}
    return SimpleNamespace(**asked, **kept, **own)


def told(order: torch.Tensor) -> dict[str, torch.Tensor]:
    """A batch as TRL lays it out: a prompt of one token, and each answer's tokens."""
    mask = (torch.arange(6) >= 1) & (torch.arange(6) <= RANDOM.lengths[order][:, None])
    return {"input_ids": torch.ones(6, 6, dtype=torch.long), "attention_mask": mask, "completion_mask": mask.long()}


def said(order: torch.Tensor) -> Callable[..., SimpleNamespace]:
    """A model whose answers have the log-probabilities of `RANDOM`, all on their first tokens."""
    first = torch.nn.functional.one_hot(torch.zeros(6, dtype=torch.long), 5)
    zeros = torch.zeros(6, 5)
    found = {"log_probs": first * RANDOM.logprobs[order][:, None], "entropy": zeros, "mean_logits": zeros}
    return lambda **_: SimpleNamespace(**found, is_top1=zeros.bool())
