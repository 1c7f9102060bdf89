"""Classes written for the `environment_factory` of TRL's GRPOTrainer, as environments.

Such a class has `reset(**row) -> str | None`, whose text goes behind the prompt; typed public methods, which are the
tools; and, where it scores itself, `get_reward() -> float`. Its attributes are the state of one attempt.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from everlearn.agents.environments import Observation
from everlearn.agents.tools import Calling, ToolEnv, functions_as_tools
from everlearn.examples import Example, Message
from everlearn.rewards.reward import question, right_answer

RESERVED = ("reset", "get_reward")


@dataclass(frozen=True)
class EnvironmentFactory:
    """Environments whose tools are the public methods of a class, with a state for each attempt; see the module.

    `reset` is given the columns `prompt` (the turns, as mappings), `answer` (None where none is known), and those of
    the example's metadata. `get_reward` is asked once, when the attempt is over.

    Args:
        factory: makes an instance, as `package.module:Class`.
        calling: how calls are made.
    """

    factory: Callable[[], Any]
    calling: Calling = field(default_factory=Calling)

    def __call__(self) -> "FactoryEnv":
        """An environment for one attempt."""
        return FactoryEnv(self.factory(), self.calling)


class FactoryEnv:
    """An instance of such a class, and its methods as tools."""

    def __init__(self, made: Any, calling: Calling) -> None:
        names = [name for name, _ in inspect.getmembers(type(made), inspect.isfunction)]
        functions = [getattr(made, n) for n in names if not n.startswith("_") and n not in RESERVED]
        self.made, self.tools = made, ToolEnv(functions_as_tools(functions), calling)

    def reset(self, example: Example, seed: int) -> Observation:
        """The example's prompt, and what the instance says to it."""
        prompt = question(example)
        turns = [{"role": m.role, "content": m.content} for m in prompt]
        said = self.made.reset(**{"prompt": turns, "answer": right_answer(example), **example.metadata})
        if said:
            *before, last = prompt or (Message("user", ""),)
            prompt = (*before, replace(last, content=last.content + said))
        return self.tools.opening(prompt)

    def step(self, text: str) -> Observation:
        """The results of the calls."""
        return self.tools.step(text)

    def score(self) -> float | None:
        """The instance's own reward; None where it leaves that to others."""
        scored = getattr(self.made, "get_reward", None)
        reward = None if scored is None else scored()
        return None if reward is None else float(reward)
