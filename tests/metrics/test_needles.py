"""Needles: prompts of exact length, found to the letter, the same for one seed, and read off as a grid."""

from pathlib import Path

import pytest

from everlearn.data.render import render_prompt
from everlearn.errors import ConfigError, DataError
from everlearn.evaluate import Exam, sit
from everlearn.metrics.needles import Found, Grid, Needles, grid, split_sentences
from everlearn.models.load import load_tokenizer
from everlearn.testing.toys import question, toy_model, toy_tokenizer
from everlearn.types import Outcome, Reply

GRID = Needles((150, 301), (0.0, 0.5, 1.0))
TEXT = "One came late. Two stayed at home!\nWhat did three do? Four slept\n\nFive woke up."


@pytest.mark.parametrize("grid", [GRID, Needles((400, 617), asked=3), Needles((400, 617), distractors=4)], ids=str)
def test_a_prompt_has_exactly_as_many_tokens_as_its_cell(grid: Needles) -> None:
    tokenizer = toy_tokenizer()
    for item in grid.items(tokenizer):
        assert len(render_prompt(tokenizer, item.prompt)) == item.metadata["length"]


def test_so_it_has_with_a_real_tokenizer_and_a_text_of_ones_own(embedded: Path) -> None:
    tokenizer = load_tokenizer(str(embedded))
    for haystack in ((), split_sentences(TEXT)):
        lengths = (*range(96, 132), 1024)
        items = Needles(lengths, (0.3,), asked=2).items(tokenizer, haystack)
        assert [len(render_prompt(tokenizer, item.prompt)) for item in items] == list(lengths)


def test_the_needle_stands_at_its_depth() -> None:
    places = []
    for item in Needles((1000,), (0.0, 0.25, 0.5, 1.0)).items(toy_tokenizer()):
        straw, asked = item.prompt[0].content.split("\n\n")
        needle = straw.index("The code of the")
        places.append(needle / (len(straw) - len(item.response)))
        assert item.response in straw
        assert asked.startswith("What is the code of the ")
    assert places == pytest.approx([0.0, 0.25, 0.5, 1.0], abs=0.05)


def test_all_that_is_asked_for_is_answered_and_a_distractor_is_not() -> None:
    (item,) = Needles((700,), (0.5,), asked=2, distractors=3).items(toy_tokenizer())
    straw, asked = item.prompt[0].content.split("\n\n")
    assert straw.count("The code of the") == 5
    assert len(item.metadata["answers"]) == 2
    for answer in item.metadata["answers"]:
        assert f"is {answer}." in straw
        assert f"is {answer}." in item.response
    assert item.response.count("The code of the") == asked.count(" the ") - 1 == 2


def test_a_seed_gives_the_same_items_and_another_seed_others() -> None:
    first, again = GRID.items(toy_tokenizer()), GRID.items(toy_tokenizer())
    other = Needles(GRID.lengths, GRID.depths, seed=1).items(toy_tokenizer())
    assert first == again
    assert len({item.key for item in (*first, *other)}) == 2 * len(first)
    assert len(Needles((150,), (0.5,), repeats=4).items(toy_tokenizer())) == 4


def test_a_haystack_of_ones_own_is_used_round_and_round() -> None:
    assert split_sentences(TEXT) == [
        "One came late.",
        "Two stayed at home!",
        "What did three do?",
        "Four slept",
        "Five woke up.",
    ]
    (item,) = Needles((400,), (0.0,)).items(toy_tokenizer(), split_sentences(TEXT))
    assert item.prompt[0].content.count("Two stayed at home!") > 1


def test_what_has_no_room_is_refused() -> None:
    with pytest.raises(DataError, match="needles:20/0/0: the question and its needles alone take"):
        Needles((20,)).items(toy_tokenizer())
    for wrong in (lambda: Needles(()), lambda: Needles((9,), (1.5,)), lambda: Needles((9,), asked=0)):
        with pytest.raises(ConfigError):
            wrong()
    with pytest.raises(ConfigError, match="at most 16"):
        Needles((9,), asked=9, distractors=8)


def test_an_answer_is_found_to_the_letter_and_as_a_word() -> None:
    (item,) = Needles((700,), (0.5,), asked=2).items(toy_tokenizer())
    one, two = item.metadata["answers"]
    assert Found().score(item, Reply(f"{two}, and {one}.")) == 1
    assert Found().score(item, Reply(f"it is {one}")) == 0
    assert Found(partial=True).score(item, Reply(f"it is {one}")) == 0.5
    assert Found().score(item, Reply(f"{one}{two}")) == 0
    assert Found().score(question("a", "b.c"), Reply("so b.c it is")) == 1
    assert Found().score(question("a", "b.c"), Reply("so bxc it is")) == 0


def test_outcomes_are_read_as_a_grid() -> None:
    cells = Needles((150, 301), (0.0, 1.0), repeats=2).items(toy_tokenizer())
    # by length, then depth: 150/0 twice, 150/1 twice, 301/0 twice, 301/1 twice
    found = [Outcome(item.key, score) for item, score in zip(cells, (1, 1, 1, 1, 1, 0, 1, 1), strict=True)]
    read = grid([*cells, question("a", "b")], found)
    assert read == Grid((150, 301), (0.0, 1.0), ((1.0, 0.5), (1.0, 1.0)))
    assert read.perfect == 150
    assert Grid((1, 2), (0.0,), ((1.0, 1.0),)).perfect == 2
    assert Grid((1, 2), (0.0,), ((0.5, 1.0),)).perfect == 0
    assert grid([question("a", "b")], found) is None


def test_a_model_sits_a_grid_as_an_exam() -> None:
    model = toy_model()
    items = Needles((150, 301), (0.0, 1.0)).items(model.tokenizer)
    (outcomes,) = sit(model, [Exam("needles", items, Found())])
    assert [o.key for o in outcomes] == [item.key for item in items]
    assert {o.score for o in outcomes} == {0.0}  # it has learned nothing
