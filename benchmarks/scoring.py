"""Rows about scoring: exact match by greedy decoding, and multiple choice."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch

from benchmarks import inputs, ours
from benchmarks.harness import ROUNDS, Finding, Goal, interleave, peer, ratios, require_same, speeds, timed
from everlearn import Example, LanguageModel, Message, State
from everlearn.data.render import end_tokens
from everlearn.evaluate import Exam, sit
from everlearn.metrics.likelihood import Choice
from everlearn.metrics.text import ExactMatch
from everlearn.models import lora
from everlearn.models.load import load_tokenizer
from everlearn.models.optim import AdamW, Recipe

ITEMS = 300
CHOICES = 500
FEW = 8
"""Items that warm both sides up."""

BEYOND = 8
"""Tokens that an answer may be longer than the right one: those of `everlearn.models.answers`."""

COPYING = Recipe(AdamW(learning_rate=2e-3), batch_size=16, length=512, tokens=2048)


@dataclass(frozen=True)
class Answered:
    """What both sides answered to the same items.

    Args:
        mine: our replies.
        theirs: the peer's, in tokens.
        texts: and in words.
    """

    mine: Sequence[str]
    theirs: Sequence[Sequence[int]]
    texts: Sequence[str]

    @property
    def different(self) -> list[int]:
        """Items whose replies differ."""
        return [i for i, (a, b) in enumerate(zip(self.mine, self.texts, strict=True)) if a != b]


def exact_match(quick: bool = False) -> list[Finding]:
    """300 items, prompts of 60 tokens, answers of 8; the model was taught the task, and has half of them right."""
    hf = peer("hf_generate")
    items, state = _items(60 if quick else ITEMS), _taught()
    mine = _folded(state, None)
    weights = {n: p.detach() for n, p in mine.module.state_dict().items()}
    theirs, ends = hf.load(next(mine.module.parameters()).dtype, weights), end_tokens(mine.tokenizer)
    prompts, limit = _prompts(mine, items)
    exam = Exam("copying", items, ExactMatch())
    sides = {"ours": timed(lambda: sit(mine, [exam])[0]), "HF": timed(lambda: hf.greedy(theirs, prompts, limit, ends))}
    hf.greedy(theirs, prompts[:FEW], limit, ends)
    sit(mine, [replace(exam, examples=items[:FEW])])[0]
    found = interleave(sides, 1 if quick else ROUNDS, warm=0)
    half = _answered(mine, found["ours"][0].value, found["HF"][0].value)
    exact = _folded(state, "float32")
    full_weights = {n: p.detach() for n, p in exact.module.state_dict().items()}
    full = _answered(
        exact, sit(exact, [exam])[0], hf.greedy(hf.load(torch.float32, full_weights), prompts, limit, ends)
    )
    require_same("the replies of the float32 model", list(full.mine), list(full.texts))
    gaps = [_gap(exact, prompts[i], half, i) for i in half.different]
    right = fmean(o.score for o in found["ours"][0].value)
    near = f", whose scores are {max(gaps):.2f} apart at most" if gaps else ""
    return [
        Finding(
            f"greedy exact match, {len(items)} items, prompts of 60, answers of 8 tokens",
            "HF generate, batch 32",
            Goal(3.0),
            ratios(found["HF"], found["ours"]),
            f"{speeds(len(items), found['ours']).show(1)} items/s",
            f"{speeds(len(items), found['HF']).show(1)} items/s",
            f"{right:.0%} right (every other gold is one that the model does not give); float32: 0 of {len(items)} "
            f"replies differ; as timed: {len(gaps)}{near}",
        )
    ]


def multiple_choice(quick: bool = False) -> list[Finding]:
    """500 items by the log-probability of whole candidates."""
    evaluation, hf = peer("lm_evaluation"), peer("hf_generate")
    mine = LanguageModel.open()
    items, source = inputs.choice_items(60 if quick else CHOICES)
    theirs = evaluation.model(hf.load(next(mine.module.parameters()).dtype), mine.tokenizer)
    rows = [_texts(mine, item) for item in items]
    exam = Exam("choices", tuple(items), Choice())
    sides = {
        "ours": timed(lambda: sit(mine, [exam])[0]),
        "lm-eval": timed(lambda: evaluation.choose(theirs, evaluation.task(rows))),
    }
    evaluation.choose(theirs, evaluation.task(rows[:FEW]))
    sit(mine, [replace(exam, examples=exam.examples[:FEW])])[0]
    found = interleave(sides, 1 if quick else ROUNDS, warm=0)
    chosen = [o.reply for o in found["ours"][0].value]
    scores = found["lm-eval"][0].value
    best = [max(range(len(s)), key=s.__getitem__) for s in scores]
    right = (
        fmean(o.score for o in found["ours"][0].value),
        fmean(float(b == row["gold"]) for b, row in zip(best, rows, strict=True)),
    )
    margins = [
        s[b] - s[item.choices.index(c)]
        for s, b, c, item in zip(scores, best, chosen, items, strict=True)
        if item.choices[b] != c
    ]
    near = f", within {max(margins):.2f} nats of each other" if margins else ""
    return [
        Finding(
            f"multiple choice, {len(items)} items ({source})",
            f"lm-eval, in-memory model, batch {evaluation.BATCH}",
            Goal(1.5),
            ratios(found["lm-eval"], found["ours"]),
            f"{speeds(len(items), found['ours']).show(1)} items/s",
            f"{speeds(len(items), found['lm-eval']).show(1)} items/s",
            f"same tokens; accuracy {right[0]:.3f}, {right[1]:.3f}; {len(margins)} choices differ{near}",
        )
    ]


def _texts(model: LanguageModel, item: Example) -> dict[str, Any]:
    """An item in the texts whose tokens are those that we read; refused where they would not be."""
    decode = model.tokenizer.decode
    pairs = [model.encode_choice(item.prompt, choice) for choice in item.choices]
    prompt, choices = decode(pairs[0][0]), [decode(answer) for _, answer in pairs]
    for (before, answer), choice in zip(pairs, choices, strict=True):
        whole = model.tokenizer(prompt + choice, add_special_tokens=False).input_ids
        require_same("the tokens of an item", [*before, *answer], whole)
    return {"prompt": prompt, "choices": choices, "gold": item.choices.index(item.response)}


def _items(count: int) -> tuple[Example, ...]:
    """Texts to repeat; every other one has a right answer that no model that repeats would give."""
    draw, words = random.Random(1), inputs.words(load_tokenizer())
    return tuple(_item(words, draw, reverse=i % 2 == 1) for i in range(count))


def _item(known: Sequence[str], draw: random.Random, reverse: bool = False) -> Example:
    words, filler = ([draw.choice(known) for _ in range(n)] for n in (7, 11))
    asked = f"Here are some words: {' '.join(filler)}. Repeat these and no others: {' '.join(words)}"
    answer = " ".join(reversed(words) if reverse else words)
    return Example(messages=(Message("user", asked), Message("assistant", answer)))


def _taught() -> State:
    """The model after three steps of repeating."""
    by, draw = ours.learner(COPYING), random.Random(0)
    model = by.open()
    words = inputs.words(model.tokenizer)
    return ours.study(by, model, by.start(model), [_item(words, draw) for _ in range(3 * COPYING.batch_size)]).state


def _folded(state: State, dtype: str | None) -> LanguageModel:
    """The taught model without adapters, so that both sides have the same weights to read."""
    by = ours.learner(COPYING, dtype=dtype)
    model = by.restore(by.open(), state)
    lora.fold(model.module)
    return model


def _prompts(model: LanguageModel, items: Sequence[Example]) -> tuple[list[tuple[int, ...]], int]:
    prompts = [model.encode_prompt(item.prompt) for item in items]
    answers = [model.encode_choice(item.prompt, item.response)[1] for item in items]
    require_same("lengths of prompts and answers", ({len(p) for p in prompts}, {len(a) for a in answers}), ({60}, {8}))
    return prompts, 8 + BEYOND


def _answered(model: LanguageModel, mine: Any, theirs: Sequence[Sequence[int]]) -> Answered:
    plain = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    return Answered([o.reply for o in mine], theirs, [model.tokenizer.decode(t, **plain) for t in theirs])


def _gap(exact: LanguageModel, prompt: Sequence[int], answered: Answered, item: int) -> float:
    """How far apart, in nats of the float32 model, the two tokens are by which two replies first differ."""
    mine = exact.tokenizer(answered.mine[item], add_special_tokens=False).input_ids + list(end_tokens(exact.tokenizer))
    theirs = answered.theirs[item]
    at = next((i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), len(theirs) - 1)
    with torch.inference_mode():
        scores = exact.module(torch.tensor([[*prompt, *theirs[:at]]])).logits[0, -1]
    return float((scores[mine[at]] - scores[theirs[at]]).abs())
