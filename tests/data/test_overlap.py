import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.data.overlap import Index, sketch, words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What's  the capital,\nof FRANCE?", "what s the capital of france"),
        ("state-of-the-art (2020)", "State of the art 2020."),
        ("\uff41\uff42\u3000\uff43", "ab c"),
        ("Straße", "STRASSE"),
        ("选择一项\uff1a支持", "选择一项 支持"),
    ],
)
def test_case_spacing_and_punctuation_do_not_tell_texts_apart(one: str, other: str) -> None:
    assert words(one) == words(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2 + 3 =", "2 - 3 ="),
        ("2 * 3", "2 / 3"),
        ("¬Q", "Q"),
        ("P ∧ Q", "P \u2228 Q"),
        ("-3", "3"),
        ("!!!", "???"),
        ("😀", "😡"),
    ],
)
def test_signs_of_arithmetic_and_logic_do(one: str, other: str) -> None:
    assert words(one) != words(other)


def test_a_script_without_spaces_has_a_word_for_each_character() -> None:
    assert words("选择 ab12 支持") == ["选", "择", "ab12", "支", "持"]


@settings(deadline=None)  # a busy machine is no defect
@given(st.text())
def test_any_text_but_blanks_has_words(text: str) -> None:
    assert bool(words(text)) == bool(text.split())


def jaccard(one: list[str], other: list[str]) -> float:
    def shingles(text: list[str]) -> set[tuple[str, ...]]:
        padded = ["", "", *text]
        return {tuple(padded[i : i + 3]) for i in range(len(text))}

    first, second = shingles(one), shingles(other)
    return len(first & second) / len(first | second)


def varied(rng: random.Random, count: int, size: int = 60) -> list[list[str]]:
    """A text and variants of it in which more and more words are others."""
    base = [f"w{rng.randrange(10_000)}" for _ in range(size)]
    texts = [base]
    for changed in range(1, count):
        text = list(base)
        for place in rng.sample(range(size), changed % 8):
            text[place] = f"v{rng.randrange(10_000)}"
        texts.append(text)
    return texts


def test_near_texts_are_those_whose_shingles_overlap_enough() -> None:
    rng = random.Random(0)
    right = near = 0
    for _ in range(60):
        one, other = varied(rng, 9), varied(rng, 9)
        index, asked = sketch([*other, one[0]]), sketch(one)
        found = Index(index, range(len(other) + 1)).near(asked, range(len(one)), 0.8)
        expected = {row for row in range(len(one)) if jaccard(one[row], one[0]) >= 0.8}
        assert set(found) <= expected
        assert all(match == len(other) for match in found.values())
        right, near = right + len(found), near + len(expected)
    assert near > 100
    assert right / near > 0.99


def test_within_one_sketch_a_text_is_compared_with_those_before_it() -> None:
    text, other = [f"a{i}" for i in range(40)], [f"b{i}" for i in range(40)]
    known = sketch([text, other, [*text[:39], "x"], [*other[:39], "y"], [*text[:39], "z"]])
    found = Index(known, range(5)).near(known, range(5), 0.8)
    assert set(found) == {2, 3, 4}
    assert found[3] == 1
    assert found[4] in (0, 2)


def test_only_the_rows_given_are_searched() -> None:
    text = [f"a{i}" for i in range(40)]
    known = sketch([text, [*text[:39], "x"], [*text[:39], "y"]])
    assert Index(known, [1]).near(known, [2], 0.8) == {2: 1}
    assert Index(known, []).near(known, [2], 0.8) == {}
    assert Index(known, [1]).near(known, [], 0.8) == {}


def test_a_template_is_not_what_makes_texts_near() -> None:
    template = [f"t{i}" for i in range(50)]
    rows = [[*template, f"a{i}", f"b{i}", f"c{i}"] for i in range(40)]
    known = sketch(rows)
    assert Index(known, range(40)).near(known, range(40), 0.8) == {}
    few = sketch(rows[:5])
    assert set(Index(few, range(5)).near(few, range(5), 0.8)) == {1, 2, 3, 4}


def test_texts_that_are_all_template_or_empty_are_near_nothing() -> None:
    known = sketch([["a", "b"]] * 30 + [[]])
    assert not np.diff(known.bounds).any()
    assert Index(known, range(31)).near(known, range(31), 0.5) == {}
    assert len(sketch([]).bounds) == 1


def test_the_same_texts_give_the_same_sketch() -> None:
    texts = varied(random.Random(1), 30)
    one, other = sketch(texts), sketch([list(t) for t in texts])
    assert (one.signatures == other.signatures).all()
    assert (one.shingles == other.shingles).all()


def test_one_word_texts_are_near_only_where_equal() -> None:
    known = sketch([["yes"], ["no"], ["yes"]])
    assert Index(known, range(3)).near(known, range(3), 0.8) == {2: 0}
