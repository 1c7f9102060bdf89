"""Preferences as rows: what they hold, that sharing a prompt changes nothing, and that pairs stay together."""

import pytest
import torch

from everlearn.data.preferences import pair, verdict
from everlearn.data.shares import halves, shares
from everlearn.errors import DataError
from everlearn.examples import Example, Message
from everlearn.objectives.judged import Case, batches_of, case_of, judged_of, mismatched, weights_of
from everlearn.testing.toys import toy_model

MODEL = toy_model()


def asked(prompt: str, chosen: str, rejected: str, weight: float = 1.0) -> Example:
    return pair((Message("user", prompt),), chosen, rejected, {"weight": weight})


PAIRS = [asked("a", "yes", "no"), asked("a longer one", "b", "the cat sat", 3.0), asked("c", "dd", "e")]
CASES = [case_of(MODEL, example, 64) for example in PAIRS]


def test_a_case_is_a_prompt_and_its_answers_with_what_ends_them() -> None:
    case = CASES[0]
    assert MODEL.tokenizer.decode(case.prompt) == "<|user|>a<|end|><|assistant|>"
    assert [MODEL.tokenizer.decode(a) for a in case.answers] == ["yes<|end|>", "no<|end|>"]
    assert (case.good, case.weight, CASES[1].weight) == ((True, False), 1.0, 3.0)


@pytest.mark.parametrize("packs", [True, False])
def test_answers_are_the_targets_chosen_first(packs: bool) -> None:
    (batch,) = batches_of(CASES, packs, 4096, paired=True)
    answers = judged_of(batch, torch.ones(int(batch.supervised.sum()), dtype=torch.float64))
    assert answers.good.tolist() == [True, False] * 3
    by_length = {(4.0, 3.0): 1.0, (2.0, 12.0): 3.0, (3.0, 2.0): 1.0}  # letters, and the token that ends an answer
    pairs = list(zip(answers.lengths[::2].tolist(), answers.lengths[1::2].tolist(), strict=True))
    assert sorted(pairs) == sorted(by_length)
    assert weights_of(batch, paired=True).tolist() == [by_length[lengths] for lengths in pairs]
    assert answers.logprobs.tolist() == answers.lengths.tolist()
    assert batch.weight == 5.0
    assert batches_of(CASES, packs, 4096, paired=False)[0].weight == 10.0


def test_sharing_a_prompt_changes_no_probability() -> None:
    found = []
    for packs in (True, False):
        batches = batches_of(CASES, packs, 1, paired=True)
        with torch.no_grad():
            said = [judged_of(batch, MODEL.token_logprobs(batch)).logprobs for batch in batches]
        found.append(sorted(torch.cat(said).tolist()))
    assert found[0] == pytest.approx(found[1], abs=1e-10)
    assert batches_of(CASES, True, 1, True)[0].tokens.shape[0] == 1


def test_a_pair_is_never_parted() -> None:
    for tokens in (1, 60, 4096):
        for batch in batches_of(CASES, False, tokens, paired=True):
            assert batch.tied == 2
            assert len(batch.tokens) % 2 == 0
    (batch,) = batches_of(CASES, False, 4096, paired=True)
    parts = halves(batch)
    assert [len(part.tokens) for part in parts] == [4, 2]
    assert [[len(b.tokens) for b in share] for share in shares([batch], 4)] == [[2], [2], [2], []]
    kept = [judged_of(part, torch.ones(int(part.supervised.sum()))).good.tolist() for part in parts]
    assert kept == [[True, False] * 2, [True, False]]


def test_mismatched_prompts_get_the_answers_of_the_next() -> None:
    turned = mismatched(CASES)
    assert [case.prompt for case in turned] == [case.prompt for case in CASES]
    assert [case.answers for case in turned] == [CASES[i].answers for i in (1, 2, 0)]
    assert mismatched(CASES[:1]) == []
    assert batches_of([], True, 64, False) == batches_of([], False, 64, False) == []


def test_a_judged_answer_is_a_row_of_its_own() -> None:
    bad = case_of(MODEL, verdict((Message("user", "a"),), "no", False, {}), 64)
    assert bad == Case(bad.example, CASES[0].prompt, CASES[0].answers[1:], (False,))
    for packs in (True, False):
        (batch,) = batches_of([bad], packs, 64, paired=False)
        assert judged_of(batch, torch.ones(3)).good.tolist() == [False]


def test_a_preference_that_is_too_long_is_named() -> None:
    with pytest.raises(DataError, match=r"has 27 tokens, more than length=20"):
        case_of(MODEL, PAIRS[1], 20)
