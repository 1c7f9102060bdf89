"""Soft prompts stand where the papers say, learn as they say, and answer each document as if it were alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everlearn.data.packing import Row, collate
from everlearn.data.streams import blurry
from everlearn.errors import MethodError, ModelError
from everlearn.fold import Settings, run
from everlearn.learner import Learner, learn
from everlearn.method import Context, Method, chain
from everlearn.methods.prompts import L2P, ProgressivePrompts, nearest
from everlearn.metrics.likelihood import TokenLikelihood
from everlearn.models.answers import answer
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.routes import unrouted
from everlearn.models.soft_prompts import SoftPrompts
from everlearn.needs import require_stream
from everlearn.testing.toys import question, toy_folder, toy_model, toy_stream
from everlearn.types import Given, State
from tests.models.lively import lively_model
from tests.models.neighbours import document, logprobs, require_alone_among_neighbours, stir

RECIPE = Recipe(AdamW(learning_rate=0.1), batch_size=4, length=64)
PROGRESSIVE, POOL = ProgressivePrompts(length=2, hidden=4), L2P(size=4, length=2, chosen=2)


def learned(method: Method, count: int, model: LanguageModel) -> list[State]:
    learner = Learner("toy", method, RECIPE)
    states = [learner.start(model)]
    for experience in toy_stream().experiences[:count]:
        states.append(learn(learner, model, states[-1], experience))
    return states


def shaped(method: Method, memory: Any, lively: bool = True) -> LanguageModel:
    torch.manual_seed(0)
    model = method.params(memory, lively_model() if lively else toy_model())
    stir(model)
    return model


def embedding(model: LanguageModel) -> SoftPrompts:
    layer: SoftPrompts = model.module.get_input_embeddings()  # type: ignore[operator]
    return layer


def by_vectors(model: LanguageModel, vectors: Tensor, tokens: list[int], prompt: int) -> Tensor:
    """Log-probabilities of the tokens behind the prompt, with vectors in front of the embeddings."""
    whole = torch.cat([vectors, embedding(model).weight[tokens]])
    logits = model.module(inputs_embeds=whole[None]).logits[0, len(vectors) + prompt - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(tokens[prompt:])[:, None])[:, 0]


def test_an_experiences_prompt_stands_before_those_of_earlier_ones_and_they_before_the_text() -> None:
    model = shaped(PROGRESSIVE, {"names": ["a", "b", "c"]})
    first, second, third = embedding(model).prompts
    third = embedding(model).encoder(third)  # type: ignore[misc]
    tokens, prompt = [7, 8, 9, 10], 2
    expected = {"a": [first], "b": [second, first], "c": [third, second, first]}
    for name, vectors in expected.items():
        found = logprobs(model, [Row((document(tokens, prompt),), task=name)])
        assert torch.allclose(found, by_vectors(model, torch.cat(vectors), tokens, prompt), atol=1e-10, rtol=0)


def test_what_no_experience_has_taught_is_answered_by_the_base_model() -> None:
    model, row = shaped(PROGRESSIVE, {"names": ["a"]}), document([7, 8, 9, 10], 2)
    told = logprobs(model, [Row((row,), task="general ability: counting")])
    with unrouted(model):
        assert torch.equal(told, logprobs(model, [Row((row,))]))
    assert float((told - logprobs(model, [Row((row,), task="a")])).abs().max()) > 0.01


def test_only_the_newest_prompt_and_the_network_learn() -> None:
    model = toy_model()
    base = {n: p.detach().clone() for n, p in model.parameters().items()}
    states = learned(PROGRESSIVE, 3, model)
    place = "model.embed_tokens.prompts."
    for before, after in ((states[1], states[2]), (states[2], states[3])):
        for name in (n for n in before.weights if place in n):
            assert torch.equal(before.weights[name], after.weights[name])
    assert [sorted(n[-1] for n in s.weights if place in n) for s in states[1:]] == [["0"], ["0", "1"], ["0", "1", "2"]]
    now = model.parameters()
    assert all(torch.equal(value, now[n.replace("tokens.weight", "tokens.base.weight")]) for n, value in base.items())


def test_the_network_is_folded_into_its_prompt_by_hand() -> None:
    place = "model.embed_tokens."
    after = {
        f"{place}prompts.1": torch.tensor([[1.0, 2.0]]),
        f"{place}encoder.first": torch.tensor([[3.0, -1.0]]),  # 3 - 2 + 0.5 = 1.5
        f"{place}encoder.first_bias": torch.tensor([0.5]),
        f"{place}encoder.second": torch.tensor([[2.0], [-2.0]]),  # 3, -3
        f"{place}encoder.second_bias": torch.tensor([0.25, 0.0]),
    }
    ctx = Context(toy_model(), toy_stream().experiences[0])
    found = PROGRESSIVE.merge({"names": ["a", "b"]}, after, after, ctx)
    assert found[f"{place}prompts.1"].tolist() == [[1 + 3 + 0.25, 2 - 3]]
    assert not found[f"{place}encoder.second"].any()
    assert not found[f"{place}encoder.second_bias"].any()
    assert torch.equal(found[f"{place}encoder.first"], after[f"{place}encoder.first"])


def test_folding_the_network_does_not_change_the_function() -> None:
    model = shaped(PROGRESSIVE, {"names": ["a", "b"]})
    row = Row((document([7, 8, 9, 10], 2),), task="b")
    before, weights = logprobs(model, [row]), {n: p.detach().clone() for n, p in model.trainable().items()}
    merged = PROGRESSIVE.merge({"names": ["a", "b"]}, weights, weights, Context(model, toy_stream().experiences[0]))
    model.assign(merged)
    assert not all(torch.equal(merged[n], weights[n]) for n in weights)
    assert torch.allclose(before, logprobs(model, [row]), atol=1e-10, rtol=0)


def test_a_prompt_learns_what_it_is_taught() -> None:
    learner = Learner("toy", ProgressivePrompts(length=4, hidden=8), replace(RECIPE, epochs=12))
    model, experience = lively_model(), toy_stream().experiences[1]
    texts, given = list(experience.train), [Given(task="cats")] * len(experience.train)
    before = answer(model, "predict", texts)
    learn(learner, model, learner.start(model), experience)
    after = answer(model, "predict", texts, given)
    assert sum(r.loss for r in after if r.loss) < 0.8 * sum(r.loss for r in before if r.loss)


def test_who_is_not_told_the_experience_refuses_and_names_itself() -> None:
    model = shaped(PROGRESSIVE, {"names": ["a"]})
    for ask in ("generate", "choose", "predict"):
        with pytest.raises(MethodError, match=r"ProgressivePrompts\(length=2, hidden=4\) has to be told"):
            answer(model, ask, [question("what?", "red")], [Given(("red", "blue"))])  # type: ignore[arg-type]


def test_a_run_in_a_scenario_that_does_not_tell_is_refused_before_it_begins(tmp_path: Path) -> None:
    stream = replace(toy_stream(), scenario="class")
    with pytest.raises(MethodError, match=r"ProgressivePrompts\(.*\) has to be told .* a class-incremental stream"):
        run(Learner(str(toy_folder(tmp_path / "toy")), PROGRESSIVE), stream, tmp_path / "run", Settings(suite=()))
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_blurry_stream_has_not_the_boundaries_that_prompts_need() -> None:
    mixed = blurry(toy_stream(), 0.5)
    learner, model = Learner("toy", PROGRESSIVE, RECIPE), toy_model()
    with pytest.raises(MethodError, match="needs boundaries between experiences, which a blurry stream has not"):
        learn(learner, model, learner.start(model), mixed.experiences[0])
    with pytest.raises(MethodError, match=r"ProgressivePrompts\(.*\) needs boundaries .* 'toy' is blurry"):
        require_stream(PROGRESSIVE, replace(mixed, scenario="task"))


def test_a_task_incremental_run_asks_each_experience_with_its_own_prompt(tmp_path: Path) -> None:
    method = ProgressivePrompts(length=2, hidden=0)
    stream = toy_stream(4)
    parts = tuple(replace(e, metric=TokenLikelihood()) if e.name == "cats" else e for e in stream)
    stream = replace(stream, experiences=parts, scenario="task")
    done = run(Learner(str(toy_folder(tmp_path / "toy")), method, RECIPE), stream, tmp_path / "run", Settings(suite=()))
    items = [[o.reply for o in row.items(0)] for row in done.matrix.rows]
    assert items[1] == items[2] == items[3], "what was learned is kept to the letter"
    untouched = [[o.score for o in row.items(1)] for row in done.matrix.rows]
    assert untouched[0] == untouched[1] != untouched[2] == untouched[3]


@pytest.mark.parametrize("method", [PROGRESSIVE, POOL], ids=str)
def test_a_document_with_soft_prompts_is_answered_as_if_it_were_alone(method: Method) -> None:
    task = "b" if isinstance(method, ProgressivePrompts) else ""
    require_alone_among_neighbours(shaped(method, {"names": ["a", "b"]}), task)


@pytest.mark.parametrize("method", [PROGRESSIVE, POOL], ids=str)
def test_a_restored_version_answers_as_the_live_one(method: Method) -> None:
    live, given = toy_model(), [Given(task="cats")] * 3
    state, texts = learned(method, 2, live)[-1], list(toy_stream().experiences[1].test)[:3]
    again = Learner("toy", method, RECIPE).restore(toy_model(), state)
    assert answer(again, "predict", texts, given) == answer(live, "predict", texts, given)


def test_the_nearest_keys_are_those_of_highest_cosine_by_hand() -> None:
    keys = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    cosines, places = nearest(torch.tensor([[3.0, 4.0], [-6.0, 8.0]]), keys, 2)
    assert torch.allclose(cosines, torch.tensor([[0.6, 0.8, -0.6], [-0.6, 0.8, 0.6]]))
    assert places.tolist() == [[1, 0], [1, 2]]


def test_a_text_is_led_by_the_prompts_that_the_frozen_models_last_state_is_nearest_to() -> None:
    model = shaped(POOL, None)
    layer, tokens, prompt = embedding(model), [7, 8, 9, 10], 2
    query = model.module.model(input_ids=torch.tensor([tokens[:prompt]])).last_hidden_state[0, -1]  # type: ignore[operator]
    cosines = torch.nn.functional.cosine_similarity(query[None], layer.get_parameter("keys"))
    best = cosines.detach().topk(2).indices.tolist()
    vectors = torch.cat([layer.prompts[i] for i in best])
    found = logprobs(model, [Row((document(tokens, prompt),))])
    assert torch.allclose(found, by_vectors(model, vectors, tokens, prompt), atol=1e-10, rtol=0)
    batch = collate([Row((document(tokens, prompt),))])
    loss = POOL.loss(None, batch, Context(model, toy_stream().experiences[0]))
    assert isinstance(loss, Tensor)
    assert float(loss.detach()) == pytest.approx(-0.5 * float(cosines[best].detach().sum()), abs=1e-12)


def test_the_pull_moves_chosen_keys_alone_and_towards_their_queries() -> None:
    model = shaped(POOL, None)
    batch, keys = collate([Row((document([7, 8, 9], 2),))]), embedding(model).get_parameter("keys")
    ctx = Context(model, toy_stream().experiences[0])
    before = POOL.loss(None, batch, ctx)
    assert isinstance(before, Tensor)
    (grad,) = torch.autograd.grad(before, [keys])
    assert int(grad.any(1).sum()) == POOL.chosen
    with torch.no_grad():
        keys -= 0.01 * grad
    with torch.no_grad():
        assert float(POOL.loss(None, batch, ctx)) < float(before.detach())


def test_a_model_is_routed_by_one_method() -> None:
    model = toy_model()
    learner = Learner("toy", chain(PROGRESSIVE, POOL), RECIPE)
    with pytest.raises(ModelError, match="toy is routed by _Pool already"):
        learn(learner, model, learner.start(model), toy_stream().experiences[0])
