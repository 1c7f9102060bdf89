"""Models from anywhere: by hub name, directory, GGUF file, or "embedded". Safetensors and GGUF only, never a pickle."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from everlearn.errors import ConfigError, ModelError
from everlearn.files import cache_folder, read_json, sha256_file, write_json
from everlearn.models.attention import adopt
from everlearn.models.embedded import embedded_folder, embedded_identity
from everlearn.models.gguf import quiet, read_gguf, read_gguf_tokenizer
from everlearn.models.residual import widen
from everlearn.types import Progress

Tokenizer = PreTrainedTokenizerBase

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}

FILES = ("model*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
"""What is fetched of a hub repository: weights, configuration, tokenizer."""

PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m.content + (eos_token if m.role == 'assistant' else '') + '\n' }}{% endfor %}"
)
"""For a model without a chat template: each turn on lines of its own, the assistant's ended by the end token."""

FAILURES = (OSError, ValueError, KeyError, AttributeError, ImportError, RuntimeError, SafetensorError)
"""What transformers raises at a model that it cannot load."""


def load(
    name: str = "embedded",
    dtype: str | torch.dtype | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> tuple[nn.Module, Tokenizer]:
    """A causal language model in evaluation mode, and its tokenizer.

    Args:
        name: "embedded", a directory, a GGUF file, or a name on the Hugging Face hub; a directory of that name wins.
        dtype: of the weights; None takes what suits the device, see `best_dtype`.
        device: "cpu", "cuda:1"...; None takes the accelerator where there is one.
        progress: told how far a first download is.

    Raises:
        ModelError: if it cannot be had, or is a pickle, needs code of its own, or lacks weights.
        ConfigError: if the dtype or the device is unknown, or the device is not here.
    """
    place = as_device(device) if device else best_device()
    kind = as_dtype(dtype) if dtype else best_dtype(place)
    source = locate(name, progress)
    if source.is_file():
        module, tokenizer = read_gguf(source, kind)
    else:
        module, tokenizer = _read_folder(source, name, kind), _read_tokenizer(source, name)
    module = module.to(place).eval()
    if place.type == "cpu" and isinstance(module, PreTrainedModel):
        adopt(module)
        widen(module)
    return module, _prepare(tokenizer, name)


def load_tokenizer(name: str = "embedded", progress: Progress | None = None) -> Tokenizer:
    """The tokenizer alone, as `load` gives it: padding on the right, with a padding token and a chat template.

    Raises:
        ModelError: if it cannot be had.
    """
    source = locate(name, progress)
    return _prepare(read_gguf_tokenizer(source) if source.is_file() else _read_tokenizer(source, name), name)


def identity(name: str = "embedded") -> str:
    """A stable name for a model's weights, whatever path they were read from: a SHA-256 over the files' contents.

    Hashing reads every byte once; the result is kept in the cache until a file's size or time changes.

    Raises:
        ModelError: if the model cannot be had.
    """
    if name == "embedded":
        return embedded_identity()
    source = locate(name)
    files = [source] if source.is_file() else [source / "config.json", *sorted(source.glob("*.safetensors"))]
    stamp = [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    path = hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:16]
    note = cache_folder() / "identities" / f"{path}.json"
    known = read_json(note) if note.is_file() else {}
    if known.get("stamp") != stamp:
        hashes = [sha256_file(f) for f in files]
        lines = "".join(f"{f.name} {h}\n" for f, h in zip(files, hashes, strict=True))
        whole = hashes[0] if source.is_file() else hashlib.sha256(lines.encode()).hexdigest()
        known = {"stamp": stamp, "identity": f"sha256:{whole}"}
        write_json(note, known)
    return str(known["identity"])


def locate(name: str, progress: Progress | None = None) -> Path:
    """The directory or GGUF file that a model's name stands for; a hub name is fetched.

    Raises:
        ModelError: if there is none.
    """
    if name == "embedded":
        return embedded_folder(progress)
    path = Path(name).expanduser()
    if path.is_file() and path.suffix != ".gguf":
        raise ModelError(f"{name} is a file and not GGUF; name the directory that holds config.json and *.safetensors.")
    return path if path.exists() else _fetch(name)


def best_device() -> torch.device:
    """The accelerator, where there is one, else the processor."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def as_device(name: str) -> torch.device:
    """A device by its torch name, once it is known that something can be put there.

    Raises:
        ConfigError: if there is no such device here.
    """
    try:
        place = torch.device(name)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:  # a torch built without CUDA asserts
        raise ConfigError(
            f"device {name!r} is not to be had here ({_first_line(error)}); leave it out to take {best_device()}."
        ) from error
    return place


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, else float32.

    That is CUDA from Ampere on, and processors with AVX512-BF16, AMX or ARM's BF16 instructions.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type != "cpu":
        return torch.float32
    # Public from torch 2.10 on; an older one gets float32, which every processor computes.
    found: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if any(found.get(k) for k in ("avx512_bf16", "amx_bf16", "bf16")) else torch.float32


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A dtype by its torch name.

    Raises:
        ConfigError: if it is not a floating-point dtype that models are kept in.
    """
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ConfigError(f"dtype {dtype!r} is unknown; use one of {', '.join(DTYPES)}.")
    return found


def _fetch(name: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES), ignore_patterns=["*/*"]))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model {name!r} is neither a directory nor a GGUF file here, and the hub did not give it "
            f"({type(error).__name__}: {_first_line(error)}). Check the name; connect, or fetch it before going "
            "offline; log in for a gated one; or take the default, 'embedded'."
        ) from error


