"""GGUF files: quantised weights as a plain module that can be trained and saved, and the tokenizer beside them."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import torch
from gguf import GGUFReader
from tokenizers import pre_tokenizers
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from everlearn.errors import ModelError

SPLIT_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""Values of `tokenizer.ggml.pre` for vocabularies learned with every digit a word of its own."""


FAILURES = (OSError, ValueError, KeyError, IndexError, AttributeError, RuntimeError, struct.error)
"""What the readers raise at a file that is cut short, or no GGUF, or of an architecture that they do not know."""


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, transformers neither logs below errors nor draws progress bars."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def read_gguf(path: Path, dtype: torch.dtype) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """A GGUF file's weights, dequantised, and its tokenizer. Takes half a minute for a vocabulary of 50,000.

    Raises:
        ModelError: if transformers cannot read the file or does not know its architecture.
    """
    config = GgufConfig(dequantize=True)  # else the weights stay quantised: neither trained nor saved
    try:
        with quiet(), redirect_stderr(io.StringIO()):  # one bar there does not listen to the library's own switch
            tokenizer = read_gguf_tokenizer(path)
            module: nn.Module = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=dtype, quantization_config=config, trust_remote_code=False
            )
    except FAILURES as error:
        raise ModelError(
            f"{path}: transformers cannot read this GGUF file ({type(error).__name__}: {error}). "
            "Use the same model in safetensors form, by hub name or directory."
        ) from error
    return module, tokenizer


def convert(path: Path, folder: Path) -> None:
    """Write a GGUF file's model and tokenizer as a safetensors folder in float32, which holds its values exactly.

    Raises:
        ModelError: if it cannot be read.
    """
    module, tokenizer = read_gguf(path, torch.float32)
    assert isinstance(module, PreTrainedModel)
    with quiet():
        module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def read_gguf_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """A GGUF file's tokenizer.

    transformers does not read which pre-tokenizer the file names, and takes GPT-2's, which would cut the white space
    before a number otherwise than the vocabularies in `SPLIT_DIGITS` were learned with; here they get their own.
    """
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
    field = GGUFReader(path).fields.get("tokenizer.ggml.pre")
    if field is not None and field.contents() in SPLIT_DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        words = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    return tokenizer
