"""Sampling and greedy answering beside `generate` of transformers: plain functions that return what they measured.

    OMP_NUM_THREADS=1 python benchmarks/sampling.py [batch] [group] [answers] [outcomes]

CPU seconds of one thread, both sides in turn, the embedded model with LoRA of rank 16 on all linears; the peer has the
same adapters by PEFT. Beside it stands the base model under `generate`, which has less to compute than either.
"""

import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import peft
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from everlearn import LanguageModel
from everlearn.metrics.suites import general_suite
from everlearn.models.decoding import Ask, Bounds
from everlearn.models.draws import Draw
from everlearn.models.embedded import embedded_folder
from everlearn.models.generate import complete, generate
from everlearn.models.lora import adapters, wrap
from everlearn.models.peft_format import save_peft

Prompts = Sequence[Sequence[int]]


def batch(rounds: int = 3) -> dict[str, Any]:
    """32 prompts of 64 tokens, 48 tokens more at temperature 1."""
    return _sampling("sampling, batch 32, 64 + 48 tokens", 1.6, _random_prompts(32, 64), (48, 1), rounds)


def group(rounds: int = 3) -> dict[str, Any]:
    """8 completions of 16 tokens of one prompt of 256."""
    return _sampling("group of 8 samples, prompt 256, answer 16", 2.5, _random_prompts(1, 256), (16, 8), rounds)


def answers(rounds: int = 3, count: int = 300, right: float = 0.5) -> dict[str, Any]:
    """Greedy answers of 8 tokens at most to questions of about 60; so many expected answers are right."""
    ours, theirs, base = _models(torch.bfloat16)
    prompts = _questions(ours, count)
    hints = _expected(ours, prompts, right)
    sides = {
        "ours": lambda: generate(ours, prompts, 8, hints=hints),
        "peft": lambda: _by_library(theirs, ours, prompts),
        "base": lambda: _by_library(base, ours, prompts),
    }
    found = _interleaved(sides, rounds)
    work = f"greedy answers, {count} items, prompts of {sum(map(len, prompts)) / count:.0f}, {right:.0%} as expected"
    return _row(work, 3.0, found)


def outcomes(count: int = 300) -> dict[str, Any]:
    """How many greedy answers are not those of `generate`, by precision; in half precision, at which gaps of scores."""
    row: dict[str, Any] = {"work": f"greedy outcomes, {count} items"}
    for dtype in (torch.float32, torch.bfloat16):
        ours, _, base = _models(dtype, adapted=False)
        prompts = _questions(ours, count)
        found = generate(ours, prompts, 8, hints=_expected(ours, prompts, 0.5))
        theirs = _by_library(base, ours, prompts)
        other = [i for i in range(count) if found[i] != theirs[i]]
        row[f"differ in {dtype}"] = len(other)
        if other and dtype == torch.bfloat16:
            exact = LanguageModel.open(dtype="float32")
            row["gaps in float32"] = [round(_gap(exact, prompts[i], found[i], theirs[i]), 3) for i in other]
    return row


def _sampling(work: str, goal: float, prompts: Prompts, shape: tuple[int, int], rounds: int) -> dict[str, Any]:
    limit, n = shape
    ours, theirs, base = _models(torch.bfloat16)
    asks = [Ask(prompt, seeds=tuple(range(n))) for prompt in prompts]
    bounds = Bounds((), limit, 16384)  # no token ends a completion: all are of one length
    sides = {
        "ours": lambda: [r.tokens for g in complete(ours, asks, lambda head: Draw(head, 1.0), bounds, int) for r in g],
        "peft": lambda: _drawn(theirs, prompts, limit, n),
        "base": lambda: _drawn(base, prompts, limit, n),
    }
    found = _interleaved(sides, rounds)
    assert all(len(row) == limit for rows, _ in found.values() for row in rows)
    return _row(work, goal, found) | {"tokens/s": round(len(prompts) * n * limit / median(found["ours"][1]))}


