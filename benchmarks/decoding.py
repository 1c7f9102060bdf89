"""Rows about sampling: a batch, and a group of completions of one prompt."""

import pkgutil
import random
from collections.abc import Sequence
from typing import Any

from benchmarks import inputs
from benchmarks.harness import (
    ROUNDS,
    Finding,
    Goal,
    NotThereError,
    Sample,
    Spread,
    interleave,
    peer,
    require_same,
    timed,
)
from everlearn import LanguageModel
from everlearn.data.render import end_tokens


def batch(quick: bool = False) -> list[Finding]:
    """32 prompts of 64 tokens, 48 tokens more at temperature 1."""
    return [_compared("sampling, batch 32, 64 + 48 tokens", Goal(1.6), (32, 64, 48, 1), quick)]


def group(quick: bool = False) -> list[Finding]:
    """8 completions of 16 tokens for each of 4 prompts of 256."""
    return [_compared("groups of 8 samples, 4 prompts of 256, answers of 16", Goal(2.5), (4, 256, 16, 8), quick)]


def _compared(work: str, goal: Goal, shape: tuple[int, int, int, int], quick: bool) -> Finding:
    count, length, limit, n = shape
    hf = peer("hf_generate")
    try:
        sample = pkgutil.resolve_name("everlearn.models.sampling:sample")
        sampling = pkgutil.resolve_name("everlearn.models.sampling:Sampling")
    except ImportError as error:
        raise NotThereError(f"`everlearn.models.sampling:sample`: {error}") from error
    model = LanguageModel.open()
    theirs, ends = hf.load(next(model.module.parameters()).dtype), end_tokens(model.tokenizer)
    prompts = _prompts(model, count, length)
    drawn = sampling(temperature=1.0, limit=limit)
    sides = {
        "ours": timed(lambda: [c.tokens for group in sample(model, prompts, drawn, n) for c in group]),
        "HF": timed(lambda: hf.sampled(theirs, prompts, limit, ends, n)),
    }
    found = interleave(sides, 1 if quick else ROUNDS)
    rows = {name: found[name][0].value for name in sides}
    require_same("number of completions", len(rows["ours"]), len(rows["HF"]))
    require_same("that none is too long", max(map(len, rows["ours"])) <= limit, max(map(len, rows["HF"])) <= limit)
    rates = {name: _rates(found[name]) for name in sides}
    lengths = {name: sum(map(len, r)) / len(r) for name, r in rows.items()}
    return Finding(
        work,
        "HF generate",
        goal,
        Spread(tuple(a / b for a, b in zip(rates["ours"].values, rates["HF"].values, strict=True))),
        f"{rates['ours'].show(0)} tokens/s",
        f"{rates['HF'].show(0)} tokens/s",
        "temperature 1, whole vocabulary, either may end early; new tokens a completion: "
        f"{lengths['ours']:.1f}, {lengths['HF']:.1f}",
    )


def _rates(samples: Sequence[Sample]) -> Spread:
    """New tokens per second."""
    return Spread(tuple(sum(map(len, s.value)) / s.seconds for s in samples))


def _prompts(model: LanguageModel, count: int, length: int) -> list[tuple[int, ...]]:
    """Prompts of one length, up to where the assistant begins."""
    draw = random.Random(0)
    rows: list[Any] = [inputs.conversation(model, length, 2, draw) for _ in range(count)]
    return [model.encode_prompt(row.prompt) for row in rows]
