"""What a model answers to test examples: it generates, chooses among candidates, or predicts each token of a text."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch

from everlearn.data.packing import Row, collate, split_by_tokens, windows
from everlearn.errors import DataError, ModelError
from everlearn.examples import Batch, Encoded, Example, Message
from everlearn.models import candidates
from everlearn.models.decoding import Ask
from everlearn.models.generate import generate_asked
from everlearn.models.language_model import LanguageModel
from everlearn.models.routes import Calibrator, Identifier, Request
from everlearn.types import Given, Progress, Question, Reply, Silent

TOKENS = 4096
"""Tokens in one forward pass when nothing else is said."""
BEYOND = 8
"""Tokens that a generated answer may be longer than the right one."""


def answer(
    model: LanguageModel,
    question: Question,
    examples: Sequence[Example],
    given: Sequence[Given] = (),
    tokens: int = TOKENS,
    progress: Progress | None = None,
) -> list[Reply]:
    """One reply for each example, in order.

    Args:
        model: who is asked.
        question: "generate", "choose" or "predict"; see `everlearn.types.Metric`.
        examples: the last turn of each is the right answer; it is never shown where the model generates.
        given: for each example, what the model is told beside its prompt; or nothing at all.
        tokens: most tokens in one forward pass. It may change a reply by rounding alone.
        progress: told after each forward pass.

    Raises:
        ModelError: if a model that chooses or predicts gives a token no number.
    """
    asked = list(zip(examples, given or [Given()] * len(examples), strict=True))
    watch = progress or Silent()
    if question == "predict":
        with model.keeping():
            return predict(model, asked, tokens, watch)
    asked = [(posed(example, told.shown), told) for example, told in asked]
    if question == "generate":
        return generate_answers(model, asked, tokens, watch)
    with model.keeping():
        return choose(model, asked, tokens, watch)


def posed(example: Example, shown: Sequence[Example]) -> Example:
    """A conversation with demonstrations before it, as earlier turns.

    The example's own system turn stands first; those of the demonstrations are left out.

    Raises:
        DataError: if one of them is a document.
    """
    return replace(example, messages=(*_lead(example, shown), *_own(example))) if shown else example


def length(model: LanguageModel, question: Question, example: Example, given: Given) -> int:
    """Tokens that it takes to answer, with what stands before the example; the longest candidate's where it chooses.

    Args:
        model: who is asked.
        question: what it is asked.
        example: about what.
        given: what it is told beside the prompt.
    """
    if question == "predict":
        return len(_target(model, example, given).tokens)
    whole = posed(example, given.shown)
    offered = [example.response] if question == "generate" else example.choices or given.candidates
    pairs = [model.encode_choice(whole.prompt, answer) for answer in offered]
    return max(len(prompt) + len(answer) for prompt, answer in pairs) + BEYOND * (question == "generate")


def longest(model: LanguageModel, example: Example) -> int:
    """Tokens of a conversation, with the longest of its choices as the last turn where it has any."""
    offered = [model.encode_choice(example.prompt, choice) for choice in example.choices]
    return max([len(model.encode(example).tokens), *(len(prompt) + len(answer) for prompt, answer in offered)])


def _lead(example: Example, shown: Sequence[Example]) -> tuple[Message, ...]:
    if documents := [e for e in (example, *shown) if e.text]:
        raise DataError(
            f"{documents[0].source or 'an example'} is a document, and no turn of a conversation; show documents "
            "before a document that is predicted, and conversations before a conversation."
        )
    system = tuple(m for m in example.messages[:1] if m.role == "system")
    return (*system, *(m for e in shown for m in e.messages if m.role != "system"))


def _own(example: Example) -> tuple[Message, ...]:
    return example.messages[1:] if example.messages[0].role == "system" else example.messages


def identify(model: LanguageModel, examples: Sequence[Example]) -> list[tuple[str, float]]:
    """For each example, the experience that a model which infers it takes its prompt for, and the confidence.

    Empty where the model infers none.
    """
    if not isinstance(model.router, Identifier) or not examples:
        return []
    prompts = [model.encode(e).tokens[:1] if e.text else model.encode_prompt(e.prompt) for e in examples]
    with torch.inference_mode():
        return model.router.identify([Request(prompt) for prompt in prompts])


Asked = Sequence[tuple[Example, Given]]


def generate_answers(model: LanguageModel, asked: Asked, tokens: int, watch: Progress) -> list[Reply]:
    """Greedy decoding up to a little beyond each right answer's length.

    The right answer only serves to verify in one forward pass what greedy decoding would produce; see `generate`.
    """
    prompts = [model.encode_prompt(e.prompt) for e, _ in asked]
    targets = [model.encode_choice(e.prompt, e.response)[1] for e, _ in asked]
    triples = zip(prompts, targets, asked, strict=True)
    asks = [Ask(p, t, limit=len(t) + BEYOND, task=given.task) for p, t, (_, given) in triples]
    return [Reply(text=t) for t in generate_asked(model, asks, tokens, watch)]


def choose(model: LanguageModel, asked: Asked, tokens: int, watch: Progress) -> list[Reply]:
    """The candidate with the highest total log-probability, end of turn included; the first among equals.

    All candidates of an example share one pass over its prompt where the model can pack documents. A router that infers
    the experience may calibrate them, see `everlearn.models.routes.Calibrator`.
    """
    offered = [e.choices or given.candidates for e, given in asked]
    units = [(i, b) for i, (e, given) in enumerate(asked) for b in _branches(model, e, offered[i], given.task)]
    totals: list[dict[int, float]] = [{} for _ in asked]
    for group, batch in _passes([b.row for _, b in units], tokens, model.packs, watch):
        found = candidates.totals(model, batch, [units[g][1] for g in group])
        for (i, branches), scores in zip([units[g] for g in group], found, strict=True):
            _check(model, scores)
            totals[i] |= dict(enumerate(scores, start=branches.first))
    for extra, total in zip(_calibrations(model, asked, offered), totals, strict=True):
        for number, nats in enumerate(extra):
            total[number] += nats
    return [Reply(text=o[max(range(len(o)), key=t.__getitem__)]) for o, t in zip(offered, totals, strict=True)]


def _calibrations(model: LanguageModel, asked: Asked, offered: Sequence[Sequence[str]]) -> Sequence[Sequence[float]]:
    """What a router that infers the experience adds to the candidates' log-probabilities, for each example."""
    if not isinstance(model.router, Calibrator) or not asked:
        return [()] * len(asked)
    requests = [Request(model.encode_prompt(e.prompt), given.task) for e, given in asked]
    return model.router.calibrate(requests, offered)


