"""Games of textarena for one player, as environments; it needs textarena: pip install 'everlearn[rl]'."""

from dataclasses import dataclass
from typing import Any

from everlearn.agents.environments import Observation
from everlearn.examples import Example
from everlearn.names import optional


@dataclass(frozen=True)
class TextArena:
    """Games by textarena's names, such as "GuessTheNumber-v0"; the example's own prompt is not shown.

    The reward comes with the last turn, and is the game's own. Another seed is another game.

    Args:
        name: of a game for one player.
    """

    name: str

    def __call__(self) -> "Game":
        """An environment for one attempt.

        Raises:
            ConfigError: if textarena is not installed.
        """
        name = self.name if self.name.endswith("-raw") else f"{self.name}-raw"  # others repeat all that was said before
        return Game(optional("textarena:make", "rl")(name))


class Game:
    """A game that is played."""

    def __init__(self, made: Any) -> None:
        self.made = made

    def reset(self, example: Example, seed: int) -> Observation:
        """The rules, and how the game begins."""
        self.made.reset(num_players=1, seed=seed % 2**32)
        return Observation(self._shown())

    def step(self, text: str) -> Observation:
        """What the game makes of a move."""
        done, _ = self.made.step(text)
        return Observation(done=True, reward=float(self.made.close()[0][0])) if done else Observation(self._shown())

    def _shown(self) -> str:
        """What is new to the player, but for what it said itself."""
        player, news = self.made.get_observation()
        return "\n".join(text for sender, text, _ in news if sender != player)
