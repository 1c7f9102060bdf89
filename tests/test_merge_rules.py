"""Merging as a side: adapters through their products, exact in full weights, and honest about what a rank loses."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from everlearn.errors import MethodError
from everlearn.learner import Learner, learn
from everlearn.merge_rules import combined, paired, product
from everlearn.method import Context, Method, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.averaging import EMA, LMCocktail, ModelStock, Soup, WiSEFT
from everlearn.methods.sparse_vectors import DARE, DELLA, TIES, Breadcrumbs
from everlearn.methods.task_vectors import OPCM, SLERP, MagMax, TaskArithmetic
from everlearn.models.language_model import LanguageModel
from everlearn.models.lora import LoRALinear, adapters
from everlearn.models.optim import AdamW, Recipe
from everlearn.testing.toys import toy_model, toy_stream
from everlearn.types import State
from everlearn.weights import pack

RECIPE = Recipe(AdamW(learning_rate=1e-2), batch_size=4, length=64, tokens=4096)
LAYER = "model.layers.0.self_attn.q_proj"
IDENTITIES: list[Method] = [  # each with what makes it keep all of a change
    WiSEFT(mixing=1.0),
    SLERP(mixing=1.0),
    Soup(),
    ModelStock(),
    LMCocktail(mixing=1.0),
    TIES(density=1.0),
    TIES(density=1.0, formula="mergekit"),
    DARE(drop=0.0, elect=True),
    DELLA(drop=0.0, spread=0.0),
    MagMax(scale=1.0, begins="base"),
]


def learned(method: Method, count: int = 2) -> tuple[LanguageModel, State]:
    """The toy after the first experiences of its stream."""
    learner, model = Learner("toy", method, RECIPE), toy_model()
    state = learner.start(model)
    for experience in toy_stream().experiences[:count]:
        state = learn(learner, model, state, experience)
    return model, state


def moment(method: Method) -> tuple[Context, dict[str, Tensor]]:
    """A context, and weights of its model that differ from the base."""
    model = toy_model()
    model = method.params(method.init(model), model)
    torch.manual_seed(1)
    return Context(model, toy_stream().experiences[0]), {
        n: p.detach() + 0.1 * torch.randn_like(p) for n, p in model.trainable().items()
    }


def products(model: LanguageModel, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: product(layer, n, weights) for n, layer in adapters(model.module).items()}


@pytest.mark.parametrize(
    ("method", "adapted"),
    [*((m, a) for m in IDENTITIES for a in (False, True)), (OPCM(), True)],  # OPCM adds vectors up, as its paper does
    ids=str,
)
def test_merging_identical_models_is_the_identity(method: Method, adapted: bool) -> None:
    ctx, after = moment(chain(LoRA(rank=2)) if adapted else chain())
    memory = method.init(ctx.model)
    for seen in range(3):
        here = replace(ctx, seen=seen)
        memory = method.begin(memory, here)
        before = {n: p.detach().clone() for n, p in ctx.trainable().items()}
        here = replace(here, before=before, after=after)
        memory = method.end(memory, here)
        merged = dict(method.merge(memory, before, after, here))
    if not adapted:
        for name, weight in after.items():
            torch.testing.assert_close(merged[name], weight)
        return
    for name, dense in products(ctx.model, merged).items():
        torch.testing.assert_close(dense, products(ctx.model, after)[name], atol=1e-7, rtol=1e-5)
    assert memory["lost"] < 1e-10


def test_adapters_are_averaged_by_their_products_and_never_apart() -> None:
    # Two adapters of rank 1 on the same layer: the mean of products has rank 2, and its best rank 1 is the larger one.
    ctx, weights = moment(LoRA(rank=1, targets=("q_proj",)))
    layer = adapters(ctx.model.module)[LAYER]
    first, second = ({n: torch.zeros_like(w) for n, w in weights.items()} for _ in range(2))
    for values, place, size in ((first, 0, 2.0), (second, 1, 1.0)):
        for name in adapters(ctx.model.module):
            values[f"{name}.A"][0, place], values[f"{name}.B"][place, 0] = 1.0, size
    merged, lost = combined(ctx, [first, second], [0.5, 0.5])
    dense = product(layer, LAYER, merged)
    assert float(dense[0, 0]) == pytest.approx(0.5 * 2.0 * layer.scale)
    assert float(dense.abs().sum()) == pytest.approx(0.5 * 2.0 * layer.scale)
    assert lost == pytest.approx(1 / (1 + 4))  # of square norms 4 and 1
    apart = {n: (first[n] + second[n]) / 2 for n in first}
    right = (product(layer, LAYER, first) + product(layer, LAYER, second)) / 2
    assert float((product(layer, LAYER, apart) - right).norm() / right.norm()) > 0.5


@pytest.mark.parametrize("method", [TaskArithmetic(scale=0.5), TIES(density=0.5), MagMax(), OPCM()], ids=str)
def test_adapters_are_merged_as_the_full_weights_would_be(method: Method) -> None:
    # At the rank of the layer nothing is lost, so the merged product is what the method makes of dense changes.
    adapted = chain(LoRA(rank=32, targets=("q_proj",)), method)
    model, state = learned(adapted)
    memory = state.memory[1]
    assert memory["lost"] < 1e-12
    dense = {n: [left @ right for _, left, right in kept] for n, kept in memory["factors"].items()}
    ctx = Context(Plain(dense), toy_stream().experiences[0])  # type: ignore[arg-type]
    full = method.begin(None, ctx)
    for index in range(2):
        after = {n: parts[index] for n, parts in dense.items()}
        full = method.end(full, replace(ctx, before=ctx.trainable(), after=after))
    merged = method.merge(full, {}, after, ctx)
    for name, weight in merged.items():
        torch.testing.assert_close(product(adapters(model.module)[name], name, dict(state.weights)), weight)


class Plain:
    """A model whose weights are the dense changes, zero at the base, standing where a language model stands."""

    def __init__(self, like: dict[str, list[Tensor]]) -> None:
        self.module = torch.nn.Module()
        self.weights = {n: torch.zeros_like(parts[0]) for n, parts in like.items()}

    def trainable(self) -> dict[str, Tensor]:
        return self.weights


def test_what_a_rank_loses_is_said() -> None:
    assert 0 < learned(chain(LoRA(rank=1), TIES()))[1].memory[1]["lost"] < 1
    assert learned(chain(LoRA(rank=1), Soup()), count=1)[1].memory[1]["lost"] < 1e-12


def test_memory_does_not_grow_with_experiences() -> None:
    for method in (TIES(), Soup(), ModelStock(), OPCM(), MagMax()):
        sizes = [
            sum(sum(t.numel() for t in kept) for kept in learned(method, count)[1].memory[0]["running"].values())
            for count in (1, 3)
        ]
        assert sizes[0] == sizes[1] > 0


SIZES = {
    TaskArithmetic(): 2,
    TIES(): 5,
    DARE(): 2,
    Breadcrumbs(): 2,
    DELLA(): 5,
    MagMax(): 3,
    OPCM(): 2,
    ModelStock(): 3,
}


@pytest.mark.parametrize(("method", "numbers"), SIZES.items(), ids=str)
def test_memory_is_as_large_as_the_docstring_says(method: Method, numbers: int) -> None:
    # In numbers for each trained weight after three experiences; sums of weights take one more for each tensor.
    model, state = learned(method, 3)
    _, kept = pack(state.memory)
    total, count = sum(p.numel() for p in model.parameters().values()), len(model.parameters())
    assert numbers * total <= sum(t.numel() for t in kept.values()) <= numbers * total + count


def test_factors_that_merging_does_not_know_are_not_merged_apart() -> None:
    ctx, weights = moment(chain())
    with pytest.raises(MethodError, match=r"other \(1 in all\) has factors A and B of an adapter"):
        paired(ctx, {**weights, "other.A": torch.zeros(1, 2), "other.B": torch.zeros(2, 1)})
    with pytest.raises(MethodError, match=r"other.*merging does not know"):
        paired(ctx, {**weights, "other.A.3": torch.zeros(1, 2), "other.B.3": torch.zeros(2, 1)})


def test_where_an_expert_begins() -> None:
    base = {n: p.detach().clone() for n, p in toy_model().parameters().items()}
    learner, model = Learner("toy", TaskArithmetic(scale=0.5), RECIPE), toy_model()
    state = learn(learner, model, learner.start(model), toy_stream().experiences[0])
    memory, ctx = state.memory[0], Context(model, toy_stream().experiences[1], seen=1)
    starts = {b: TaskArithmetic(begins=b).start(memory, state.weights, ctx) for b in ("base", "merged")}  # type: ignore[arg-type]
    assert all(torch.equal(starts["base"][n], w) for n, w in base.items())
    assert all(torch.equal(starts["merged"][n], w) for n, w in state.weights.items())
    last = learned(MagMax(), 1)[1]
    trained = learned(chain(), 1)[1].weights
    start = MagMax().start(last.memory[0], last.weights, ctx)
    assert all(torch.equal(start[n], trained[n]) for n in trained)
    assert any(not torch.equal(last.weights[n], trained[n]) for n in trained)


def test_added_up_from_the_merged_version_on_task_vectors_are_plain_fine_tuning() -> None:
    plain, summed = (learned(m, 3)[1].weights for m in (chain(), TaskArithmetic(scale=1.0, begins="merged")))
    for name, weight in plain.items():
        torch.testing.assert_close(summed[name], weight, atol=1e-6, rtol=1e-6)


def test_a_factor_that_learns_alone_is_merged_as_it_is() -> None:
    ctx, weights = moment(LoRA(rank=2))
    some = {n: w for n, w in weights.items() if n.endswith(".B")}
    assert paired(ctx, some) == {}
    assert all(isinstance(layer, LoRALinear) for layer in paired(ctx, weights).values())
    merged = WiSEFT(mixing=0.25).merge({"merged": {}}, {n: torch.zeros_like(w) for n, w in some.items()}, some, ctx)
    assert all(torch.equal(merged[n], 0.25 * w) for n, w in some.items())


def test_an_average_over_steps_comes_before_a_merge_in_a_chain() -> None:
    _, state = learned(chain(EMA(decay=1.0), Soup()), 1)
    average, base = state.memory[0]["average"], toy_model().parameters()
    for name, weight in state.weights.items():
        torch.testing.assert_close(weight, base[name].detach() + average[name])
