"""Pairs of scored answers: gaps, buckets and hard negatives, by hand."""

from collections import Counter

import pytest

from everlearn.data.pairing import Candidate, Pairing, bucket_of, pairs_of
from everlearn.errors import ConfigError
from everlearn.testing.toys import question

PROMPT = question("a", "never looked at")


def made(answers: list[list[Candidate]], pairing: Pairing) -> list[tuple[str, str]]:
    prompts = [question(f"{i}", "x") for i in range(len(answers))]
    found = pairs_of(prompts, answers, pairing, seed=0)
    assert all(e.messages[0].content in "0123456789" and e.choices[0] == e.response for e in found)
    return [e.choices for e in found]  # type: ignore[misc]


def test_the_best_is_chosen_over_one_that_is_worse_by_the_gap() -> None:
    answers = [Candidate("good", 1.0), Candidate("fair", 0.8), Candidate("bad", 0.2)]
    assert made([answers], Pairing(gap=0.5)) == [("good", "bad")]
    assert made([answers], Pairing(gap=0.9)) == []
    assert made([answers[:1], []], Pairing()) == []


def test_a_gap_that_rounding_alone_makes_smaller_is_wide_enough() -> None:
    assert 1.0 - 0.9 < 0.1  # in floating point
    assert made([[Candidate("good", 1.0), Candidate("fair", 0.9)]], Pairing(gap=0.1)) == [("good", "fair")]


def test_a_prompt_gives_few_pairs_each_with_another_rejected_answer() -> None:
    answers = [Candidate("good", 1.0), Candidate("b", 0.0), Candidate("b ", 0.0), Candidate("c", 0.0)]
    found = made([answers], Pairing(per_prompt=5))
    assert sorted((chosen, rejected.strip()) for chosen, rejected in found) == [("good", "b"), ("good", "c")]
    assert len(made([answers], Pairing(per_prompt=1))) == 1


def test_the_likeliest_rejected_answer_of_a_bucket_is_taken() -> None:
    answers = [Candidate("good", 1.0, -9.0), *(Candidate(f"b{i}", 0.0, -float(i)) for i in (3, 1, 2))]
    assert made([answers], Pairing()) == [("good", "b1")]
    assert made([answers], Pairing(per_prompt=2)) == [("good", "b1"), ("good", "b2")]


def test_buckets_are_filled_alike() -> None:
    # Each prompt can give a gap of 0.2, 0.5 or 0.9, and the likeliest rejected answer has always the widest.
    answers = [
        [Candidate("good", 1.0), Candidate("l", 0.8, -3.0), Candidate("m", 0.5, -2.0), Candidate("h", 0.1, -1.0)]
        for _ in range(6)
    ]
    assert Counter(rejected for _, rejected in made(answers, Pairing())) == {"l": 2, "m": 2, "h": 2}


def test_buckets_are_thirds_of_the_range() -> None:
    assert [bucket_of(gap, 0.1, 1.0) for gap in (0.1, 0.39, 0.41, 0.69, 0.71, 1.0)] == [
        "low", "low", "mid", "mid", "high", "high",
    ]  # fmt: skip
    assert bucket_of(0.5, 0.5, 0.5) == "low"


def test_answers_that_were_cut_or_say_nothing_take_no_part() -> None:
    answers = [Candidate("good", 1.0, finished=False), Candidate("fair", 0.8), Candidate("bad", 0.0), Candidate(" ", 0)]
    assert made([answers], Pairing()) == [("fair", "bad")]
    assert made([answers], Pairing(truncated=True, gap=0.5)) == [("good", "bad")]


def test_pairs_say_what_they_are_and_are_the_same_every_time() -> None:
    answers = [[Candidate("good", 1.0), Candidate("bad", 0.25)]]
    (found,) = pairs_of([PROMPT], answers, Pairing(), seed=3)
    assert found.metadata == {"gap": 0.75, "bucket": "low"}
    assert pairs_of([PROMPT], answers, Pairing(), seed=3) == [found]


def test_numbers_without_a_meaning_are_refused() -> None:
    for wrong in ({"gap": 0.0}, {"per_prompt": 0}):
        with pytest.raises(ConfigError, match="gap is positive"):
            Pairing(**wrong)  # type: ignore[arg-type]
