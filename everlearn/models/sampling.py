"""Completions of prompts by chance, with the log-probabilities that a policy gradient needs.

A completion is a function of the model, its prompt's tokens, the sampling's seed and its number among the prompt's
completions: it is the same alone and in any batch, but for ties within rounding. The module that samples is the one
that learns, so that log-probabilities agree with those of `LanguageModel.token_logprobs`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from everlearn.data.render import end_tokens
from everlearn.errors import ConfigError
from everlearn.models.decoding import Ask, Bounds, Row
from everlearn.models.draws import Draw
from everlearn.models.generate import complete, counting
from everlearn.models.language_model import LanguageModel
from everlearn.randomness import seed_of
from everlearn.types import Progress

Tokens = Sequence[int]

TOKENS = 16384
"""Tokens in one batch, completions counted, when nothing else is said."""


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Args:
        temperature: scores are divided by it; 0 is greedy decoding.
        limit: most tokens of a completion, the end token counted.
        top_p: draw from the fewest most probable tokens that together have this probability; None from all.
        seed: of the draws. The same prompt given twice gets the same completions: ask for more by `n` of `sample`.

    Raises:
        ConfigError: if one of them is out of its range.
    """

    temperature: float = 1.0
    limit: int = 256
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature is {self.temperature}; give 0 for greedy decoding, or a positive number.")
        if self.limit < 1:
            raise ConfigError(f"limit is {self.limit}; a completion has one token at least.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; give a probability above 0, or None for all tokens.")


@dataclass(frozen=True)
class Completion:
    """What a model continued a prompt with.

    Args:
        tokens: with the end token, where there is one.
        logprobs: of each token in nats at the sampling's temperature, top_p not counted; at temperature 0, those at 1.
        text: without special tokens.
        finished: whether it ended by itself, rather than at the limit.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finished: bool


class Sampler(Protocol):
    """Who draws completions: this process, or a server that is told of new weights."""

    def load(self, model: LanguageModel) -> None:
        """Sample from the model as it is now."""

    def sample(self, prompts: Sequence[Tokens], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        """As `everlearn.models.sampling.sample`."""


class LocalSampler:
    """Samples from the live model, here.

    Args:
        model: who continues prompts; another one by `load`.
        batch_tokens: see `sample`.
    """

    def __init__(self, model: LanguageModel, batch_tokens: int = TOKENS) -> None:
        self.model, self.batch_tokens = model, batch_tokens

    def load(self, model: LanguageModel) -> None:
        """Sample from this model from now on; it is not copied."""
        self.model = model

    def sample(self, prompts: Sequence[Tokens], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        """See `sample`."""
        return sample(self.model, prompts, sampling, n, self.batch_tokens)


def sample(
    model: LanguageModel,
    prompts: Sequence[Tokens],
    sampling: Sampling,
    n: int = 1,
    batch_tokens: int = TOKENS,
    progress: Progress | None = None,
) -> list[list[Completion]]:
    """`n` completions of each prompt, in the prompts' order.

    Args:
        model: who continues them.
        prompts: tokens up to where each completion begins; none empty.
        sampling: how tokens are drawn.
        n: completions of each prompt, which is computed once for all of them.
        batch_tokens: most tokens in one batch, completions counted; at least one row is taken.
        progress: told as completions are done.

    Raises:
        ModelError: if a prompt and its completion are longer than the model's positions.
        ConfigError: if `n` is less than 1.
    """
    if n < 1:
        raise ConfigError(f"n is {n}; ask for one completion at least.")
    asks = [Ask(prompt, seeds=seeds(sampling.seed, prompt, n)) for prompt in prompts]
    return sample_asked(model, asks, sampling, batch_tokens, progress)


def sample_asked(
    model: LanguageModel,
    asks: Sequence[Ask],
    sampling: Sampling,
    batch_tokens: int = TOKENS,
    progress: Progress | None = None,
) -> list[list[Completion]]:
    """As `sample`, of asks that bring their own seeds, and may bring their own limits.

    Raises:
        ModelError: if a prompt and its completion are longer than the model's positions.
    """
    ends = end_tokens(model.tokenizer)
    draw = partial(Draw, temperature=sampling.temperature, top_p=sampling.top_p)
    told = counting(progress, "sampling", sum(len(ask.seeds) for ask in asks))
    groups = complete(model, asks, draw, Bounds(ends, sampling.limit, batch_tokens), told)
    return [[_completion(model, row, ends) for row in group] for group in groups]


def seeds(seed: int, prompt: Tokens, n: int) -> tuple[int, ...]:
    """A seed for each of a prompt's completions, by the prompt's tokens."""
    return tuple(seed_at(seed, prompt, number) for number in range(n))


def seed_at(seed: int, prompt: Tokens, number: int) -> int:
    """The seed of one of a prompt's completions."""
    return seed_of(seed, "completion", number, *prompt)


def _completion(model: LanguageModel, row: Row, ends: Tokens) -> Completion:
    text = model.tokenizer.decode(row.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Completion(tuple(row.tokens), tuple(row.logprobs), str(text), row.tokens[-1] in ends)
