"""Choosing over a shared prompt equals scoring each candidate alone; predicting counts every token once."""

from dataclasses import replace

import pytest
import torch

from everlearn.data.packing import Row, collate
from everlearn.errors import DataError, ModelError
from everlearn.examples import Encoded, Example, Message
from everlearn.models.answers import answer, length, longest, posed
from everlearn.models.language_model import LanguageModel
from everlearn.testing.toys import question, toy_model
from everlearn.types import Given, Question
from tests.models.lively import lively_model

CANDIDATES = ("red", "green", "a very blue one", "x")
EXAMPLES = [question(f"what colour is {w}?", "red") for w in ("grass", "the sky", "a", "an old brick house")]


OFFERS = [Given(CANDIDATES)] * len(EXAMPLES)


def score_alone(model: LanguageModel, example: Example, candidate: str) -> float:
    prompt, tokens = model.encode_choice(example.prompt, candidate)
    row = Row((Encoded(prompt + tokens, (False,) * len(prompt) + (True,) * len(tokens)),))
    with torch.no_grad():
        return float(model.token_logprobs(collate([row])).sum())


def test_the_chosen_candidate_is_the_likeliest_scored_alone() -> None:
    for seed in range(4):
        model = toy_model(seed)
        replies = answer(model, "choose", EXAMPLES, OFFERS, tokens=150)
        best = [max(CANDIDATES, key=lambda c, e=e: score_alone(model, e, c)) for e in EXAMPLES]  # type: ignore[misc]
        assert [r.text for r in replies] == best


def test_a_model_that_does_not_pack_chooses_the_same() -> None:
    packing, plain = toy_model(1), toy_model(1)
    plain.__dict__["packs"] = False
    assert answer(packing, "choose", EXAMPLES, OFFERS) == answer(plain, "choose", EXAMPLES, OFFERS)


def test_an_examples_own_choices_come_first() -> None:
    own = Example(messages=EXAMPLES[0].messages, choices=("no", "yes"))
    (reply,) = answer(toy_model(), "choose", [own], [Given(CANDIDATES)])
    assert reply.text in own.choices


@pytest.mark.parametrize("asked", ["choose", "predict"])
def test_a_model_without_numbers_is_no_judge(asked: Question) -> None:
    model = toy_model()
    with torch.no_grad():
        next(iter(model.parameters().values())).fill_(torch.nan)
    with pytest.raises(ModelError, match=r"NaN.*earlier version"):
        answer(model, asked, EXAMPLES, OFFERS)


def test_prediction_averages_over_the_tokens_of_each_text() -> None:
    model = toy_model()
    texts = [Example(text="the cat sat on the mat and stayed there."), Example(text="no")]
    whole, cut = answer(model, "predict", texts), answer(model, "predict", texts, tokens=24)
    with torch.no_grad():
        for example, reply in zip(texts, whole, strict=True):
            logp, hits = model.token_scores(collate([Row((model.encode(example),))]))
            assert reply.loss == pytest.approx(-float(logp.mean()), rel=1e-6)
            assert reply.right == pytest.approx(float(hits.float().mean()))
    assert whole[1] == cut[1]
    assert whole[0].loss != cut[0].loss


def test_replies_keep_the_order_of_their_examples() -> None:
    model = toy_model()
    examples = [question("x" * n, "y") for n in (3, 40, 1, 17)]
    together = [r.text for r in answer(model, "generate", examples)]
    alone = [answer(model, "generate", [e])[0].text for e in examples]
    assert together == alone


def test_nothing_asked_nothing_answered() -> None:
    assert answer(toy_model(), "predict", []) == []
    assert answer(toy_model(), "choose", []) == []
    assert answer(toy_model(), "generate", []) == []


SHOWN = (question("1+1?", "2"), question("1+2?", "3"))


