"""Choosing over a shared prompt equals scoring each candidate alone; predicting counts every token once."""

import pytest
import torch

from everlearn.data.packing import Row, collate
from everlearn.examples import Encoded, Example
from everlearn.models.answers import answer
from everlearn.models.language_model import LanguageModel
from everlearn.testing.toys import question, toy_model
from everlearn.types import Given

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
