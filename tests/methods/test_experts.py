"""Experts are weighed as the papers say, alone are plain adapters, and answer each document as if it were alone."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from everlearn.data.packing import Row, collate
from everlearn.errors import MethodError
from everlearn.learner import Learner, learn
from everlearn.method import Context, Method
from everlearn.methods.adapters import LoRA
from everlearn.methods.experts import SAPT, MoELoRA, SharedAttention, TokenGate, divergence, imbalance
from everlearn.models.answers import answer, identify
from everlearn.models.bank import Bank, Shape, banks
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.routes import Request
from everlearn.testing.toys import question, toy_model, toy_stream, toy_tokenizer
from everlearn.types import Memory, State
from tests.models.lively import lively_model
from tests.models.neighbours import document, logprobs, require_alone_among_neighbours, stir

RECIPE = Recipe(AdamW(learning_rate=0.02), batch_size=4, length=64)
SHARED, MIXED = SAPT(rank=2, width=4, kept=6), MoELoRA(experts=3, rank=2)
AB = {"names": ["a", "b"], "pooled": [], "attention": []}


def learned(method: Method, count: int, model: LanguageModel, epochs: int = 1) -> list[State]:
    learner = Learner("toy", method, replace(RECIPE, epochs=epochs))
    states = [learner.start(model)]
    for experience in toy_stream().experiences[:count]:
        states.append(learn(learner, model, states[-1], experience))
    return states


def shaped(method: Method, memory: Memory) -> LanguageModel:
    torch.manual_seed(0)
    model = method.params(memory, lively_model())
    stir(model)
    return model


def router_of(model: LanguageModel) -> SharedAttention:
    assert isinstance(model.router, SharedAttention)
    return model.router


def of_two_dimensions() -> LanguageModel:
    shape = {"hidden_size": 2, "intermediate_size": 2, "num_hidden_layers": 1, "num_attention_heads": 1}
    module = LlamaForCausalLM(LlamaConfig.from_dict(shape | {"vocab_size": 40, "head_dim": 2})).double().eval()
    return LanguageModel(module, toy_tokenizer(), "small")


def test_attention_over_keys_by_hand() -> None:
    model = SAPT(rank=1, width=2).params(AB, of_two_dimensions())
    router = router_of(model)
    with torch.no_grad():
        model.module.get_input_embeddings().weight[:3] = torch.tensor([[1.0, 0.0], [5.0, -2.0], [6.0, -7.0]])  # type: ignore[operator]
        router.down.copy_(torch.eye(2))
        router.up.copy_(torch.eye(2))
        router.keys[0].copy_(torch.tensor([1.0, 0.0]))
        router.keys[1].copy_(torch.tensor([0.0, 1.0]))
    pooled = router.pool([[0, 1], [2]])
    assert pooled.tolist() == [[3.0, -1.0], [6.0, -7.0]]
    # the first coordinate is the larger one, so that a layer norm of two makes (1, -1) of it; scores are +-1 / sqrt(2)
    large = 1 / (1 + math.exp(-math.sqrt(2)))
    expected = torch.tensor([[large, 1 - large]] * 2, dtype=torch.float64)
    assert torch.allclose(router.attention(pooled), expected, atol=1e-5)
    router.method = replace(router.method, formula="repo")
    assert router.pool([[0, 1]]).tolist() == [[5.0, 0.0]]


def test_the_divergence_of_attention_by_hand() -> None:
    then = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
    now = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.25, 0.25]])
    expected = [math.log(2), 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.25)]
    assert divergence(then, now).tolist() == pytest.approx(expected)
    assert divergence(then, then).tolist() == pytest.approx([0, 0], abs=1e-6)


@pytest.mark.parametrize("method", [SAPT(rank=2), MoELoRA(experts=1, rank=2, targets="all-linear")], ids=str)
def test_with_one_experience_or_one_expert_it_is_a_plain_adapter(method: Method) -> None:
    plain = learned(LoRA(rank=2), 1, toy_model())[-1].weights
    routed = learned(method, 1, toy_model())[-1].weights
    for name, value in plain.items():
        assert torch.allclose(routed[f"{name}.0"], value, atol=1e-12, rtol=0)


@pytest.mark.parametrize("method", [SHARED, MIXED], ids=str)
def test_adapters_that_have_learned_nothing_leave_the_function_as_it_is(method: Method) -> None:
    row = Row((document([7, 8, 9, 10], 2),))
    model = lively_model()
    before = logprobs(model, [row])
    assert torch.allclose(before, logprobs(method.params(AB, model), [row]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("method", [SHARED, MIXED], ids=str)
def test_a_document_among_experts_is_answered_as_if_it_were_alone(method: Method) -> None:
    model = shaped(method, AB)
    require_alone_among_neighbours(model)
    if isinstance(method, SAPT):
        require_alone_among_neighbours(model, task="b")


def test_all_layers_weigh_their_adapters_by_the_prompts_attention() -> None:
    model = shaped(SHARED, AB)
    tokens, prompt = [7, 8, 9, 10], 2
    routed = logprobs(model, [Row((document(tokens, prompt),))])
    router = router_of(model)
    weights = router.attention(router.pool([tokens[:prompt]]))[0].detach()
    assert 0.01 < float(weights[0]) < 0.99
    for name, bank in banks(model.module).items():
        w = bank.weight.clone()
        for i in range(2):
            w += weights[i] * 2 * bank.B[i] @ bank.A[i]
        parent, _, leaf = name.rpartition(".")
        plain = nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=w.dtype)
        plain.weight = nn.Parameter(w.detach())
        setattr(model.module.get_submodule(parent), leaf, plain)
    assert torch.allclose(routed, logprobs(model, [Row((document(tokens, prompt),))]), atol=1e-10, rtol=0)


def test_a_told_experience_is_answered_by_its_own_adapter_and_an_unlearned_one_by_attention() -> None:
    model = shaped(SHARED, AB)
    router, requests = router_of(model), [Request([7, 8], task=task) for task in ("a", "b", "c", "")]
    weights = router.route(requests).weights
    assert weights is not None
    attention = router.attention(router.pool([[7, 8]]))[0]
    assert weights[:2].tolist() == [[1, 0], [0, 1]]
    assert torch.equal(weights[2], attention)
    assert torch.equal(weights[3], attention)
    router.method = replace(router.method, told=False)
    again = router.route(requests[:1]).weights
    assert again is not None
    assert torch.equal(again[0], attention)


def test_an_example_that_is_learned_from_is_weighed_by_attention_whatever_its_origin() -> None:
    model = shaped(SHARED, AB)
    told, plain = (collate([Row((document([7, 8, 9], 2),), (question("x", "y", o),))]) for o in ("a", ""))
    assert torch.equal(model.token_logprobs(told), model.token_logprobs(plain))


def test_earlier_adapters_and_keys_stand_still() -> None:
    states = learned(SHARED, 3, toy_model())
    for before, after, last in ((states[1], states[2], "0"), (states[2], states[3], "1")):
        frozen = [n for n in before.weights if n.endswith(f".{last}") and any(p in n for p in (".A.", ".B.", "keys"))]
        assert any("keys" in name for name in frozen)
        assert all(torch.equal(before.weights[n], after.weights[n]) for n in frozen)
    moved = [n for n in states[2].weights if n in states[1].weights and n.startswith("everlearn_attention.down")]
    assert not torch.equal(states[1].weights[moved[0]], states[2].weights[moved[0]])


def test_reflection_is_nothing_at_the_stored_attention_and_holds_it_while_f_learns() -> None:
    drift = []
    for reflection in (0.0, 20.0):
        method, model = replace(SHARED, reflection=reflection), toy_model()
        state = learned(method, 2, model, epochs=8)[-1]
        router, (memory,) = router_of(model), state.memory
        assert [p.shape[0] for p in memory["pooled"]] == [6, 6]
        assert [a.shape[1] for a in memory["attention"]] == [1, 2]
        ctx = Context(model, toy_stream().experiences[1], seen=1)
        batch = next(ctx.batches(ctx.experience.train))
        with torch.no_grad():
            drift.append(float(divergence(memory["attention"][0], router.attention(memory["pooled"][0])).mean()))
            newest = {"names": memory["names"], **{n: memory[n][1:] for n in ("pooled", "attention")}}
            assert abs(float(method.loss(newest, batch, ctx))) < 1e-12
            whole = method.loss(memory, batch, ctx)
        # a mean over both experiences' six prompts each, of which the newest have not moved
        assert float(whole) == pytest.approx(reflection * drift[-1] / 2, abs=1e-12)
    assert drift[1] < 0.2 * drift[0]


def test_what_a_prompt_is_taken_for_is_where_most_attention_lies() -> None:
    model = shaped(SHARED, AB)
    example = question("what?", "yes")
    weights = router_of(model).attention(router_of(model).pool([model.encode_prompt(example.prompt)]))[0]
    ((name, confidence),) = identify(model, [example])
    assert name == ["a", "b"][int(weights.argmax())]
    assert confidence == pytest.approx(float(weights.max().detach()))


@pytest.mark.parametrize("method", [SHARED, MIXED], ids=str)
def test_a_restored_version_answers_as_the_live_one(method: Method) -> None:
    live = toy_model()
    state, texts = learned(method, 2, live)[-1], list(toy_stream().experiences[1].test)[:3]
    again = Learner("toy", method, RECIPE).restore(toy_model(), state)
    assert answer(again, "predict", texts) == answer(live, "predict", texts)


def test_experts_are_mixed_token_by_token_by_hand() -> None:
    bank, gate = Bank(nn.Linear(2, 1, bias=False)), TokenGate(2, 2)
    for _ in range(2):
        bank.add(Shape(1, scale=2.0))
    bank.gate = gate
    with torch.no_grad():
        bank.base.weight.copy_(torch.tensor([[1.0, 1.0]]))  # type: ignore[operator,union-attr]
        bank.A[0].copy_(torch.tensor([[1.0, 0.0]]))
        bank.A[1].copy_(torch.tensor([[0.0, 1.0]]))
        bank.B[0].copy_(torch.tensor([[3.0]]))
        bank.B[1].copy_(torch.tensor([[5.0]]))
        gate.weight.copy_(torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]]))
        found = bank(torch.tensor([[[1.0, 4.0], [0.0, 1.0]]]))
    # (1, 4): softmax(ln 3, 0) = (3/4, 1/4); 5 + 2 (3/4 3 1 + 1/4 5 4) = 19.5. (0, 1): even; 1 + 2 (0 + 1/2 5) = 6
    assert found.flatten().tolist() == pytest.approx([19.5, 6.0])


def test_the_imbalance_by_hand() -> None:
    weights, knowledge = torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([True, False])
    # Z = (2 * 1.5, 0 * 0.5; 1 * 0.5, 1 * 1.5): mean 1.25, mean square 2.875, variance 1.3125
    assert float(imbalance(weights, knowledge, 0.5)) == pytest.approx(1.3125 / 1.25)
    assert float(imbalance(weights, knowledge, 0.5, "repo")) == pytest.approx(1.3125 * 4 / 3 / 1.25**2)
    even = torch.tensor([[1 / 1.5, 1 / 0.5], [1 / 0.5, 1 / 1.5]])
    assert float(imbalance(even, knowledge, 0.5)) == pytest.approx(0, abs=1e-6)


def test_the_balance_is_that_of_each_documents_tokens_and_of_no_padding() -> None:
    model = shaped(MIXED, None)
    ctx = Context(model, toy_stream().experiences[0])
    texts = [document([7, 8, 9, 10], 1), document([20, 9], 1), document([8, 7, 6], 2)]
    examples = (toy_stream().experiences[1].train[0], question("x", "y"), question("z", "y"))
    batch = collate([Row(tuple(texts[:2]), examples[:2]), Row(texts[2:3], examples[2:])])  # type: ignore[arg-type]
    found = MIXED.loss(None, batch, ctx)
    assert isinstance(found, Tensor)
    gates = [m for m in model.module.modules() if isinstance(m, TokenGate)]
    assert model.packs  # probed now, so that no gate hears the probe
    sums: list[list[Tensor]] = [[] for _ in gates]
    for text in texts:
        for gate in gates:
            gate.listened = True
        model.hidden(collate([Row((text,))]))
        for gate, mine in zip(gates, sums, strict=True):
            mine.append(gate.heard[0][0].sum(0))
            gate.listened, gate.heard = False, []
    kinds = torch.tensor([True, False, False])
    expected = [imbalance(torch.stack(q), kinds, MIXED.delta) for q in sums]
    assert float((found - MIXED.balance * torch.stack(expected).mean()).detach()) == pytest.approx(0, abs=1e-12)
    assert all(not gate.heard for gate in gates)
    with pytest.raises(MethodError, match="has to know each document's example"):
        MIXED.loss(None, replace(batch, examples=()), ctx)


def test_a_step_against_the_term_makes_experts_more_even() -> None:
    model = shaped(MIXED, None)
    ctx = Context(model, toy_stream().experiences[0])
    batch = next(ctx.batches(ctx.experience.train))
    before = MIXED.loss(None, batch, ctx)
    assert isinstance(before, Tensor)
    grads = ctx.grads(before)
    with torch.no_grad():
        for name, parameter in ctx.trainable().items():
            parameter -= 0.01 * grads[name]
        assert float(MIXED.loss(None, batch, ctx)) < float(before)
