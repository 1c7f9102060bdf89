"""Right or wrong answers, by hand."""

from importlib.util import find_spec

import pytest

from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example, Message
from everlearn.metrics.text import Contains, ExactMatch, NumericMatch, PrefixMatch, ReasoningGym
from everlearn.types import Metric, Reply


def example(target, **fields):
    return Example(messages=(Message("user", "question"), Message("assistant", target)), source="rows:3", **fields)


def score(metric, target, reply):
    return metric.score(example(target), Reply(text=reply))


@pytest.mark.parametrize(
    ("metric", "target", "reply", "expected"),
    [
        (ExactMatch(), "B", " B\n", 1),
        (ExactMatch(), "B", "b", 0),
        (ExactMatch(), "B", "B.", 0),
        (ExactMatch(strip=False), "B", "B ", 0),
        (ExactMatch(ignore_case=True), "Very Negative", "very negative", 1),
        (ExactMatch(ignore_punctuation=True), "its good", "it's good!", 1),
        (ExactMatch(collapse_spaces=True), "a b", " a \n b", 1),
        (ExactMatch(), "a b", "a  b", 0),
        (ExactMatch(characters=1), "B\nBecause a clause is...", "B\nFor another reason", 1),
        (ExactMatch(characters=1), "B\nBecause", "C\nBecause", 0),
        (ExactMatch(characters=1), "B\nBecause", "", 0),
        (PrefixMatch(), "A", " A, because", 1),
        (PrefixMatch(), "A", "All of them", 1),
        (PrefixMatch(), "A", "It is A", 0),
        (PrefixMatch(), " ", "anything", 0),
        (NumericMatch(), "so 3 + 4 = 7\n#### 7", "I add 3 and 4 and get 7.", 1),
        (NumericMatch(), "7", "7, since 3 + 4", 0),
        (NumericMatch(position="first"), "7", "7, since 3 + 4", 1),
        (NumericMatch(), "1,234.50", "it is $1234.5", 1),
        (NumericMatch(), "0.5", ".50", 1),
        (NumericMatch(), "3", "5-3", 1),
        (NumericMatch(), "-3", "x is -3", 1),
        (NumericMatch(), "3", "x is -3", 0),
        (NumericMatch(), "-0.5", "x is -.5", 1),
        (NumericMatch(), "3.5", "2.5-.5 is 3.5", 1),
        (NumericMatch(), "0.5", "3-.5", 1),
        (NumericMatch(), "3", "1, 2,3", 1),
        (NumericMatch(), "2345", "1,2345", 1),
        (NumericMatch(), "1234567", "about 1,234,567", 1),
        (NumericMatch(), "7", "seven", 0),
        (NumericMatch(), "61.54", "61.5", 0),
        (NumericMatch(tolerance=0.05), "61.54", "61.5", 1),
        (NumericMatch(), "9007199254740993", "9007199254740992", 0),
    ],
)
def test_scores_by_hand(metric, target, reply, expected):
    assert score(metric, target, reply) == expected


def test_the_exact_match_of_superni_is_a_setting():
    metric = ExactMatch(ignore_case=True, ignore_punctuation=True, collapse_spaces=True)
    assert score(metric, "World News", "world  news.") == 1


def test_a_target_without_a_number_is_refused():
    with pytest.raises(DataError, match="rows:3: the target 'Friday' holds no number"):
        score(NumericMatch(), "Friday", "5")


def test_a_position_that_is_neither_is_refused():
    with pytest.raises(ConfigError, match="'middle'; use 'first' or 'last'"):
        NumericMatch(position="middle")


@pytest.mark.parametrize("metric", [ExactMatch(), PrefixMatch(), NumericMatch(), ReasoningGym("chain_sum")])
def test_text_metrics_ask_for_a_generated_answer(metric: Metric):
    assert metric.question == "generate"


def test_reasoning_gym_needs_an_entry():
    with pytest.raises(DataError, match="rows:3 has no 'entry'"):
        score(ReasoningGym("chain_sum"), "4", "4")


@pytest.mark.skipif(find_spec("reasoning_gym") is not None, reason="is about machines without reasoning-gym.")
def test_reasoning_gym_that_is_not_installed_says_how_to_get_it():
    with pytest.raises(ConfigError, match=r"pip install 'everlearn\[rl\]'"):
        ReasoningGym("chain_sum").score(example("4", metadata={"entry": {"answer": "4"}}), Reply(text="4"))


def test_reasoning_gyms_own_verifier_is_asked():
    pytest.importorskip("reasoning_gym", reason="needs reasoning-gym: pip install 'everlearn[rl]'.")
    asked = example("4", metadata={"entry": {"answer": "4", "metadata": {}}})
    metric = ReasoningGym("chain_sum")
    assert [metric.score(asked, Reply(text=text)) for text in ("4\n", "5", "", "it is 4")] == [1, 0, 0, 1 / 7]
    with pytest.raises(ConfigError, match="chain_smu"):
        ReasoningGym("chain_smu").score(asked, Reply(text="4"))


def test_a_target_is_found_anywhere_in_a_sentence_by_whole_words() -> None:
    found = Contains()
    for target, reply, score in (
        ("Oslo", "She was born in OSLO.", 1),
        ("in Oslo", "born in Oslo", 1),
        ("in Oslo", "in the town of Oslo", 0),
        ("Oslo", "in Oslos", 0),
        ("", "so", 0),
    ):
        assert found.score(example(target), Reply(reply)) == score, (target, reply)
    many = Example(messages=example("Oslo").messages, metadata={"answers": ["Oslo", "Kristiania"]})
    assert found.score(many, Reply("it was called Kristiania then")) == 1
    assert found.question == "generate"