def _models(dtype: torch.dtype, adapted: bool = True) -> tuple[LanguageModel, Any, Any]:
    """Ours, the peer with the same adapters, and the peer without."""
    ours = LanguageModel.open(dtype=str(dtype).removeprefix("torch."))
    base = AutoModelForCausalLM.from_pretrained(embedded_folder(), dtype=dtype).eval()
    if not adapted:
        return ours, base, base
    wrap(ours.module, "all-linear", 16, 32.0)
    torch.manual_seed(0)
    for adapter in adapters(ours.module).values():
        nn.init.normal_(adapter.B, std=0.002)
    with TemporaryDirectory() as folder:
        save_peft(ours.module, Path(folder), "embedded")
        again = AutoModelForCausalLM.from_pretrained(embedded_folder(), dtype=dtype)
        return ours, peft.PeftModel.from_pretrained(again, folder).eval(), base


def _random_prompts(count: int, length: int) -> list[list[int]]:
    draw = random.Random(0)
    return [[draw.randrange(100, 40000) for _ in range(length)] for _ in range(count)]


def _questions(model: LanguageModel, count: int) -> list[tuple[int, ...]]:
    prompts = [model.encode_prompt(item.prompt) for item in general_suite()]
    return [prompts[i % len(prompts)] for i in range(count)]


def _expected(model: LanguageModel, prompts: Prompts, right: float) -> list[tuple[int, ...]]:
    """For a share of the prompts what the model will say, for the others what it says to another."""
    said = [tuple(model.tokenizer(text).input_ids) for text in generate(model, prompts, 8)]
    draw = random.Random(1)
    return [said[i] if draw.random() < right else said[i - 7] for i in range(len(said))]


def _drawn(module: Any, prompts: Prompts, limit: int, n: int) -> list[list[int]]:
    tokens = torch.tensor(prompts)
    lengths = {"max_new_tokens": limit, "min_new_tokens": limit}
    found = module.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=True,
        top_k=0,
        num_return_sequences=n,
        **lengths,
    )
    return [row.tolist() for row in found[:, tokens.shape[1] :]]


def _by_library(module: Any, model: LanguageModel, prompts: Prompts) -> list[str]:
    """Batches of 32 of like length, padded on the left."""
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    said = [""] * len(prompts)
    for start in range(0, len(order), 32):
        some = order[start : start + 32]
        width = max(len(prompts[i]) for i in some)
        rows = torch.tensor([[0] * (width - len(prompts[i])) + list(prompts[i]) for i in some])
        mask = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in some])
        settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
        found = module.generate(
            input_ids=rows, attention_mask=mask, eos_token_id=model.tokenizer.eos_token_id, **settings
        )
        for i, row in zip(some, found[:, width:].tolist(), strict=True):
            said[i] = model.tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return said


def _gap(exact: LanguageModel, prompt: Sequence[int], one: str, other: str) -> float:
    """Between the scores in float32 of the tokens at which two answers part."""
    a, b = ([*exact.tokenizer(text).input_ids, exact.tokenizer.eos_token_id] for text in (one, other))
    at = next(i for i in range(len(a)) if a[i] != b[i])
    with torch.inference_mode():
        scores = exact.module(input_ids=torch.tensor([[*prompt, *a[:at]]])).logits[0, -1]
    return abs(float(scores[a[at]] - scores[b[at]]))


def _interleaved(sides: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[Any, list[float]]]:
    results: dict[str, tuple[Any, list[float]]] = {name: (side(), []) for name, side in sides.items()}  # warmed up
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.process_time()
            side()
            results[name][1].append(time.process_time() - start)
    return results


def _row(work: str, goal: float, found: Mapping[str, tuple[Any, list[float]]]) -> dict[str, Any]:
    ours = found["ours"][1]
    row: dict[str, Any] = {"work": work, "goal": goal, "ours, CPU s": [round(t, 2) for t in ours]}
    for name in ("peft", "base"):
        times = found[name][1]
        ratios = [b / a for a, b in zip(ours, times, strict=True)]
        row |= {f"{name}, CPU s": [round(t, 2) for t in times], f"ratio to {name}": round(median(ratios), 2)}
        row[f"spread to {name}"] = (round(min(ratios), 2), round(max(ratios), 2))
    return row


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or ["batch", "group", "answers", "outcomes"]:
        print({"batch": batch, "group": group, "answers": answers, "outcomes": outcomes}[name](), flush=True)
