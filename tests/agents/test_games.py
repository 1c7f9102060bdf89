from importlib.util import find_spec

import pytest

from everlearn.agents.games import TextArena
from everlearn.agents.multi_turn import MultiTurn
from everlearn.config import parse, show
from everlearn.errors import ConfigError
from everlearn.models.sampling import Sampling
from everlearn.testing.toys import question, toy_model

GAME = TextArena("GuessTheNumber-v0")


def test_a_game_is_an_expression() -> None:
    found = parse("MultiTurn(TextArena('GuessTheNumber-v0'), turns=10)")
    assert found.env == GAME
    assert parse(show(found)) == found


@pytest.mark.skipif(find_spec("textarena") is not None, reason="is about machines without textarena.")
def test_games_that_are_not_installed_say_how_to_get_them() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'everlearn\[rl\]'"):
        GAME()


def test_a_game_is_played_to_its_reward() -> None:
    pytest.importorskip("textarena", reason="needs textarena: pip install 'everlearn[rl]'.")
    game = GAME()
    opening = game.reset(question("play.", "yes"), 3).messages
    assert "between 1 and 20" in opening[0].content
    heard = game.step("[5]")
    assert heard.messages[0].content == "The target number is higher."  # and not what was said just now
    assert heard.reward is None
    found = next(heard for heard in map(game.step, map("[{}]".format, range(6, 21))) if heard.done)
    assert found.reward == 1.0
    assert game.reset(question("play.", "yes"), 3).messages == opening


def test_the_toy_plays() -> None:
    pytest.importorskip("textarena", reason="needs textarena: pip install 'everlearn[rl]'.")
    rollout = MultiTurn(GAME, Sampling(limit=4), turns=3, cut="close")
    for trace in rollout.run(toy_model(), [question("play.", "yes")], 2, 0)[0]:
        assert not trace.error
        assert "You are playing Guess The Number" in trace.messages[0].content
