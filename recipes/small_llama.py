"""A small Llama from scratch with a tokenizer of its own, for studies that a pre-trained model is too slow for."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from everlearn.files import atomic_folder
from everlearn.models.gguf import quiet
from everlearn.randomness import seed_of

PAD, END = "<|pad|>", "<|end|>"


@dataclass(frozen=True)
class Shape:
    """How large the network is.

    Args:
        layers: blocks.
        width: of the residual stream; a multiple of 64, the width of an attention head.
        vocabulary: tokens, the 256 bytes among them.
        length: tokens of context.
    """

    layers: int = 4
    width: int = 128
    vocabulary: int = 2048
    length: int = 512


def small_llama(folder: Path, texts: Iterable[str], shape: Shape, seed: int = 0) -> Path:
    """Save an untrained network where `Learner(model=str(folder))` finds it, unless it is there.

    Args:
        folder: where.
        texts: that the tokenizer is made from: pairs of bytes that are frequent there become tokens.
        shape: how large.
        seed: of the first weights.
    """
    if folder.exists():
        return folder
    tokenizer = byte_pairs(texts, shape.vocabulary)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.width * 8 // 3,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.width // 64,
        max_position_embeddings=shape.length,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(), atomic_folder(folder) as place, quiet():
        torch.manual_seed(seed_of(seed, "small llama"))
        LlamaForCausalLM(config).save_pretrained(place)
        tokenizer.save_pretrained(place)
    return folder


def byte_pairs(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; any text can be written in it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
