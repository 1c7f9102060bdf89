"""The policy gradient's losses and advantages are TRL's on the same tensors, where TRL has them."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from everlearn.data.packing import collate
from everlearn.examples import Batch
from everlearn.models.sampling import Sampling
from everlearn.objectives.advantages import advantages
from everlearn.objectives.groups import Attempt, rows_of, with_value
from everlearn.objectives.policy_gradient import PolicyGradient
from everlearn.objectives.rollouts import SingleTurn
from everlearn.objectives.surrogates import CISPO, Clip, SequenceClip
from everlearn.rewards.text import Exact
from everlearn.testing.toys import question
from everlearn.traces import Trace

trl = pytest.importorskip("trl", reason="needs TRL: pip install 'everlearn[trl]'.")
LIMIT, SIZES = 5, (3, 5, 1, 4)  # tokens of four attempts at one prompt
ADVANTAGES = (1.2, -0.7, 0.4, -1.5)


class Fixed:
    """A model whose log-probabilities are given, one for each drawn token in turn."""

    packs = True

    def __init__(self, logprobs: Tensor) -> None:
        self.logprobs = logprobs

    def token_logprobs(self, batch: Batch, targets: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        return self.logprobs


def numbers() -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities now, when drawn, and under a reference, (13,) each."""
    draw = torch.Generator().manual_seed(0)
    now = -torch.rand(sum(SIZES), generator=draw, dtype=torch.float64) * 3
    old = now + torch.randn(now.shape, generator=draw, dtype=torch.float64) * 0.4
    return now, old, now + torch.randn(now.shape, generator=draw, dtype=torch.float64) * 0.3


def ours(objective: PolicyGradient) -> tuple[float, Tensor]:
    """The loss, and its slope by the log-probabilities."""
    now, old, reference = numbers()
    at, attempts = 0, []
    for size, advantage in zip(SIZES, ADVANTAGES, strict=True):
        trace = Trace((7, 8), tuple(range(9, 9 + size)), (True,) * size, tuple(old[at : at + size].tolist()))
        attempts.append(Attempt(question("a", "b"), trace, advantage))
        at += size
    batch = collate(rows_of(attempts, True, 256, True, objective.count), True)
    batch = with_value(batch, "reference", reference)
    loss = objective.loss(Fixed(now.requires_grad_()), batch)  # type: ignore[arg-type]
    return loss.item(), torch.autograd.grad(loss, now)[0]


def theirs(loss: str, level: str, high: float, beta: float, delta: float | None) -> tuple[float, Tensor]:
    """TRL's own method, with a stand-in for the trainer around it."""
    mask = torch.zeros(len(SIZES), LIMIT)
    for row, size in enumerate(SIZES):
        mask[row, :size] = 1
    now, old, reference = (padded(values, mask) for values in numbers())
    now.requires_grad_()
    arguments = SimpleNamespace(delta=delta, use_bias_correction_kl=False, steps_per_generation=1)
    accelerator = SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x)
    trainer: Any = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (now, torch.zeros_like(mask), None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        beta=beta,
        importance_sampling_level=level,
        loss_type=loss,
        epsilon_low=0.2,
        epsilon_high=high,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=LIMIT,
        args=arguments,
        accelerator=accelerator,
        model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
    )
    given = {"prompt_ids": mask[:, :1].long(), "prompt_mask": mask[:, :1], "completion_ids": mask.long()}
    given |= {"completion_mask": mask, "advantages": torch.tensor(ADVANTAGES, dtype=torch.float64)}
    given |= {"old_per_token_logps": old, "ref_per_token_logps": reference, "num_items_in_batch": mask.sum()}
    found = trl.GRPOTrainer._compute_loss(trainer, None, given)
    return found.item(), torch.autograd.grad(found, now)[0][mask.bool()]


def padded(values: Tensor, mask: Tensor) -> Tensor:
    found = torch.zeros(mask.shape, dtype=torch.float64)
    found[mask.bool()] = values
    return found


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"average": "attempts", "kl": 0.04}, ("grpo", "token", 0.2, 0.04, None)),
        ({"average": "constant"}, ("dr_grpo", "token", 0.2, 0.0, None)),
        ({"surrogate": Clip(0.2, 0.28)}, ("dapo", "token", 0.28, 0.0, None)),
        ({"surrogate": Clip(0.2, 0.28), "kl": 0.1}, ("bnpo", "token", 0.28, 0.1, None)),
        ({"surrogate": SequenceClip(0.2, 0.2), "average": "attempts"}, ("grpo", "sequence", 0.2, 0.0, None)),
        ({"surrogate": CISPO(0.5)}, ("cispo", "token", 1.5, 0.0, None)),
    ],
    ids=["GRPO", "Dr. GRPO", "DAPO", "BNPO with KL", "GSPO", "CISPO"],
)
def test_a_loss_is_trls(fields: dict[str, Any], asked: tuple[str, str, float, float, float | None]) -> None:
    objective = PolicyGradient(Exact(), rollout=SingleTurn(Sampling(limit=LIMIT)), **fields)
    (mine, slope), (other, wanted) = ours(objective), theirs(*asked)
    assert mine == pytest.approx(other, abs=1e-6)
    assert torch.allclose(slope, wanted, atol=1e-6)


def test_advantages_by_group_and_batch_are_trls() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.5, 0.25], [3.0, 1.0, 1.0, 2.0]], dtype=torch.float64)
    groups = [number for number in range(2) for _ in range(4)]
    centred = rewards - rewards.mean(1, keepdim=True)
    nanstd = pytest.importorskip("trl.trainer.utils").nanstd
    wanted = {
        "none": centred,
        "group": centred / (nanstd(rewards, dim=1, keepdim=True) + 1e-4),
        "batch": centred / (nanstd(rewards) + 1e-4),
    }
    for scale, expected in wanted.items():
        found = advantages(rewards.flatten().tolist(), groups, "mean", scale)  # type: ignore[arg-type]
        assert found == pytest.approx(expected.flatten().tolist(), abs=1e-6)
