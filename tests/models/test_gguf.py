from pathlib import Path

import pytest
import torch
from transformers.utils import logging

from everlearn.errors import ModelError
from everlearn.models.gguf import convert, quiet, read_gguf, read_gguf_tokenizer
from everlearn.models.load import load
from tests.models.tiny_gguf import tiny_llama, write_tiny_gguf


def test_a_gguf_file_gives_a_model_that_can_be_trained_and_saved(tmp_path: Path) -> None:
    source = tiny_llama()
    module, _ = read_gguf(write_tiny_gguf(tmp_path / "tiny.gguf", source), torch.float32)
    for name, weight in source.state_dict().items():  # the right one in the right place, but for eight bits' rounding
        assert (module.state_dict()[name] - weight).abs().max() < 0.005 * weight.abs().max(), name
    tokens = torch.arange(3, 40)[None]
    module(tokens, labels=tokens).loss.backward()
    assert all(p.grad is not None for p in module.parameters())
    module.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").is_file()


def test_a_converted_file_answers_bit_for_bit_as_the_file_does(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", tiny_llama())
    convert(path, tmp_path / "converted")
    tokens = torch.arange(3, 40)[None]
    answers = []
    for name in (path, tmp_path / "converted"):
        module, tokenizer = load(str(name), dtype="float32", device="cpu")
        assert tokenizer.padding_side == "right"
        answers.append((module(tokens).logits, tokenizer("a 12\n\n12 a").input_ids, tokenizer.chat_template))
    assert torch.equal(answers[0][0], answers[1][0])
    assert answers[0][1:] == answers[1][1:]


def test_digits_are_cut_as_the_vocabulary_was_learned(tmp_path: Path) -> None:
    text = "a 12\n\n12 a"
    cuts = {"smollm": ["a", "Ġ", "1", "2", "ĊĊ", "1", "2", "Ġa"], "gpt-2": ["a", "Ġ", "12", "Ċ", "Ċ", "12", "Ġa"]}
    for pre, expected in cuts.items():
        tokenizer = read_gguf_tokenizer(write_tiny_gguf(tmp_path / f"{pre}.gguf", tiny_llama(), pre))
        assert tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids) == expected
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_a_broken_file_is_refused_with_its_name(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", tiny_llama())
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ModelError, match=r"tiny\.gguf: transformers cannot read this GGUF file"):
        read_gguf(path, torch.float32)
    path.write_bytes(b"not GGUF at all")
    with pytest.raises(ModelError, match=r"tiny\.gguf"):
        read_gguf(path, torch.float32)


def test_reading_says_nothing_and_gives_the_librarys_voice_back(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    convert(write_tiny_gguf(tmp_path / "tiny.gguf", tiny_llama()), tmp_path / "converted")
    load(str(tmp_path / "converted"))
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)
    with pytest.raises(ModelError), quiet():
        read_gguf(tmp_path / "none.gguf", torch.float32)
    with quiet():
        assert logging.get_verbosity() == logging.ERROR
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)
