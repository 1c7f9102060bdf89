"""Toys whose answers vary, and prompts for them."""

import random
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from everlearn.models.language_model import LanguageModel
from everlearn.testing.toys import toy_module, toy_tokenizer


def enders(text: str = "1") -> PreTrainedTokenizerFast:
    """The toy's tokenizer with a frequent character as its end token, so that some answers end early."""
    tokenizer = toy_tokenizer()
    tokenizer.eos_token = text
    tokenizer.chat_template = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    return tokenizer


def lively(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A toy whose answers vary."""
    return stirred(toy_module(seed, dtype), 0.3, seed)


def stirred(module: nn.Module, size: float, seed: int = 0) -> nn.Module:
    """The module with large random matrices."""
    torch.manual_seed(seed)
    for name, parameter in module.named_parameters():
        if "norm" not in name and parameter.ndim > 1:
            nn.init.normal_(parameter, std=size)
    return module


def lively_model(seed: int = 0, dtype: torch.dtype = torch.float64) -> LanguageModel:
    return LanguageModel(lively(seed, dtype), enders(), "toy")


def some_prompts(count: int, shared: int = 0) -> list[list[int]]:
    rng = random.Random(0)
    start = [rng.randrange(6, 50) for _ in range(shared)]
    return [start + [rng.randrange(6, 50) for _ in range(rng.randrange(1, 12))] for _ in range(count)]


def by_definition(module: nn.Module, prompt: Sequence[int], limit: int, end: int) -> list[int]:
    """Greedy decoding, each token by a pass over all before it."""
    tokens = list(prompt)
    with torch.inference_mode():
        while len(tokens) < len(prompt) + limit and tokens[len(prompt) :][-1:] != [end]:
            tokens.append(int(module(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]