def _read_folder(folder: Path, name: str, dtype: torch.dtype) -> nn.Module:
    _refuse_what_is_no_model(folder, name)
    try:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
    except FAILURES as error:
        raise ModelError(
            f"{name}: transformers cannot load it as a causal language model "
            f"({type(error).__name__}: {_first_line(error)}). A model that brings code of its own is not run; "
            "take one whose architecture transformers knows."
        ) from error
    module, info = loaded
    if info["missing_keys"]:
        raise ModelError(
            f"{name}: its files lack {len(info['missing_keys'])} weights, such as {min(info['missing_keys'])}, which "
            "would be random. Fetch or save it again."
        )
    assert isinstance(module, nn.Module)
    return module


def _refuse_what_is_no_model(folder: Path, name: str) -> None:
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ModelError(f"{name} holds an adapter, not a model; load its base model, then the adapter onto it.")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{name} has no config.json; name a directory that save_pretrained wrote, or a GGUF file.")
    if next(folder.glob("*.safetensors"), None):
        return
    pickles = sorted(f.name for kind in ("*.bin", "*.pt", "*.pth") for f in folder.glob(kind))
    raise ModelError(
        f"{name} has no *.safetensors file{f', only {pickles}' if pickles else ''}. A pickle can run any code when it "
        "is read, so none is; save the model with save_pretrained, which writes safetensors."
    )


def _read_tokenizer(folder: Path, name: str) -> Tokenizer:
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except FAILURES as error:
        raise ModelError(
            f"{name}: its tokenizer cannot be loaded ({type(error).__name__}: {_first_line(error)}); save it "
            "beside the model with save_pretrained."
        ) from error


def _prepare(tokenizer: Tokenizer, name: str) -> Tokenizer:
    """Right padding, a padding token, a chat template."""
    if tokenizer.eos_token is None:
        raise ModelError(f"{name}: its tokenizer has no end token, so no answer could end; set eos_token and save it.")
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not tokenizer.chat_template:
        begins = tokenizer.bos_token_id is not None and tokenizer("a").input_ids[0] == tokenizer.bos_token_id
        tokenizer.chat_template = ("{{ bos_token }}" if begins else "") + PLAIN_TEMPLATE
    return tokenizer


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "no reason given")
