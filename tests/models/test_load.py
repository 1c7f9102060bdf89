import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from everlearn.data.render import render, render_prompt
from everlearn.errors import ConfigError, ModelError
from everlearn.examples import Example, Message
from everlearn.files import cache_folder, sha256_file
from everlearn.models.load import as_dtype, best_device, best_dtype, identity, load, load_tokenizer
from everlearn.testing.toys import toy_folder, toy_module, toy_tokenizer
from tests.models.tiny_gguf import tiny_llama, write_tiny_gguf

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test."""
    monkeypatch.setenv("EVERLEARN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return toy_folder(tmp_path / "toy")


def test_a_directory_gives_the_model_that_was_saved_ready_to_use(toy: Path) -> None:
    module, tokenizer = load(str(toy), dtype="float32", device="cpu")
    saved = toy_module(dtype=torch.float32)
    tokens = torch.arange(6, 26)[None]
    assert torch.allclose(module(tokens).logits, saved(tokens).logits, atol=1e-6)
    assert not module.training
    assert tokenizer.padding_side == "right"
    assert tokenizer(["a", "bcd"], padding=True).attention_mask == [[1, 0, 0], [1, 1, 1]]


def test_the_dtype_is_what_is_asked_for_and_else_what_suits_the_device(toy: Path) -> None:
    for asked in ("bfloat16", "torch.bfloat16", torch.bfloat16):
        assert load(str(toy), dtype=asked)[0].dtype == torch.bfloat16
    assert load(str(toy), dtype="float64")[0].dtype == torch.float64
    assert load(str(toy))[0].dtype == best_dtype(best_device())
    assert best_dtype(torch.device("mps")) == torch.float32
    native = {"avx512_bf16", "amx_bf16", "bf16"} & {k for k, v in torch.cpu.get_capabilities().items() if v}
    assert best_dtype(torch.device("cpu")) == (torch.bfloat16 if native else torch.float32)
    for wrong in ("int8", "half", "float"):
        with pytest.raises(ConfigError, match=f"'{wrong}' is unknown; use one of float32, bfloat16"):
            as_dtype(wrong)


@pytest.mark.gpu
def test_an_accelerator_is_used_where_there_is_one(toy: Path) -> None:
    module, _ = load(str(toy))
    assert next(module.parameters()).device.type == torch.accelerator.current_accelerator().type
    assert next(load(str(toy), device="cpu")[0].parameters()).device.type == "cpu"


def test_a_pickle_is_refused_and_not_read(toy: Path) -> None:
    (toy / "model.safetensors").unlink()
    torch.save(toy_module().state_dict(), toy / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only \['pytorch_model\.bin'\]\. A pickle can run any code"):
        load(str(toy))


def test_code_that_a_model_brings_is_refused_and_not_run(toy: Path) -> None:
    (toy / "evil.py").write_text(f"open({str(toy / 'ran')!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((toy / "config.json").read_text())
    auto = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    (toy / "config.json").write_text(json.dumps(config | {"model_type": "evil", "auto_map": auto}))
    with pytest.raises(ModelError, match="code of its own is not run"):
        load(str(toy))
    assert not (toy / "ran").exists()


def test_weights_that_are_missing_are_not_made_up(toy: Path) -> None:
    weights = load_file(toy / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, toy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 weights, such as model\.norm\.weight"):
        load(str(toy))


def test_a_file_cut_short_is_refused(toy: Path) -> None:
    path = toy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"toy: transformers cannot load it"):
        load(str(toy))


def test_what_is_no_model_is_refused_with_what_to_do(tmp_path: Path, toy: Path) -> None:
    empty, adapter = tmp_path / "empty", tmp_path / "adapter"
    empty.mkdir()
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (tmp_path / "weights.bin").write_bytes(b"")
    for name, message in (
        (empty, r"has no config\.json"),
        (adapter, "holds an adapter, not a model"),
        (tmp_path / "weights.bin", "is a file and not GGUF"),
    ):
        with pytest.raises(ModelError, match=message):
            load(str(name))
    for leftover in ("tokenizer.json", "tokenizer_config.json"):
        (toy / leftover).unlink()
    with pytest.raises(ModelError, match=r"toy: its tokenizer cannot be loaded"):
        load_tokenizer(str(toy))


def test_a_hub_name_that_is_not_to_be_had_is_named_with_what_to_do() -> None:
    for name in ("nobody/has-this-model", "no such name at all", "/no/such/folder", "../none.gguf"):
        with pytest.raises(ModelError) as caught:
            load(name)
        assert repr(name) in str(caught.value)
        assert "going offline" in str(caught.value)
        with pytest.raises(ModelError):
            identity(name)


def test_a_hub_model_in_the_cache_loads_offline(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--somebody--toy"
    toy_folder(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    script = (
        "import os, sys\n"
        f"os.environ |= {{'HF_HUB_CACHE': {str(tmp_path / 'hub')!r}, 'HF_HUB_OFFLINE': '1'}}\n"
        f"sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from everlearn.models.load import identity, load\n"
        "print(load('somebody/toy')[0].num_parameters(), identity('somebody/toy'))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(toy_module().num_parameters()), identity(str(repository / "snapshots" / commit))]


def test_a_gguf_file_is_a_model_too(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", tiny_llama())
    module, tokenizer = load(str(path), dtype="bfloat16")
    assert module.dtype == torch.bfloat16
    assert load_tokenizer(str(path)).get_vocab() == tokenizer.get_vocab()
    assert identity(str(path)) == f"sha256:{sha256_file(path)}"


def test_a_model_without_a_chat_template_gets_a_plain_one(toy: Path) -> None:
    (toy / "chat_template.jinja").unlink()
    tokenizer = load_tokenizer(str(toy))
    turns = (Message("user", "one"), Message("assistant", "two"), Message("user", "three"))
    assert tokenizer.decode(render_prompt(tokenizer, turns)) == "one\ntwo<|end|>\nthree\n"
    found = render(tokenizer, Example(messages=turns[:2]))
    assert tokenizer.decode(found.tokens) == "one\ntwo<|end|>"
    assert [t for t, s in zip(found.tokens, found.supervised, strict=True) if s] == tokenizer("two<|end|>").input_ids


def test_the_plain_template_begins_as_the_tokenizer_does(tmp_path: Path) -> None:
    backend = toy_tokenizer().backend_tokenizer
    begins = {"bos_token": "<|system|>", "eos_token": "<|end|>"}
    for add, start in ((True, "<|system|>"), (False, "")):
        folder = tmp_path / str(add)
        PreTrainedTokenizerFast(tokenizer_object=backend, add_bos_token=add, **begins).save_pretrained(folder)
        tokenizer = load_tokenizer(str(folder))
        assert tokenizer.decode(render_prompt(tokenizer, (Message("user", "a"),))) == f"{start}a\n"


def test_a_missing_padding_token_is_the_end_token_and_a_missing_end_token_an_error(tmp_path: Path) -> None:
    backend = toy_tokenizer().backend_tokenizer
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>").save_pretrained(tmp_path / "a")
    assert load_tokenizer(str(tmp_path / "a")).pad_token == "<|end|>"
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path / "b")
    with pytest.raises(ModelError, match="no end token"):
        load_tokenizer(str(tmp_path / "b"))


def test_identity_is_of_the_contents_and_not_of_the_path(tmp_path: Path, toy: Path) -> None:
    first = identity(str(toy))
    assert first.startswith("sha256:")
    assert identity(str(toy_folder(tmp_path / "same"))) == first
    assert identity(str(toy_folder(tmp_path / "other", seed=1))) != first
    moved = toy.rename(tmp_path / "moved")
    assert identity(str(moved)) == first
    toy_folder(moved, seed=1)
    assert identity(str(moved)) == identity(str(tmp_path / "other"))


def test_identity_is_read_from_the_cache_the_second_time(toy: Path) -> None:
    path = toy / "model.safetensors"
    first = identity(str(toy))
    (note,) = (cache_folder() / "identities").iterdir()
    note.write_text(note.read_text().replace(first, "sha256:remembered"))
    begun = time.process_time()
    assert identity(str(toy)) == "sha256:remembered"
    assert time.process_time() - begun < 0.2
    path.touch()
    assert identity(str(toy)) == first


@pytest.mark.parametrize("device", ["banana", "cuda:99"])
def test_a_device_that_is_not_here_is_named(device: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"device '{device}'.*leave it out"):
        load(str(toy_folder(tmp_path)), device=device)
