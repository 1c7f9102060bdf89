"""How text is read as mathematics."""

import pytest

from everlearn.rewards import latex


@pytest.mark.parametrize(
    ("text", "readable"),
    [("7", True), (r"\frac{1}{2}", True), ("x^2", True), ("sqrt(2)", True), ("3 dollars", True), ("Friday", False)],
)
def test_what_can_be_read(text, readable):
    assert latex.is_readable(text, 5) == readable


def test_an_expression_without_marks_is_read_as_a_whole():
    """math-verify alone reads the 2 in front of the root."""
    assert not latex.is_equal(r"2\sqrt{2}", "2", 5)
    assert latex.is_equal(r"2\sqrt{2}", r"\sqrt{8}", 5)


def test_the_number_is_found_among_words():
    assert latex.is_equal("3", "3 dollars", 5)
