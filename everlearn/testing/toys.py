"""One toy for everything: a two-layer Llama over characters, in fp64, with a tokenizer and a chat template.

It is a real Hugging Face model in miniature, so what holds on it exercises the same code as a large one.
"""

from itertools import pairwise
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from everlearn.examples import Example, Message
from everlearn.metrics.likelihood import TokenAccuracy
from everlearn.metrics.text import ExactMatch
from everlearn.models.language_model import LanguageModel
from everlearn.objectives.next_token import NextToken
from everlearn.types import Experience, Metric, Stream

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 .,?+-=:\n"
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def toy_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, and one for each control mark of the chat template."""
    marks = ["<|pad|>", "<|end|>", "<|unknown|>", "<|system|>", "<|user|>", "<|assistant|>"]
    vocabulary = {token: i for i, token in enumerate([*marks, *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(marks)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        unk_token="<|unknown|>",
        padding_side="right",
        clean_up_tokenization_spaces=False,
        chat_template=TEMPLATE,
    )


def toy_module(seed: int = 0, dtype: torch.dtype = torch.float64) -> LlamaForCausalLM:
    """A random Llama of 2 layers, width 32, about 25 thousand parameters."""
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    marks = {"vocab_size": 6 + len(LETTERS), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = LlamaForCausalLM(LlamaConfig.from_dict(shape | heads | marks))
        nn.Module.eval(nn.Module.to(module, dtype))
        return module


def toy_model(seed: int = 0, dtype: torch.dtype = torch.float64) -> LanguageModel:
    """The toy as a live model."""
    return LanguageModel(toy_module(seed, dtype), toy_tokenizer(), "toy")


def toy_folder(folder: Path, seed: int = 0) -> Path:
    """Save the toy where `Learner(model=str(folder))` finds it."""
    toy_module(seed, torch.float32).save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return folder


def question(prompt: str, response: str, origin: str = "toy") -> Example:
    """A prompt and its right answer."""
    return Example(messages=(Message("user", prompt), Message("assistant", response)), origin=origin, source=origin)


def toy_stream(size: int = 12) -> Stream:
    """Three experiences: letters to their successors, documents about a cat, and digits to their names."""
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    letters = [question(f"after {a}?", b, "letters") for a, b in pairwise(LETTERS[:26])]
    cats = [Example(text=f"the {w} cat sat on the {w} mat.", origin="cats", source="cats") for w in LETTERS[:25]]
    digits = [question(f"name {n} {w}", name, "digits") for w in "abc" for n, name in enumerate(names)]
    return Stream(
        (
            _experience("letters", letters, ExactMatch(), size),
            _experience("cats", cats, TokenAccuracy(), size),
            _experience("digits", digits, ExactMatch(), size),
        ),
        name="toy",
    )


def _experience(name: str, rows: list[Example], metric: Metric, size: int) -> Experience:
    train, test, validation = rows[:size], rows[size : size + 6], rows[size + 6 : size + 10]
    return Experience(name, train, test, NextToken(), metric, validation)