def test_demonstrations_stand_before_a_prompt_as_earlier_turns() -> None:
    model, item = toy_model(), question("2+2?", "4")
    whole = posed(item, SHOWN)
    turns = "<|user|>1+1?<|end|><|assistant|>2<|end|><|user|>1+2?<|end|><|assistant|>3<|end|>"
    assert model.tokenizer.decode(model.encode_prompt(whole.prompt)) == f"{turns}<|user|>2+2?<|end|><|assistant|>"
    # 2 x 9 tokens of demonstrations, 7 of the question, 2 of the answer; 8 more that an answer may be longer
    assert length(model, "generate", item, Given(shown=SHOWN)) == 18 + 7 + 2 + 8
    assert length(model, "choose", item, Given(("4", "four"), shown=SHOWN)) == 18 + 7 + 5
    assert length(model, "predict", item, Given(shown=SHOWN)) == 18 + 7 + 2
    assert posed(item, ()) is item


def test_a_model_answers_after_demonstrations_as_to_one_conversation() -> None:
    item, offer = question("2+2?", "4"), ("2", "3", "4", "5", "a")
    for seed in range(3):
        model = lively_model(seed)
        (said,) = answer(model, "generate", [item], [Given(shown=SHOWN)])
        assert [said] == answer(model, "generate", [posed(item, SHOWN)])
        assert [said] != answer(model, "generate", [item])
        chosen = answer(model, "choose", [item] * 2, [Given(offer, shown=SHOWN), Given(offer, shown=SHOWN[:1])])
        assert chosen == answer(model, "choose", [posed(item, SHOWN), posed(item, SHOWN[:1])], [Given(offer)] * 2)


def test_an_item_s_own_system_turn_stands_first() -> None:
    rule, other = Message("system", "add"), Message("system", "other")
    shown = [replace(e, messages=(other, *e.messages)) for e in SHOWN]
    item = question("2+2?", "4")
    asked = replace(item, messages=(rule, *item.messages))
    assert posed(asked, shown).messages == (rule, *posed(item, SHOWN).messages)
    assert posed(item, shown) == posed(item, SHOWN)


@pytest.mark.parametrize(
    ("item", "shown", "before"),
    [
        (Example(text="a cat"), (Example(text="ab"), Example(text="c")), "ab<|end|>c<|end|>"),
        (question("2?", "22"), SHOWN[:1], "<|user|>1+1?<|end|><|assistant|>2<|end|>"),
    ],
)
def test_prediction_after_demonstrations_scores_the_item_s_own_targets_alone(
    item: Example, shown: tuple[Example, ...], before: str
) -> None:
    model, alone = toy_model(), toy_model().encode(item)
    lead = tuple(model.tokenizer(before, add_special_tokens=False).input_ids)
    (reply,) = answer(model, "predict", [item], [Given(shown=shown)])
    row = Row((Encoded(lead + alone.tokens, (False,) * len(lead) + alone.supervised),))
    with torch.no_grad():
        logp, hits = model.token_scores(collate([row]))
    assert len(logp) == sum(alone.supervised)
    assert (reply.loss, reply.right) == (pytest.approx(-float(logp.mean())), pytest.approx(float(hits.float().mean())))
    assert reply != answer(model, "predict", [item])[0]


def test_documents_are_no_turns() -> None:
    for question_, item, shown in (
        ("predict", SHOWN[0], Example(text="a")),
        ("predict", Example(text="a"), SHOWN[0]),
        ("generate", SHOWN[0], Example(text="a")),
    ):
        with pytest.raises(DataError, match="is a document, and no turn"):
            answer(toy_model(), question_, [item], [Given(shown=(shown,))])  # type: ignore[arg-type]


def test_an_example_is_as_long_as_with_its_longest_choice() -> None:
    model, asked = toy_model(), question("a", "yes")
    assert longest(model, asked) == len(model.encode(asked).tokens)
    assert longest(model, replace(asked, choices=("yes", "no"))) == longest(model, asked)
    assert longest(model, replace(asked, choices=("yes", "perhaps"))) == longest(model, asked) + 4
