"""Greedy decoding in batches, with the expected answers as a short cut; and the way that all decoding goes.

Prompts are read together with their expected answers; where greedy decoding agrees with the expected answer, its
tokens are known from that one pass, and only what differs is decoded token by token. The outcome is that of plain
greedy decoding, up to the rounding of sums in another order.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from everlearn.data.render import end_tokens
from everlearn.errors import ModelError
from everlearn.models.decoding import Ask, Bounds, Choose, Decoder, Row, Told
from everlearn.models.draws import Greedy
from everlearn.models.language_model import LanguageModel
from everlearn.models.library import decode_by_library
from everlearn.models.lora import settled
from everlearn.models.reading import Head, Reader, Tokens, reads_by_slots
from everlearn.models.routes import Request
from everlearn.models.slots import CausalLM, attending
from everlearn.types import Progress, Silent

VERIFIED = 16
"""Tokens of an expected answer that are verified at most; a longer one is seldom met to the letter."""


def generate(
    model: LanguageModel,
    prompts: Sequence[Tokens],
    limit: int | Sequence[int],
    batch_tokens: int = 4096,
    hints: Sequence[Tokens] = (),
    progress: Progress | None = None,
) -> list[str]:
    """What the model answers to each prompt by greedy decoding, without special tokens, in the prompts' order.

    Args:
        model: who answers.
        prompts: tokens up to where each answer begins; none empty.
        limit: most tokens of an answer, the end token counted; one for all, or one for each prompt.
        batch_tokens: most tokens in one batch, padding and answers counted; at least one row is taken.
        hints: the answers to expect, with their end token, for speed alone; one for each prompt, or none.
        progress: told as answers are done.

    Raises:
        ModelError: if a prompt and its answer are longer than the model's positions.
    """
    assert len(hints) in (0, len(prompts)), "a hint for each prompt, or none"
    limits = [limit] * len(prompts) if isinstance(limit, int) else limit
    expected = hints or [()] * len(prompts)
    asks = [Ask(p, h, limit=most) for p, h, most in zip(prompts, expected, limits, strict=True)]
    return generate_asked(model, asks, batch_tokens, progress)


def generate_asked(
    model: LanguageModel, asks: Sequence[Ask], batch_tokens: int = 4096, progress: Progress | None = None
) -> list[str]:
    """As `generate`, of asks that have a limit each; of a hint, no more is used than saves time.

    Raises:
        ModelError: if a prompt and its answer are longer than the model's positions.
    """
    limits = [ask.limit or 1 for ask in asks]
    pairs = zip(asks, limits, strict=True)
    asks = [replace(ask, hint=tuple(ask.hint[: min(most - 1, VERIFIED)])) for ask, most in pairs]
    bounds = Bounds(end_tokens(model.tokenizer), max(limits, default=1), batch_tokens)
    groups = complete(model, asks, Greedy, bounds, counting(progress, "answering", len(asks)))
    plain = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    return [str(model.tokenizer.decode(row.tokens, **plain)) for (row,) in groups]


def complete(
    model: LanguageModel, asks: Sequence[Ask], chooser: Callable[[Head], Choose], bounds: Bounds, told: Told
) -> list[list[Row]]:
    """The rows of each ask, in order: by slots where the model can be read so, else by the library's loop.

    Raises:
        ModelError: if a prompt and its completion are longer than the model's positions.
    """
    with _evaluating(model.module), torch.inference_mode():
        asks = _routed(model, asks)
        _refuse_too_long(model.module, max(asks, key=bounds.width, default=Ask((0,))), bounds)
        if not reads_by_slots(model):
            return decode_by_library(model.module, asks, chooser(Head(None)), bounds, told, model.router)
        with attending(model.module), settled(model.module):
            reader = Reader(model)
            return Decoder(reader, chooser(reader.head), bounds).run(asks, told)


def _routed(model: LanguageModel, asks: Sequence[Ask]) -> Sequence[Ask]:
    """The asks as the model reads them: with what is put in front of their prompts, and the weights that stay."""
    if model.router is None or not asks:
        return asks
    routes = model.router.route([Request(ask.prompt, ask.task) for ask in asks])
    leads = routes.leads or ((),) * len(asks)
    weights = [None] * len(asks) if routes.weights is None else list(routes.weights)
    triples = zip(asks, leads, weights, strict=True)
    return [replace(ask, prompt=(*lead, *ask.prompt), weights=own) for ask, lead, own in triples]


def counting(progress: Progress | None, stage: str, total: int) -> Told:
    """Tells how many of all rows are done, when told how many more are."""
    done, watch = 0, progress or Silent()

    def told(count: int) -> None:
        nonlocal done
        done += count
        if count:
            watch.update(stage, done, total)

    return told


@contextmanager
def _evaluating(module: CausalLM) -> Iterator[None]:
    """Inside, dropout does not act."""
    was = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was)


def positions(module: nn.Module) -> int | None:
    """The most tokens that a model was made to read at once; None where it does not say."""
    most: int | None = getattr(module.config, "max_position_embeddings", None)
    return most


def _refuse_too_long(module: CausalLM, longest: Ask, bounds: Bounds) -> None:
    most = positions(module)
    if most is not None and bounds.width(longest) > most:
        raise ModelError(
            f"a prompt of {len(longest.prompt)} tokens and {bounds.most(longest)} more for its answer exceed the "
            f"model's {most} positions; shorten the prompt or the limit."
        )
