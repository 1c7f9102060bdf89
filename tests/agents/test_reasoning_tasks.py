from importlib.util import find_spec

import pytest

from everlearn.agents.reasoning_tasks import reasoning_gym_task
from everlearn.errors import ConfigError
from everlearn.objectives.next_token import NextToken
from everlearn.types import Reply

EASY = {"min_digits": 1, "max_digits": 1, "min_terms": 2, "max_terms": 2}


@pytest.mark.skipif(find_spec("reasoning_gym") is not None, reason="is about machines without reasoning-gym.")
def test_tasks_that_are_not_installed_say_how_to_get_them() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'everlearn\[rl\]'"):
        reasoning_gym_task("chain_sum", NextToken())


def test_a_task_has_rows_that_its_metric_scores_and_the_same_test_rows_however_many_train() -> None:
    pytest.importorskip("reasoning_gym", reason="needs reasoning-gym: pip install 'everlearn[rl]'.")
    few, many = (reasoning_gym_task("chain_sum", NextToken(), size, 10, 3, EASY) for size in (20, 40))
    assert (few.name, len(few.train), len(many.train)) == ("chain_sum", 20, 40)
    assert few.test == many.test
    assert not {e.key for e in many.train} & {e.key for e in many.test}
    assert all(few.metric.score(e, Reply(e.response)) == 1.0 for e in (*few.train, *few.test))
    assert all(few.metric.score(e, Reply("no idea")) < 1.0 for e in few.test)
    assert {e.origin for e in (*few.train, *few.test)} == {"chain_sum"}
    assert all(len(e.messages[0].content) < 200 for e in few.train)
