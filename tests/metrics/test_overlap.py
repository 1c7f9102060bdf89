"""Overlap metrics against numbers by hand and numbers that others publish."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.errors import DataError
from everlearn.examples import Example, Message
from everlearn.metrics.overlap import EditSimilarity, RougeL, Sari, longest_common_subsequence
from everlearn.types import Reply


def example(prompt, target, **metadata):
    return Example(messages=(Message("user", prompt), Message("assistant", target)), metadata=metadata, source="rows:3")


def score(metric, target, reply, prompt="question"):
    return metric.score(example(prompt, target), Reply(text=reply))


def table(first, second):
    """The textbook's table, cell by cell."""
    rows = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            rows[i + 1][j + 1] = rows[i][j] + 1 if a == b else max(rows[i][j + 1], rows[i + 1][j])
    return rows[-1][-1]


@given(st.text("abc", max_size=80), st.text("abc", max_size=80))
def test_the_longest_common_subsequence_is_the_textbooks(first, second):
    assert longest_common_subsequence(first, second) == table(first, second)


def test_rouge_l_gives_lins_examples():
    assert score(RougeL(), "police killed the gunman", "police kill the gunman") == pytest.approx(3 / 4)
    assert score(RougeL(), "police killed the gunman", "the gunman kill police") == pytest.approx(2 / 4)


def test_rouge_l_by_hand():
    # Four words of five and of eight are common: P = 4/5, R = 4/8.
    reply, target = "The council approved the plan.", "On Monday the council has approved a plan"
    assert score(RougeL(), target, reply) == pytest.approx(2 * 0.8 * 0.5 / 1.3)
    assert score(RougeL(), target, "") == score(RougeL(), "...", "...") == 0


def test_edit_similarity_gives_the_figures_of_the_levenshtein_package():
    assert score(EditSimilarity(), "Hello world!", "Holly grail!") == pytest.approx(0.583333, abs=1e-6)
    assert score(EditSimilarity(), "Brian", "Jesus") == 0
    assert score(EditSimilarity(), "this is a test", "this is a test!") == pytest.approx(28 / 29)


def test_edit_similarity_of_nothing_is_0_and_spaces_around_do_not_count():
    assert score(EditSimilarity(), ") ", ")") == 1
    assert score(EditSimilarity(), ")", "") == 0


def test_py150s_placeholders_are_filled_in():
    target, reply = "print ( <STR_LIT:a> , <NUM_LIT> )", "print ( a , 0 )"
    assert score(EditSimilarity(fill_literals=True), target, reply) == 1
    assert score(EditSimilarity(), target, reply) < 0.7
    assert score(EditSimilarity(fill_literals=True), "x = <STR_LIT> + <NUM_LIT:3>", "x =  + 3") == 1
    assert score(EditSimilarity(fill_literals=True), "<STR_LIT>", "a") == 0


def test_sari_gives_the_published_example():
    source, reply = "About 95 species are currently accepted .", "About 95 you now get in ."
    references = [
        "About 95 species are currently known .",
        "About 95 species are now accepted .",
        "95 species are now accepted .",
    ]
    found = Sari().score(example(source, references[0], references=references), Reply(text=reply))
    assert found == pytest.approx(0.26953601953601954, abs=1e-12)


def test_sari_by_hand():
    # n = 1: of "a b" kept "a" (rightly, all there was: 1), deleted "b" (rightly: 1), added "d" where "c" was wanted: 0.
    # n = 2: nothing kept or to keep (0/0 = 1), deleted "a b" (rightly: 1), added "a d" where "a c" was wanted: 0.
    # n = 3 and 4: there is nothing to be wrong about: 1, 1, 1.
    assert score(Sari(), "a c", "a d", prompt="a b") == pytest.approx((2 / 3 + 2 / 3 + 1 + 1) / 4)


def test_sari_of_the_target_is_1():
    assert score(Sari(), "the cat sat", "The cat sat", prompt="that feline sat on the mat") == pytest.approx(1)


def test_sari_counts_a_repeated_word_that_is_kept_once_as_wrongly_deleted():
    # n = 1: "a" is deleted once and kept once: precision of deletion 0; the rest, and n = 2 to 4, is right.
    assert score(Sari(), "a", "a", prompt="a a") == pytest.approx((2 / 3 + 1 + 1 + 1) / 4)


def test_sari_reads_the_source_between_its_marks():
    metric = Sari(after="Paragraph:\n", before="\n\nSimplification:")
    prompt = "Simplify.\n\nParagraph:\na b\n\nSimplification:"
    assert score(metric, "a c", "a d", prompt=prompt) == score(Sari(), "a c", "a d", prompt="a b")
    with pytest.raises(DataError, match="rows:3: no source to simplify"):
        score(metric, "a c", "a d", prompt="a b")


def test_sari_of_20_minuten_prefers_a_simplification_to_the_source_itself(shared):
    rows = json.loads((shared / "trace-500" / "20Minuten" / "test.json").read_text())[:20]
    metric = Sari(after="Paragraph:", before="Simplification:")
    copied, target = 0.0, 0.0
    for row in rows:
        source = row["prompt"].partition("Paragraph:")[2].rpartition("Simplification:")[0]
        copied += metric.score(example(row["prompt"], row["answer"]), Reply(text=source)) / len(rows)
        target += metric.score(example(row["prompt"], row["answer"]), Reply(text=row["answer"])) / len(rows)
    assert target > 0.95
    assert copied < 0.5


@given(st.text("ab .", max_size=30), st.text("ab .", min_size=1, max_size=30), st.text("ab .", max_size=30))
def test_overlap_scores_lie_between_0_and_1(prompt, target, reply):
    for metric in (RougeL(), EditSimilarity(), Sari()):
        assert 0 <= score(metric, target, reply, prompt=prompt or "x") <= 1 + 1e-12
        assert metric.question == "generate"
