"""TreeLoRA's tree, bandit and term by hand."""

import math

import pytest
import torch
from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.methods.tree_lora import TreeLoRA, bonus, descend, distance, drawn, grown, leaf, passed
from everlearn.models.lora import adapters
from everlearn.testing.toys import toy_model
from tests.methods import summed

KEYS = ("k_proj", "v_proj")


def test_a_tree_parts_experiences_at_the_median_of_their_product_with_the_mean() -> None:
    # The mean is (0.3, 0.1 / 3): products 0.3, 0.27 + 0.01 / 3, -0.3. Of the first two it is (0.95, 0.05):
    # products 0.95 and 0.855 + 0.005.
    gradients = [torch.tensor(g) for g in ([1.0, 0.0], [0.9, 0.1], [-1.0, 0.0])]
    assert grown(gradients) == [2, [1, 0]]
    assert grown(gradients[:1]) == 0
    assert [leaf([2, [1, 0]], path) for path in ("0", "10", "11")] == [2, 1, 0]


def test_a_path_follows_what_is_unseen_and_then_the_lowest_bound() -> None:
    tree = [2, [1, 0]]
    assert descend(tree, {}, 3, 0) == "0"
    assert descend(tree, {"0": (1, 0.5)}, 3, 1) == "10"
    # At step 1: sqrt(log(2 * 3 * 2 * 3) / (2 n)), 1.34 for n = 1 and 0.67 for n = 4.
    assert bonus(4, 3, 1) == pytest.approx(math.sqrt(math.log(36) / 8))
    seen = {"0": (4, 0.5), "1": (4, 0.4), "10": (1, 0.9), "11": (4, 0.1)}
    assert descend(tree, seen, 3, 1) == "11"  # 0.1 - 0.67 = -0.57 against 0.9 - 1.34 = -0.44
    assert descend(tree, seen | {"0": (1, 0.5)}, 3, 1) == "0"  # 0.5 - 1.34 against 0.4 - 0.67


def test_visits_count_along_the_path() -> None:
    assert passed({"1": (1, 0.2)}, "10", 0.4) == {"1": (2, pytest.approx(0.3)), "10": (1, 0.4)}


def test_the_bandit_settles_on_the_nearest_experience() -> None:
    tree, visits, near = [2, [1, 0]], dict[str, tuple[int, float]](), {0: 0.9, 1: 0.1, 2: 0.9}
    chosen = []
    for step in range(200):
        path = descend(tree, visits, 3, step)
        chosen.append(leaf(tree, path))
        visits = passed(visits, path, near[chosen[-1]])
    assert chosen[-50:].count(1) > 40


def test_the_official_code_prefers_what_is_farther() -> None:
    draws = [drawn([1.0, 5.0], {}, 4, 0, torch.Generator().manual_seed(seed)) for seed in range(300)]
    assert sum(draws) / 300 == pytest.approx(1 / (1 + math.exp(-4)), abs=0.03)
    # Seen 1 and 9 times in an epoch of 4 steps: sqrt(log(2 * 4 * 1 * 2) / 2) = 1.18 against a third of it, 0.39
    seen = {"0": (1, 1.0), "1": (9, 1.0)}
    draws = [drawn([1.0, 1.0], seen, 4, 0, torch.Generator().manual_seed(seed)) for seed in range(300)]
    assert sum(draws) / 300 == pytest.approx(1 / (1 + math.exp(1.1774 - 0.3925)), abs=0.06)


def test_distances_are_parts_of_both_lengths() -> None:
    assert distance(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])) == 1.0
    assert distance(torch.tensor([1.0, 1.0]), torch.tensor([2.0, 0.0])) == 0.5
    assert distance(torch.zeros(2), torch.zeros(2)) == 0.0


