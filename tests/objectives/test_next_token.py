"""Next-token loss: independent of padding, packing and accumulation; ignores what is no target."""

from dataclasses import replace

import pytest
import torch

from everlearn.data.mixes import Mix, Phase
from everlearn.errors import DataError
from everlearn.examples import Example, Message, Plan, Step
from everlearn.objectives.next_token import NextToken
from everlearn.testing.toys import question, toy_model

DOCUMENTS = [Example(text=t) for t in ("the cat sat.", "a dog", "on the mat, again and again.", "no")]
QUESTIONS = [question("after a?", "b"), question("name 3", "three"), question("x", "a long answer")]


def total(steps: list[Step]) -> float:
    model = toy_model()
    with torch.no_grad():
        parts = [(float(NextToken().loss(model, b)), b.weight) for step in steps for b in step.batches]
    return sum(loss * weight for loss, weight in parts) / sum(weight for _, weight in parts)


def steps(examples: list[Example], plan: Plan, objective: NextToken | None = None) -> list[Step]:
    return list((objective or NextToken()).steps(toy_model(), examples, plan))


def test_packed_documents_have_the_loss_they_have_alone() -> None:
    packed, alone = steps(DOCUMENTS, Plan(8, length=64)), steps(DOCUMENTS, Plan(8, length=64), NextToken(packed=False))
    assert packed[0].batches[0].tokens.shape[0] == 1
    assert alone[0].batches[0].tokens.shape[0] == 4
    assert total(packed) == pytest.approx(total(alone), abs=1e-10)


@pytest.mark.parametrize("tokens", [1, 40, 4096])
def test_the_mean_over_tokens_does_not_depend_on_padding_or_passes(tokens: int) -> None:
    assert total(steps(QUESTIONS, Plan(8, tokens=tokens))) == pytest.approx(total(steps(QUESTIONS, Plan(1))), abs=1e-10)


def test_only_the_assistant_is_a_target() -> None:
    model, example = toy_model(), QUESTIONS[1]
    (step,) = steps([example], Plan())
    batch = step.batches[0]
    targets = model.tokenizer.decode(batch.tokens[batch.supervised])
    assert targets == "three<|end|>"


def test_all_assistant_turns_are_targets() -> None:
    turns = (("user", "hi"), ("assistant", "ho"), ("user", "he"), ("assistant", "ha"))
    (step,) = steps([Example(messages=tuple(Message(r, c) for r, c in turns))], Plan())
    batch = step.batches[0]
    assert toy_model().tokenizer.decode(batch.tokens[batch.supervised]) == "ho<|end|>ha<|end|>"


def test_a_seed_orders_and_none_keeps_the_order() -> None:
    given, seeded = steps(QUESTIONS, Plan(1)), steps(QUESTIONS, Plan(1, seed=3))
    assert [s.batches[0].examples[0] for s in given] == QUESTIONS
    assert sorted(s.batches[0].examples[0].key for s in seeded) == sorted(q.key for q in QUESTIONS)
    again = steps(QUESTIONS, Plan(1, seed=3))
    assert [s.batches[0].examples for s in again] == [s.batches[0].examples for s in seeded]


def test_a_pass_goes_on_where_it_was_left() -> None:
    whole, rest = steps(QUESTIONS * 3, Plan(2, seed=1)), steps(QUESTIONS * 3, Plan(2, seed=1, start=2))
    assert [s.progress for s in rest] == [s.progress for s in whole[2:]]
    assert [s.batches[0].tokens.tolist() for s in rest] == [s.batches[0].tokens.tolist() for s in whole[2:]]


def test_progress_rises_to_one() -> None:
    seen = [s.progress for s in steps(QUESTIONS * 5, Plan(2, seed=0))]
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert seen[0] > 0


def test_a_conversation_that_is_too_long_is_named() -> None:
    with pytest.raises(DataError, match="more than length=5"):
        steps([question("a long question", "b", "rows.jsonl:7")], Plan(length=5))


def test_a_document_of_one_token_teaches_nothing() -> None:
    assert all(s.weight > 0 for s in steps([Example(text="a"), *DOCUMENTS], Plan(1)))


def mix() -> Mix:
    """Documents about a cat, of which there are few, and then news among them."""
    cats = [Example(text=f"the {w} cat sat on the {w} mat.") for w in "abc"]
    news = [Example(text=f"what is new today is {w}, and then {w} again and again.") for w in "defgh"]
    return Mix({"cats": cats, "news": news}, (Phase(300, {"cats": 1}), Phase(300, {"cats": 1, "news": 3})))


def test_a_mix_is_drawn_as_its_phases_say_and_the_account_stands_beside_each_step() -> None:
    whole = list(NextToken().steps(toy_model(), mix(), Plan(2, length=32, seed=1)))
    assert whole[-1].notes["tokens of cats"] == 375  # 300, and 1/4 of 300
    assert whole[-1].notes["tokens of news"] == 225
    assert whole[-1].notes["epochs of cats"] > 3
    assert sum(int((b.segments > 0).sum()) for step in whole for b in step.batches) == 600
    assert [s.notes["phase"] for s in (whole[0], whole[-1])] == [1, 2]
    progress = [s.progress for s in whole]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    assert total(whole) > 0


def test_a_mix_goes_on_in_the_middle_of_a_document() -> None:
    plan = Plan(2, length=16, seed=1)
    whole = list(NextToken().steps(toy_model(), mix(), plan))
    for start in (1, 7, len(whole) - 1):
        rest = list(NextToken().steps(toy_model(), mix(), replace(plan, start=start)))
        assert [s.batches[0].tokens.tolist() for s in rest] == [s.batches[0].tokens.tolist() for s in whole[start:]]
        assert [(s.progress, s.notes) for s in rest] == [(s.progress, s.notes) for s in whole[start:]]


def test_a_ramp_makes_steps_larger_and_rows_longer() -> None:
    documents = [Example(text="again and again the cat sat on the mat, " * 10)]  # 400 tokens
    found = steps(documents, Plan(1, length=16, ramp=((32, 2, 16), (96, 2, 64))))
    shapes = [tuple(s.batches[0].tokens.shape) for s in found]
    # 16 twice are 32; 2 x 16 twice are 96; then 2 x 64.
    assert shapes[:5] == [(1, 16), (1, 16), (2, 16), (2, 16), (2, 64)]
    assert found[-1].progress == 1.0
