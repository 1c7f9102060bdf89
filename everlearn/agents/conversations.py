"""A conversation in tokens: those that were drawn stay as they were drawn, and others are put between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from everlearn.data.render import end_tokens, render_between, render_prompt, render_whole
from everlearn.examples import Message
from everlearn.models.language_model import LanguageModel
from everlearn.models.sampling import Completion


@dataclass
class Stretch:
    """Tokens that grow without a break: a trace in the making.

    Args:
        prompt: before the first drawn token.
        turn: the number of the policy's turn that it begins with, from 1.
        tokens: those after the prompt.
        drawn: for each of them, whether the policy drew it.
        logprobs: for each of them, in nats; 0 where not drawn.
        text: the last answer.
        rewards: of its answers, where they have one.
    """

    prompt: tuple[int, ...]
    turn: int
    tokens: list[int] = field(default_factory=list)
    drawn: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    rewards: list[float] = field(default_factory=list)

    def put(self, tokens: Sequence[int]) -> None:
        """Add what the policy did not draw."""
        self.tokens += tokens
        self.drawn += [False] * len(tokens)
        self.logprobs += [0.0] * len(tokens)

    def draw(self, completion: Completion) -> None:
        """Add what the policy drew."""
        self.tokens += completion.tokens
        self.drawn += [True] * len(completion.tokens)
        self.logprobs += completion.logprobs
        self.text = completion.text


class Conversation:
    """What was said between a policy and an environment.

    Args:
        model: whose tokenizer and chat template are used.
        messages: before the policy's first turn.
        tools: that the template is told of.
        apart: whether each answer is a stretch of its own, behind all that came before it, or goes on with the last.
    """

    def __init__(
        self,
        model: LanguageModel,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        apart: bool = False,
    ) -> None:
        self.tokenizer, self.tools, self.apart = model.tokenizer, tools, apart
        self.messages = list(messages)
        self.stretches = [Stretch(render_prompt(self.tokenizer, messages, tools), 1)]
        self.turn = 0

    @property
    def last(self) -> Stretch:
        """The one that grows."""
        return self.stretches[-1]

    @property
    def prompt(self) -> tuple[int, ...]:
        """All tokens that the next answer follows."""
        return (*self.last.prompt, *self.last.tokens)

    def answer(self, completion: Completion) -> None:
        """The policy's turn, in the tokens that it drew."""
        self.last.draw(completion)
        self.messages.append(Message("assistant", completion.text))
        self.turn += 1

    def reply(self, messages: Sequence[Message]) -> None:
        """The environment's turn; the policy's is next.

        An answer that does not end by a token gets the one that it lacks, which it did not draw. Where the template
        renders earlier turns otherwise from now on, a stretch begins whose prompt is the conversation as it is then.

        Raises:
            DataError: if the template refuses the turns.
        """
        self.messages += messages
        ends = end_tokens(self.tokenizer)
        lacking = () if self.last.tokens[-1] in ends else ends[:1]
        between = render_between(self.tokenizer, self.messages, self.tools)
        if between is None:
            self.stretches.append(Stretch(render_whole(self.tokenizer, self.messages, self.tools), self.turn + 1))
        elif self.apart:
            self.stretches.append(Stretch((*self.prompt, *lacking, *between), self.turn + 1))
        else:
            self.last.put((*lacking, *between))
