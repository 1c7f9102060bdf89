"""Models in blocks are what they are whole, whatever the rule; and what does not go together is refused."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from everlearn.combine import LIVE, Combination, Model, merge_weights
from everlearn.errors import ConfigError
from everlearn.merge_rules import Merging
from everlearn.merging import cocktail_weights, greedy_soup
from everlearn.methods.averaging import ModelStock, Soup, WiSEFT
from everlearn.methods.sparse_vectors import DARE, DELLA, TIES, Breadcrumbs
from everlearn.methods.task_vectors import OPCM, SLERP, MagMax, TaskArithmetic
from everlearn.tensor_files import Held

SHAPES = {"a": (7, 5), "b": (3,), "c": (2, 3, 4), "d": ()}
PAIRWISE: list[Merging] = [WiSEFT(mixing=0.3), SLERP(mixing=0.3)]
RULES: list[Merging] = [
    Soup(),
    ModelStock(),
    TaskArithmetic(),
    TIES(density=0.4),
    TIES(density=0.4, formula="mergekit"),
    DARE(drop=0.5),
    DARE(drop=0.5, formula="mergekit", elect=True),
    Breadcrumbs(density=0.5, outliers=0.1),
    DELLA(),
    DELLA(formula="mergekit"),
    MagMax(),
]


def weights(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {name: torch.randn(shape, dtype=torch.float64).to(dtype) for name, shape in SHAPES.items()}


def merged(rule: Merging, memory: int, count: int, dtype: torch.dtype) -> dict[str, Tensor]:
    models = [Model(str(i), {n: Held(w) for n, w in weights(i + 1, dtype).items()}) for i in range(count)]
    task = Combination(rule, {n: Held(w) for n, w in weights(0, dtype).items()}, models, memory=memory, seed=3)
    return {n: torch.cat(list(blocks)) for n, blocks in task.blocks()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rule", [*PAIRWISE, *RULES], ids=str)
def test_a_block_of_a_row_gives_what_a_whole_tensor_gives(rule: Merging, dtype: torch.dtype) -> None:
    count = 1 if rule in PAIRWISE else 3
    whole, rows = merged(rule, 2**30, count, dtype), merged(rule, 1, count, dtype)
    for name in SHAPES:
        assert whole[name].dtype == dtype
        torch.testing.assert_close(rows[name], whole[name])  # sums of blocks round otherwise than those of a tensor


IDENTITIES = [(WiSEFT(mixing=1.0), 1), (SLERP(mixing=1.0), 1), (Soup(), 3), (ModelStock(), 3), (TIES(density=1.0), 3)]


@pytest.mark.parametrize(("rule", "count"), IDENTITIES, ids=str)
def test_merging_identical_models_is_the_identity(rule: Merging, count: int) -> None:
    model = weights(1)
    for name, weight in merge_weights(rule, weights(0), [model] * count).items():
        torch.testing.assert_close(weight, model[name])


def test_weights_by_hand() -> None:
    base, one, two = ({"w": torch.tensor([x])} for x in (1.0, 2.0, 5.0))
    # 1 + 0.5 * (0.2 * 1 + 0.8 * 4) = 2.7; (0.2 * 2 + 0.8 * 5) = 4.4.
    assert merge_weights(TaskArithmetic(0.5), base, [one, two], [0.2, 0.8])["w"].item() == pytest.approx(2.7)
    assert merge_weights(Soup(), base, [one, two], [0.2, 0.8])["w"].item() == pytest.approx(4.4)


def test_a_cocktail_and_a_greedy_soup_of_weights_in_memory() -> None:
    base, one, two = ({"w": torch.tensor([x])} for x in (0.0, 1.0, 4.0))
    shares = cocktail_weights([2.0, 2.0], 1.0)
    assert merge_weights(TaskArithmetic(1.0), base, [one, two], shares)["w"].item() == pytest.approx(2.5)

    def score(found: Mapping[str, Tensor]) -> float:
        return -abs(float(found["w"]) - 2)

    assert greedy_soup([base, one, two], score)[1] == [1, 2]  # 1 alone misses 2 by 1, the mean 0.5 by 1.5, 2.5 by 0.5


def test_a_factored_change_is_its_product_and_what_is_not_named_stays() -> None:
    left, right = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 4.0]])
    base = {"a": Held(torch.ones(2, 2)), "b": Held(torch.ones(2)), "count": Held(torch.tensor([3]))}
    task = Combination(TaskArithmetic(1.0), base, [Model("m", pairs={"a": (left, right)})], memory=1)
    found = {n: torch.cat(list(blocks)) for n, blocks in task.blocks()}
    assert found["a"].tolist() == [[4.0, 5.0], [7.0, 9.0]]
    assert found["b"].tolist() == [[1.0, 1.0]]
    assert (found["count"].tolist(), found["count"].dtype) == ([[3]], torch.int64)


def test_draws_follow_the_seed() -> None:
    one, again, other = (merge_weights(DARE(), weights(0), [weights(1)], seed=s)["a"] for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_whoever_takes_whole_tensors_says_what_they_need() -> None:
    base = {"a": Held(torch.zeros(512, 32))}
    with pytest.raises(ConfigError, match=r"takes whole tensors, and a needs about 2 MiB, more than the 1 it may take"):
        Combination(OPCM(), base, [Model("m")], memory=2**20)
    assert Combination(OPCM(), base, [Model("m")], memory=512 * 32 * LIVE).models


def test_what_does_not_go_together_is_refused() -> None:
    base, model = weights(0), weights(1)
    with pytest.raises(ConfigError, match="nothing to merge"):
        merge_weights(Soup(), base, [])
    with pytest.raises(ConfigError, match="2 weights for 1 models"):
        merge_weights(Soup(), base, [model], [1.0, 1.0])
    with pytest.raises(ConfigError, match="takes no weights"):
        merge_weights(SLERP(), base, [model], [1.0])
    with pytest.raises(ConfigError, match="an arc has two ends"):
        merge_weights(SLERP(), base, [model, model])
