"""Hugging Face's `generate`, on a module as its library loads it."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig

from everlearn.models.embedded import embedded_folder

BATCH = 32


def load(dtype: torch.dtype, weights: Mapping[str, Tensor] | None = None) -> torch.nn.Module:
    """The embedded model with the library's own settings, and other weights where they are given."""
    module = AutoModelForCausalLM.from_pretrained(embedded_folder(), dtype=dtype).eval()
    if weights is not None:
        module.load_state_dict(weights, strict=True)
    return module


def greedy(
    module: torch.nn.Module, prompts: Sequence[Sequence[int]], limit: int, ends: Sequence[int]
) -> list[list[int]]:
    """The tokens of each answer up to its end, in batches of 32 prompts of one length."""
    return _generate(module, prompts, GenerationConfig(do_sample=False, **_bounds(limit, ends)))


def sampled(
    module: torch.nn.Module, prompts: Sequence[Sequence[int]], limit: int, ends: Sequence[int], n: int = 1
) -> list[list[int]]:
    """`n` completions of each prompt at temperature 1 from the whole vocabulary, all in one batch."""
    settings = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "num_return_sequences": n}
    return _generate(module, prompts, GenerationConfig(**settings, **_bounds(limit, ends)))


def _bounds(limit: int, ends: Sequence[int]) -> dict[str, object]:
    return {"max_new_tokens": limit, "eos_token_id": list(ends), "pad_token_id": ends[-1]}


def _generate(module: torch.nn.Module, prompts: Sequence[Sequence[int]], config: GenerationConfig) -> list[list[int]]:
    found: list[list[int]] = []
    for start in range(0, len(prompts), BATCH):
        tokens = torch.tensor([list(p) for p in prompts[start : start + BATCH]])
        with torch.inference_mode():
            made = module.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=config)
        found += [list(_until(row, config.eos_token_id)) for row in made[:, tokens.shape[1] :].tolist()]
    return found


def _until(row: Sequence[int], ends: Sequence[int]) -> Iterator[int]:
    for token in row:
        yield token
        if token in ends:
            return
