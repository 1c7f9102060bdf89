"""A judge's marks and verdicts, by judges that are functions."""

import pytest

from everlearn.errors import ConfigError
from everlearn.examples import Example, Message
from everlearn.rewards.judge import Judge, PairJudge
from everlearn.rewards.reward import Answer

ASKED = Example(messages=(Message("user", "Say {a} or {reply}."), Message("assistant", "a")))


def between(text, begin, end):
    return text.partition(f"[{begin}]\n")[2].partition(f"\n[{end}]")[0]


def pair(messages):
    text = messages[0].content
    return between(text, "Reply A", "End of reply A"), between(text, "Reply B", "End of reply B")


def by_length(messages):
    """Marks a reply by its length."""
    [message] = messages
    assert message.role == "user"
    assert "Say {a} or {reply}." in message.content  # braces of a request are not places
    return f"Let me see. Rating: 3? No.\nRating: {len(between(message.content, 'Reply', 'End of reply'))}"


def speechless(messages):
    return "I would rather not say."


def longer(messages):
    a, b = pair(messages)
    return f"Verdict: {'A' if len(a) > len(b) else 'B' if len(b) > len(a) else 'tie'}"


def first(messages):
    return "Verdict: A"


def silent_on_bad(messages):
    return "?" if "bad" in pair(messages) else longer(messages)


def scores(reward, *texts):
    return reward.score(ASKED, [Answer(text) for text in texts])


def test_marks_run_from_0_to_1_over_the_scale():
    assert scores(Judge(by_length, scale=(1, 5)), "a", "abc", "abcde", "a") == [0, 0.5, 1, 0]


def test_a_mark_that_cannot_be_read_or_is_off_the_scale_is_none():
    assert scores(Judge(speechless), "a", "b") == [None, None]
    assert scores(Judge(by_length, scale=(1, 5)), "", "abcdef") == [None, None]


@pytest.mark.parametrize(
    ("said", "mark"),
    [
        ("Rating: -1", None),
        ("**Rating:** +3", 0.5),
        ("Rating - 3", 0.5),
        ("Rating (1-5): 4", 0.75),
        ("Rating: (4)", 0.75),
        ("Rating: .5", None),
        ("Rating: 1.5", 0.125),
        ("Rating: 1,000", None),
        ("__Rating__: 3", 0.5),
        ("Rating: \u22123", None),
        ("Overrating: 3", None),
    ],
)
def test_a_mark_is_read_with_its_sign_and_all_its_digits(said, mark):
    assert scores(Judge(lambda messages: said, scale=(1, 5)), "a") == [mark]


def test_a_scale_may_go_below_nothing():
    assert scores(Judge(lambda messages: "Rating: -1", scale=(-2, 2)), "a") == [0.25]


@pytest.mark.parametrize(
    ("said", "shares"),
    [("Verdict: a tie", [0.5, 0.5]), ("**Verdict:** A", [1, 0]), ("Verdict: able", [None, None])],
)
def test_a_tie_is_not_read_as_its_article(said, shares):
    """The first of two replies wins in its second place, so that the other order alone decides."""
    judge = PairJudge(lambda messages: said if pair(messages) == ("a", "b") else "Verdict: B")
    assert scores(judge, "a", "b") == shares


def test_every_pair_is_judged():
    # "abc" beats both, "ab" beats one of two, "a" none
    assert scores(PairJudge(longer), "ab", "abc", "a") == [0.5, 1, 0]


def test_a_judge_that_always_prefers_the_first_place_ties_all():
    assert scores(PairJudge(first), "a", "b", "c") == [0.5, 0.5, 0.5]


def test_equal_replies_tie():
    assert scores(PairJudge(longer), "a", "a", "ab") == [0.25, 0.25, 1]


def test_a_verdict_that_cannot_be_read_drops_the_pair_alone():
    assert scores(PairJudge(silent_on_bad), "a", "ab", "bad") == [0, 1, None]
    assert scores(PairJudge(speechless), "a", "b") == [None, None]


def test_a_reply_alone_has_nothing_to_be_compared_with():
    assert scores(PairJudge(longer), "a") == [None]


def test_prompts_and_scales_that_cannot_be_judged_by_are_refused():
    with pytest.raises(ConfigError, match=r"no place \{reply\}"):
        Judge(by_length, prompt="How good is it?")
    with pytest.raises(ConfigError, match=r"no place \{b\}"):
        PairJudge(longer, prompt="{a}?")
    with pytest.raises(ConfigError, match="lowest mark"):
        Judge(by_length, scale=(5, 5))
