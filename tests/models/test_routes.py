"""A document's route is that of its prompt, whatever stands beside it and however it is read."""

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from everlearn.data.packing import Row, collate
from everlearn.models.answers import answer, identify
from everlearn.models.decoding import Ask
from everlearn.models.generate import generate, generate_asked
from everlearn.models.language_model import LanguageModel
from everlearn.models.reading import reads_by_slots
from everlearn.models.routes import Request, Switch, requests, routed, unrouted
from everlearn.testing.toys import question, toy_tokenizer
from everlearn.types import Given
from tests.models.forked import EXPERTS, BySum, forked_model
from tests.models.lively import enders, some_prompts, stirred
from tests.models.neighbours import TEXTS, document, greedy, logprobs, require_alone_among_neighbours

KINDS = ("weights", "leads", "both")
CANDIDATES = ("red", "green", "a very blue one", "x")
EXAMPLES = [question(f"what colour is {w}?", "red") for w in ("grass", "the sky", "a", "an old brick house", "b", "c")]


DOCUMENTS = [document(tokens, prompt) for tokens, prompt in TEXTS]


def test_a_request_holds_what_stands_before_the_first_target_and_nothing_of_the_answer() -> None:
    examples = [question("a", "b", origin) for origin in ("one", "two", "three")]
    batch = collate([Row(tuple(DOCUMENTS[:2]), tuple(examples[:2])), Row((DOCUMENTS[2],), (examples[2],))])
    assert requests(batch) == [
        Request([7, 8], origin="one"),
        Request([20], origin="two"),
        Request([8, 7, 6], origin="three"),
    ]
    shared = collate([Row((document([4, 5], 2), document([6, 9, 9], 1), document([6, 8], 1)), task="two")], True)
    assert requests(shared) == [Request([4, 5, 6], task="two")]
    at_once = collate([Row((document([], 0), document([6, 9], 1), document([6, 8], 1)))], True)
    assert requests(at_once) == [Request([6])]


def test_weights_lie_at_the_switch_for_each_token_of_their_document_and_are_gone_after() -> None:
    router = BySum(True, ())
    batch = collate([Row((document([1, 2], 1), document([2, 9, 9], 1))), Row((document([3, 8], 1),))])
    with routed(router, batch, torch.device("cpu")) as led:
        found = router.switch(torch.zeros(2, 5, 4)).argmax(-1)
        assert led.own(found).shape == (2, 5)
    assert found[0].tolist() == [1, 1, 2, 2, 2]
    assert found[1, :2].tolist() == [0, 0]
    assert router.switch(torch.ones(2, 5, 4)).tolist() == [[[0.0] * EXPERTS]]


def test_leads_stand_in_front_of_each_document_and_move_it_behind_them() -> None:
    router = BySum(False, [(70,), (), (80, 81)])
    batch = collate([Row((document([1, 2], 1), document([2, 9, 9], 1))), Row((document([3, 8], 1),))])
    with routed(router, batch, torch.device("cpu")) as led:
        assert led.batch.tokens.tolist() == [[1, 2, 80, 81, 2, 9, 9], [70, 3, 8, 0, 0, 0, 0]]
        assert led.batch.positions.tolist() == [[0, 1, 0, 1, 2, 3, 4], [0, 1, 2, 0, 0, 0, 0]]
        assert led.batch.segments.tolist() == [[1, 1, 2, 2, 2, 2, 2], [1, 1, 1, 0, 0, 0, 0]]
        assert led.own(led.batch.tokens)[0].tolist() == batch.tokens[0].tolist()
        assert led.own(led.batch.tokens)[1, :2].tolist() == [3, 8]
        assert led.own(led.batch.supervised.long())[0].tolist() == batch.supervised[0].long().tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_is_answered_as_if_it_were_alone(kind: str) -> None:
    model = forked_model(kind)
    require_alone_among_neighbours(model)
    rows = [Row((d,)) for d in DOCUMENTS]
    with unrouted(model):
        plain = logprobs(model, rows)
    assert float((plain - logprobs(model, rows)).abs().max()) > 0.1, "the route matters"


@pytest.mark.parametrize("kind", KINDS)
def test_choosing_over_a_shared_prompt_is_choosing_among_separate_rows(kind: str) -> None:
    for seed in range(3):
        packing, plain = forked_model(kind, seed), forked_model(kind, seed)
        plain.__dict__["packs"] = False
        given = [Given(CANDIDATES)] * len(EXAMPLES)
        assert answer(packing, "choose", EXAMPLES, given) == answer(plain, "choose", EXAMPLES, given)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("budget", [40, 4096])
def test_rows_that_join_and_leave_the_slots_keep_their_routes(kind: str, budget: int) -> None:
    model, prompts = forked_model(kind), [*some_prompts(5, 3), *some_prompts(5)]
    with torch.inference_mode():
        assert reads_by_slots(model)
    by_definition = [greedy(model, p, 5) for p in prompts]
    decode = model.tokenizer.batch_decode
    expected = decode(by_definition, skip_special_tokens=True)
    assert generate(model, prompts, 5, budget) == expected
    hints = [tokens if i % 2 else [9, 9, 9] for i, tokens in enumerate(by_definition)]
    assert generate(model, prompts, 5, budget, hints=hints) == expected
    with unrouted(model):
        assert generate(model, prompts, 5, budget) != expected, "the route matters"


def test_the_librarys_loop_decodes_by_routes_too() -> None:
    config = MistralConfig(
        vocab_size=toy_tokenizer().vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        sliding_window=4,
    )
    model = forked_model("both")
    inner = stirred(MistralForCausalLM(config).double().eval(), 0.3)
    routed_model = LanguageModel(inner, enders(), "toy")
    donor = model.module.model  # type: ignore[union-attr]
    inner.set_input_embeddings(donor.embed_tokens)  # type: ignore[operator,union-attr]
    for mine, theirs in zip(inner.model.layers, donor.layers, strict=True):  # type: ignore[union-attr,arg-type]
        mine.mlp = theirs.mlp  # type: ignore[union-attr]
    routed_model.router = model.router
    with torch.inference_mode():
        assert not reads_by_slots(routed_model)
    prompts = some_prompts(8)
    expected = [greedy(routed_model, p, 5) for p in prompts]
    assert generate(routed_model, prompts, 5, 60) == enders().batch_decode(expected, skip_special_tokens=True)


def test_a_told_experience_reaches_the_router_with_every_question() -> None:
    for ask in ("generate", "choose", "predict"):
        model = forked_model("weights")
        assert isinstance(model.router, BySum)
        answer(model, ask, EXAMPLES[:2], [Given(CANDIDATES, "1"), Given(CANDIDATES)])  # type: ignore[arg-type]
        assert {r.task for r in model.router.heard} == {"1", ""}
        assert {r.origin for r in model.router.heard} == {""}
    asks = [Ask([7, 8], limit=4, task=str(number)) for number in range(EXPERTS)]
    assert len(set(generate_asked(forked_model("weights"), asks))) == EXPERTS


def test_the_experience_a_prompt_is_taken_for_is_that_of_the_prompt_alone() -> None:
    model = forked_model("weights")
    (first,), (second,) = (identify(model, [question("what?", a)]) for a in ("yes", "no"))
    assert first == second == (str(sum(model.encode_prompt(question("what?", "").prompt)) % EXPERTS), 0.5)
    model.router = None
    assert identify(model, EXAMPLES) == []


def test_a_switch_knows_its_number_of_adapters() -> None:
    assert Switch(2)(torch.ones(1, 3, 5)).shape == (1, 1, 2)
