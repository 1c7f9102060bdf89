"""Mathematics is compared by what it means; without math-verify it is said how to get it."""

import sys
from threading import Thread

import pytest

from everlearn.errors import ConfigError
from everlearn.examples import Example, Message
from everlearn.rewards.extraction import Boxed
from everlearn.rewards.mathematics import MathEqual, SameMath
from everlearn.rewards.reward import Answer
from everlearn.rewards.votes import MajorityVote


def asked(target):
    return Example(messages=(Message("user", "?"), Message("assistant", target)))


def score(target, text, reward=None):
    return (reward or MathEqual()).score(asked(target), [Answer(text)])[0]


def test_math_verify_that_is_not_installed_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)  # as Python marks what cannot be imported
    monkeypatch.delitem(sys.modules, "everlearn.rewards.latex", raising=False)
    for ask in (lambda: score("1", "1"), lambda: SameMath().same("1", "2")):
        with pytest.raises(ConfigError, match=r"pip install 'everlearn\[rl\]'"):
            ask()


@pytest.mark.parametrize(
    ("target", "text", "expected"),
    [
        (r"\frac{1}{2}", "0.5", 1),
        ("1/2", r"so it is $\frac{2}{4}$.", 1),
        ("0.5", r"\boxed{\frac12}", 1),
        (r"2\sqrt{2}", r"$\sqrt{8}$", 1),
        (r"2\sqrt{2}", r"\boxed{2}", 0),
        (r"\sqrt{8}", r"2\sqrt{2}", 1),
        ("x^2 + 2x + 1", "$(x+1)^2$", 1),
        ("1,234", "1234", 1),
        ("7", "$6$ or \\boxed{7}", 1),
        ("7", "I do not know.", 0),
        ("7", "", 0),
        ("7", r"\boxed{\frac{1}{", 0),
        ("Friday", "Friday", None),
    ],
)
def test_scores_by_hand(target, text, expected):
    assert score(target, text) == expected


def test_an_answer_may_be_found_first():
    boxed = MathEqual(extract=Boxed())
    assert score("7", r"\boxed{7}, not $8$", boxed) == 1
    assert score("7", "7", boxed) == 0


def test_what_takes_too_long_is_not_waited_for():
    huge = "$" + "+".join(f"\\sin(x+{i})^{{{i}}}" for i in range(200)) + "$"
    assert score("7", huge, MathEqual(seconds=1)) == 0


def test_one_half_votes_for_a_half_however_written():
    vote = MajorityVote(extract=Boxed(), equality=SameMath())
    group = [Answer(f"\\boxed{{{text}}}") for text in (r"\frac{1}{2}", "0.5", "1/2", "2", "2")]
    assert vote.score(asked("unknown"), group) == [1, 1, 1, 0, 0]
    by_writing = MajorityVote(extract=Boxed())
    assert by_writing.score(asked("unknown"), group) == [0, 0, 0, 1, 1]


def test_equality_is_the_same_both_ways():
    for one, other in [("x = 3", "3"), ("1 < x < 2", "(1, 2)"), ("1/2", "0.5"), ("7", "8")]:
        assert SameMath().same(one, other) == SameMath().same(other, one)


def test_outside_the_main_thread_no_time_can_be_kept():
    said = []

    def ask():
        try:
            score("7", "7")
        except ConfigError as error:
            said.append(str(error))

    thread = Thread(target=ask)
    thread.start()
    thread.join()
    assert "only the main thread" in said[0]


def test_less_than_a_second_is_refused():
    for make in (MathEqual, SameMath):
        with pytest.raises(ConfigError, match="a whole second at least"):
            make(seconds=0)
