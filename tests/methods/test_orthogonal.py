"""Penalties on new adapters, by hand on two rows and two columns."""

import pytest
import torch
from torch import Tensor, nn

from everlearn.errors import ConfigError
from everlearn.method import Context, Method
from everlearn.methods.growing import Growing
from everlearn.methods.orthogonal import NLoRA, OLoRA, SelfRegularizedCLoRA
from everlearn.models.bank import banks
from everlearn.models.language_model import LanguageModel
from everlearn.testing.toys import toy_model, toy_stream


def penalty(method: Method, pairs: list[tuple[list[list[float]], list[list[float]]]], wide: int = 2) -> Tensor:
    """The penalty on one layer, (2, wide), whose adapters have these A and B."""
    module = nn.Module()
    module.q = nn.Linear(wide, 2, bias=False, dtype=torch.float64)
    model = LanguageModel(module, toy_model().tokenizer, "one layer")
    assert isinstance(method, Growing)
    method.params({"count": len(pairs)}, model)
    (bank,) = banks(module).values()
    with torch.no_grad():
        for i, (a, b) in enumerate(pairs):
            bank.A[i].copy_(torch.tensor(a))
            bank.B[i].copy_(torch.tensor(b))
    ctx = Context(model, toy_stream().experiences[0])
    batch = next(Context(toy_model(), ctx.experience).batches(ctx.experience.train))
    found = method.loss({"count": len(pairs)}, batch, ctx)
    assert isinstance(found, Tensor)
    return found


OLD = ([[1.0, 2.0]], [[1.0], [3.0]])
NEW = ([[3.0, -1.0]], [[2.0], [0.0]])


def test_olora_by_hand() -> None:
    # A_1 A_2^T = 1 * 3 + 2 * -1 = 1, and with (0, 4) as well: 1^2 + (-4)^2
    two = ([[0.0, 4.0]], OLD[1])
    assert penalty(OLoRA(1, orthogonality=0.5), [OLD, NEW]).item() == pytest.approx(0.5)
    assert penalty(OLoRA(1, orthogonality=0.5), [OLD, two, NEW]).item() == pytest.approx(0.5 * 17)


def test_olora_as_in_the_repository_by_hand() -> None:
    # |1| + |-4|, and lengths sqrt(10) and 2
    two = ([[0.0, 4.0]], OLD[1])
    method = OLoRA(1, orthogonality=0.5, decay=0.1, formula="repo")
    assert penalty(method, [OLD, two, NEW]).item() == pytest.approx(0.5 * 5 + 0.1 * (10**0.5 + 2))


def test_olora_of_rank_two_takes_every_pair_of_rows() -> None:
    # rows (1, 0), (0, 2) against (1, 1), (3, 0): products 1, 3, 2, 0
    b = [[1.0, 0.0], [0.0, 1.0]]
    old, new = ([[1.0, 0.0], [0.0, 2.0]], b), ([[1.0, 1.0], [3.0, 0.0]], b)
    assert penalty(OLoRA(2, orthogonality=1.0), [old, new]).item() == pytest.approx(1 + 9 + 4)


def test_there_is_no_penalty_on_a_first_adapter() -> None:
    for method in (OLoRA(1), SelfRegularizedCLoRA(1), OLoRA(1, formula="repo")):
        assert penalty(method, [NEW]).item() == 0


def test_nlora_by_hand() -> None:
    # s B A = 2 * (2, 0)^T (3, -1) = ((12, -4), (0, 0)): the sum of sizes is 16, the mean 4
    assert penalty(NLoRA(1, sparsity=0.5, scaled=False), [OLD, NEW]).item() == pytest.approx(8)
    assert penalty(NLoRA(1, sparsity=0.5), [OLD, NEW]).item() == pytest.approx(2)


def test_nlora_as_in_the_repository_by_hand() -> None:
    # A B = 3 * 2 + -1 * 0 = 6, a matrix of one entry; nothing for a layer that is not square
    assert penalty(NLoRA(1, sparsity=0.5, formula="repo"), [OLD, NEW]).item() == pytest.approx(3)
    wide = ([[1.0, 1.0, 1.0]], NEW[1])
    assert penalty(NLoRA(1, sparsity=0.5, formula="repo"), [wide], wide=3).item() == 0


def test_self_regularised_clora_by_hand() -> None:
    # s B_1 A_1 = 2 ((1, 2), (3, 6)), s B_2 A_2 = 2 ((6, -2), (0, 0)): products 24 and -16
    method = SelfRegularizedCLoRA(1, overlap=0.5, scaled=False)
    assert penalty(method, [OLD, NEW]).item() == pytest.approx(0.5 * (24**2 + 16**2))
    # mean of the old squares: 4 (1 + 4 + 9 + 36) / 4 = 50; over four entries the mean product is (24^2 + 16^2) / 4
    scaled = SelfRegularizedCLoRA(1, overlap=0.5)
    assert penalty(scaled, [OLD, NEW]).item() == pytest.approx(0.5 * (24**2 + 16**2) / 4 / 50)


def test_how_far_old_updates_went_does_not_change_self_regularised_clora() -> None:
    # The old update ten times as large says where, and not how strongly, a new one is held; the new one counts squared.
    farther = (OLD[0], [[10 * x for x in row] for row in OLD[1]])
    twice = (NEW[0], [[2 * x for x in row] for row in NEW[1]])
    method = SelfRegularizedCLoRA(1, overlap=0.5)
    once = penalty(method, [OLD, NEW]).item()
    assert penalty(method, [farther, NEW]).item() == pytest.approx(once)
    assert penalty(method, [OLD, twice]).item() == pytest.approx(4 * once)


def test_weights_without_a_meaning_are_refused() -> None:
    with pytest.raises(ConfigError, match="0 or more"):
        OLoRA(orthogonality=-1.0)
    with pytest.raises(ConfigError, match="0 or more"):
        NLoRA(sparsity=float("inf"))
    with pytest.raises(ConfigError, match="0 or more"):
        SelfRegularizedCLoRA(overlap=-1.0)
    with pytest.raises(ConfigError, match="official code alone"):
        OLoRA(decay=0.1)
