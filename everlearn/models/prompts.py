"""Prompts alone, read by a model: batches of them, and what the frozen model makes of each."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from everlearn.data.packing import Row, collate, split_by_tokens
from everlearn.examples import Batch, Encoded
from everlearn.models.language_model import LanguageModel
from everlearn.models.routes import unrouted

TOKENS = 4096
"""Tokens of prompts in one forward pass."""


def prompt_batches(prompts: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Batch]]:
    """Prompts as batches of one a row: the prompts' numbers, and the batch."""
    rows = [Row((Encoded(tuple(prompt), (False,) * len(prompt)),)) for prompt in prompts]
    for group in split_by_tokens(rows, TOKENS):
        yield group, collate([rows[i] for i in group])


def prompt_states(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> Tensor:
    """(n, D) the last hidden state after each prompt, without gradient, dropout, routed adapters and soft prompts."""
    found: list[Tensor] = [torch.empty(0)] * len(prompts)
    learning = model.module.training
    model.module.eval()
    with torch.no_grad(), unrouted(model):
        for group, batch in prompt_batches(prompts):
            states = model.hidden(batch)
            for place, number in enumerate(group):
                found[number] = states[place, len(prompts[number]) - 1]
    model.module.train(learning)
    return torch.stack(found)