def predict(model: LanguageModel, asked: Asked, tokens: int, watch: Progress) -> list[Reply]:
    """Mean loss, and the fraction of target tokens whose most probable prediction is right, under teacher forcing."""
    pieces = [(i, w) for i, (e, given) in enumerate(asked) for w in windows(_target(model, e, given), tokens // 2)]
    loss, right, count = ([0.0] * len(asked) for _ in range(3))
    rows = [Row((w,), task=asked[i][1].task) for i, w in pieces]
    for group, batch in _passes(rows, tokens, False, watch):
        scores, hits = model.token_scores(batch)
        _check(model, scores.tolist())
        sizes = batch.supervised.sum(1).tolist()
        for row, s, h in zip(group, torch.split(scores, sizes), torch.split(hits, sizes), strict=True):
            i = pieces[row][0]
            loss[i], right[i], count[i] = loss[i] - float(s.sum()), right[i] + float(h.sum()), count[i] + len(s)
    return [Reply(loss=a / max(n, 1), right=b / max(n, 1)) for a, b, n in zip(loss, right, count, strict=True)]


def _check(model: LanguageModel, scores: Iterable[float]) -> None:
    """Refuse what cannot be compared: the first of candidates without a number would pass for the likeliest."""
    if any(math.isnan(score) for score in scores):
        raise ModelError(
            f"{model.name} gives tokens no probability (NaN): its weights hold NaN or have grown beyond all measure. "
            "Go back to an earlier version; lower the learning rate, or the weights of a merge, before the next."
        )


def _target(model: LanguageModel, example: Example, given: Given) -> Encoded:
    """An example's tokens after those of the demonstrations, which are no targets.

    Documents stand one after the other, each with its end, as they do where a model is pre-trained: the example keeps
    the tokens and the targets that it has alone.
    """
    if not given.shown:
        return model.encode(example)
    if example.text and all(e.text for e in given.shown):
        before = [token for e in given.shown for token in model.encode(e).tokens]
        own = model.encode(example)
        return Encoded((*before, *own.tokens), (False,) * len(before) + own.supervised)
    whole = model.encode(posed(example, given.shown))
    count = len(model.encode(Example(messages=_lead(example, given.shown))).tokens)
    return Encoded(whole.tokens, (False,) * count + whole.supervised[count:])


def _passes(rows: Sequence[Row], tokens: int, shared: bool, watch: Progress) -> Iterator[tuple[list[int], Batch]]:
    """Forward passes over rows: the rows' indices and their batch."""
    done = 0
    for group in split_by_tokens(rows, tokens):
        yield group, collate([rows[i] for i in group], shared)
        done += len(group)
        watch.update("scoring", done, len(rows))


def _branches(model: LanguageModel, example: Example, offer: Sequence[str], task: str) -> list[candidates.Branches]:
    pairs = [model.encode_choice(example.prompt, candidate) for candidate in offer]
    return candidates.branches(pairs[0][0], [answer for _, answer in pairs], task, model.packs)