def term(formula: str, old: list[list[float]], here: list[list[float]], step: int) -> tuple[Tensor, Tensor]:
    """The term on one layer of rank 1 whose A has two entries that are not zero, and its gradient with these."""
    model = toy_model()
    method = TreeLoRA(1, targets="layers.0.self_attn.q_proj", alignment=0.5, formula=formula)  # type: ignore[arg-type]
    method.params(None, model)
    ((name, layer),) = adapters(model.module).items()
    before = torch.zeros_like(layer.A)
    before[0, :2] = torch.tensor(old)
    with torch.no_grad():
        layer.A.zero_()
        layer.A[0, :2] = torch.tensor(here)
    memory = method.init(model) | {"old": {name: [{"A": before, "g": before}]}, "chosen": {name: 0}}
    ctx = summed.at(model, 0)
    ctx = type(ctx)(ctx.model, ctx.experience, ctx.plan, step=step)
    found = method.loss(memory, next(ctx.batches(ctx.experience.train)), ctx)
    assert isinstance(found, Tensor)
    return found, torch.autograd.grad(found, layer.A)[0][0, :2]


def test_the_term_is_the_cosine_with_the_chosen_adapter_and_rises_over_an_epoch() -> None:
    # (3, 4) with (1, 0): cosine 0.6; 12 rows in batches of 4
    for step, ramp in ((0, 0.0), (1, 1 / 3), (3, 1.0), (9, 1.0)):
        found, _ = term("paper", [[1.0, 0.0]], [[3.0, 4.0]], step)
        assert found.item() == pytest.approx(-0.5 * ramp * 0.6)


def test_the_official_term_makes_the_product_larger_whatever_its_sign() -> None:
    # S = <(3, 4), (1, 0)> = 3: the gradient of -0.5 S / 3; and with -3 in its place, 0.5 S / 3.
    found, grad = term("repo", [[1.0, 0.0]], [[3.0, 4.0]], 3)
    assert (found.item(), grad.tolist()) == (-0.5, [pytest.approx(-0.5 / 3), 0.0])
    found, grad = term("repo", [[1.0, 0.0]], [[-3.0, 4.0]], 3)
    assert (found.item(), grad.tolist()) == (-0.5, [pytest.approx(0.5 / 3), 0.0])


@pytest.mark.parametrize("formula", ["paper", "repo"])
def test_old_experiences_are_remembered_and_each_layer_is_drawn_to_one(formula: str) -> None:
    method = TreeLoRA(2, targets=KEYS, formula=formula)  # type: ignore[arg-type]
    model, state = summed.learned(method, 2)
    (memory,) = state.memory
    assert set(memory["old"]) == set(adapters(model.module))
    assert all(len(past) == 2 and sorted(memory["tree"][name]) == [0, 1] for name, past in memory["old"].items())
    ctx = summed.at(model, 2)
    after = method.step(memory, {n: p.detach() for n, p in ctx.trainable().items()}, {}, ctx)
    assert set(after["chosen"]) == set(memory["old"])
    assert all(sum(n for n, _ in visits.values()) == 1 for visits in after["visits"].values())


def test_the_first_experience_is_plain_lora() -> None:
    _, drawn_state = summed.learned(TreeLoRA(2, targets=KEYS), 1)
    _, plain = summed.learned(TreeLoRA(2, targets=KEYS, alignment=0.0), 1)
    assert all(torch.equal(drawn_state.weights[n], w) for n, w in plain.weights.items())
    _, drawn_state = summed.learned(TreeLoRA(2, targets=KEYS), 2)
    _, plain = summed.learned(TreeLoRA(2, targets=KEYS, alignment=0.0), 2)
    assert not all(torch.equal(drawn_state.weights[n], w) for n, w in plain.weights.items())


def test_folding_does_not_change_the_function() -> None:
    summed.folds_exactly(TreeLoRA(2, targets=KEYS))


def test_numbers_without_a_meaning_are_refused() -> None:
    with pytest.raises(ConfigError, match="alignment is 0 or more"):
        TreeLoRA(alignment=-1.0)
