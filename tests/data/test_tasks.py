import json

import pytest

from everlearn.errors import ConfigError, DataError
from everlearn.metrics.text import ReasoningGym
from everlearn.types import Reply

pytest.importorskip("reasoning_gym", reason="needs reasoning-gym: pip install 'everlearn[rl]'.")

from everlearn.data import tasks


def test_questions_are_different_plain_and_scored_by_their_own_verifier() -> None:
    settings = {"min_digits": 1, "max_digits": 1, "min_terms": 2, "max_terms": 2}
    examples = tasks.reasoning_gym_examples("chain_sum", 150, 3, settings)
    assert len({e.messages[0].content for e in examples}) == 150
    assert examples == tasks.reasoning_gym_examples("chain_sum", 150, 3, settings)
    assert json.loads(json.dumps(examples[0].metadata)) == examples[0].metadata
    metric = ReasoningGym("chain_sum")
    assert [metric.score(e, Reply(e.response)) for e in examples] == [1.0] * 150
    assert metric.score(examples[0], Reply("no idea")) < 1


def test_more_questions_begin_with_the_same_ones() -> None:
    assert tasks.reasoning_gym_examples("chain_sum", 30, 1)[:10] == tasks.reasoning_gym_examples("chain_sum", 10, 1)


def test_what_reasoning_gym_cannot_give_is_said() -> None:
    with pytest.raises(ConfigError, match=r"no task 'chain_sun'; use one of \['chain_sum'"):
        tasks.reasoning_gym_examples("chain_sun", 3)
    with pytest.raises(ConfigError, match="unexpected keyword argument 'digits'"):
        tasks.reasoning_gym_examples("chain_sum", 3, parameters={"digits": 1})
    with pytest.raises(DataError, match="0 different questions with an answer to learn, not 3"):
        tasks.reasoning_gym_examples("graph_color", 3)
    few = {"min_digits": 1, "max_digits": 1, "min_terms": 1, "max_terms": 1}
    with pytest.raises(DataError, match="has 10 different questions"):
        tasks.reasoning_gym_examples("chain_sum", 20, parameters=few)
