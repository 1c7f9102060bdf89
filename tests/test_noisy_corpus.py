"""The recipe of the noisy corpus: what is spoilt, that no article is in two parts, the page, a speed-up."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from everlearn.examples import Example
from recipes.noisy_corpus import ARMS, LIKE, rates
from recipes.noisy_curve import Curve
from recipes.noisy_page import page, picture
from recipes.noisy_text import KINDS, parts, replaced, shuffled, spoilt, titled

PARAGRAPH = " word{} in line {} of an article that is long enough to be cut . \n"


def made(count: int) -> list[str]:
    return [f" = Title {i} = \n \n" + "".join(PARAGRAPH.format(i, line) for line in range(12)) for i in range(count)]


def test_a_file_is_parted_at_titles_and_not_at_headings_inside_articles() -> None:
    assert titled("before\n = A = \n \n text \n = = Part = = \n more \n = B = \n end \n") == [
        " = A = \n \n text \n = = Part = = \n more \n",
        " = B = \n end \n",
    ]


def test_half_of_the_words_are_replaced_from_the_pool_and_white_space_stays() -> None:
    text = "one two\n" * 2000
    found = replaced(text, ["other"], random.Random(0))
    # 4000 words at 1/2 each: 2000, standard deviation 32.
    assert abs(Counter(found.split())["other"] - 2000) < 130
    assert len(found.split()) == 4000
    assert found.count("\n") == 2000
    assert replaced(text, ["other"], random.Random(0), share=0.0) == text
    assert set(replaced(text, ["other"], random.Random(0), share=1.0).split()) == {"other"}


def test_shuffled_words_are_the_same_words_and_white_space_stays() -> None:
    text = "a b\nc  d e f g h"
    found = shuffled(text, random.Random(1))
    assert sorted(found.split()) == sorted(text.split())
    assert found != text
    assert [c for c in found if c.isspace()] == [c for c in text if c.isspace()]


def test_half_of_the_documents_are_clean_and_a_quarter_of_each_kind_spoilt() -> None:
    texts = [f"document {i} with some words in it" for i in range(40)]
    found = spoilt(texts, ["x"], 0)
    assert Counter(e.metadata["kind"] for e in found) == {"clean": 20, "words": 10, "order": 10}
    assert [e.text for e in found[:20]] == texts[:20]
    assert spoilt(texts, ["x"], 0) == found
    assert all(e.text != text for e, text in zip(found[30:], texts[30:], strict=True))


def test_no_article_is_in_two_parts_and_what_is_asked_is_the_same_for_all_seeds() -> None:
    found = made(60)

    def numbers(examples: Sequence[Example]) -> set[str]:
        return {word for e in examples for word in e.text.split() if word.startswith("word")}

    one, other, tuning = (parts(found, seed, seed == 100, 200, 12) for seed in (0, 1, 100))
    clean = [e for e in one.corpus if e.metadata["kind"] != "words"]
    sets = [numbers(one.curated), numbers(clean), numbers(one.tests)]
    assert all(sets)
    assert not any(a & b for i, a in enumerate(sets) for b in sets[:i])
    assert [e.text for e in one.tests] == [e.text for e in other.tests]
    assert not numbers(tuning.tests) & (numbers(one.tests) | numbers(one.curated) | numbers(clean))
    assert numbers(one.curated) != numbers(other.curated)
    assert not {e.text for e in one.tests} & {e.text for e in one.probe}
    assert {e.metadata["kind"] for e in one.probe} == set(KINDS)


def curve(*losses: float) -> Curve:
    tokens = [100 * i for i in range(len(losses))]
    return Curve(tokens, losses, dict.fromkeys(("chosen", "others", *KINDS), losses), 0.5, 60.0)


def test_a_speed_up_by_hand() -> None:
    plain = curve(5.0, 4.0, 3.0)
    # 3.0 is half way from 4.0 at 100 to 2.0 at 200: 150 tokens instead of 200.
    assert curve(5.0, 4.0, 2.0).faster(plain) == pytest.approx(200 / 150)
    # It ends at 3.5, which plain has at 150 of the 200 tokens.
    assert curve(5.0, 4.5, 3.5).faster(plain) == pytest.approx(150 / 200)
    assert plain.faster(plain) == 1.0
    assert curve(5.0, 5.5, 6.0).faster(plain) == 0.0
    assert plain.reaches(2.0) is None


def test_arms_that_learn_alike_share_a_rate_and_of_equals_the_smallest_is_taken() -> None:
    sweep = {("plain", 1e-3): 2.0, ("plain", 2e-3): 2.0, ("slm-60", 1e-3): 3.0, ("slm-60", 2e-3): 2.5}
    sweep |= {("self", 1e-3): 1.0, ("self", 2e-3): 4.0}
    found = rates(sweep)
    assert found["plain"] == found["clean"] == found["self"] == 1e-3
    assert found["slm-40"] == found["slm-60"] == found["slm-80"] == 2e-3
    assert set(LIKE) | {"plain", "slm-60", "self"} == set(ARMS)


def test_the_page_and_the_picture_show_each_arm() -> None:
    runs = {arm: [curve(5.0, 4.0, 3.0)] * 2 for arm in ARMS} | {"slm-60": [curve(5.0, 4.0, 2.0)] * 2}
    written = page(runs, dict.fromkeys(ARMS, 2e-3), {("plain", 2e-3): 3.0}, "--seeds 2")
    assert "| plain | 0.002 | 3.000 [3.000, 3.000] | - | - | 50.0 [50.0, 50.0] | 1.0 |" in written
    assert "| slm-60 | 0.002 | 2.000 [2.000, 2.000] | -1.000 [-1.000, -1.000] | 1.33 [1.33, 1.33] |" in written
    assert "- plain: 0.002 3.000" in written
    drawn = picture(runs)
    assert all(f">{arm}<" in drawn for arm in ARMS)
    assert drawn == picture(runs)
