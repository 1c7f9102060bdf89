"""Weights as dicts of tensors by name: arithmetic, content hashes, files; and a method's memory as plain JSON."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor

from everlearn.errors import MethodError, ModelError
from everlearn.files import atomic_file
from everlearn.types import Memory

Tensors = Mapping[str, Tensor]

STORABLE = (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32),
    *(torch.int64, torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
    *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
)
"""The dtypes that the safetensors format and torch both know."""

ALIGNMENT = 64  # bytes, of what torch allocates on the processor; in a file, tensors begin anywhere
FORMAT = {"format": "pt"}  # other readers of safetensors files ask for it


def pack(memory: Memory) -> tuple[Any, dict[str, Tensor]]:
    """Split a memory into strict JSON and the tensors that it refers to; `unpack` is the inverse.

    None, bool, int, finite float, str and list stand for themselves. What JSON cannot say is an object with one key:
    "tuple" (its items), "dict" (pairs of key and value, in order), "float" (nan, inf or -inf), "tensor" (its name,
    which is its place in the memory, such as `memory['fisher'][0]`). Tensors are not copied.

    Raises:
        MethodError: naming the place and the type of whatever is not plain data.
    """
    tensors: dict[str, Tensor] = {}
    return _pack(memory, "memory", tensors), tensors


def unpack(skeleton: Any, tensors: Tensors) -> Memory:
    """The memory that `pack` split.

    Raises:
        MethodError: if the skeleton refers to a tensor that is not there, or is none of `pack`'s.
    """
    if isinstance(skeleton, list):
        return [unpack(item, tensors) for item in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    match skeleton:
        case {"tensor": name} if name in tensors:
            return tensors[name]
        case {"tuple": items}:
            return tuple(unpack(item, tensors) for item in items)
        case {"dict": pairs}:
            return {key: unpack(value, tensors) for key, value in pairs}
        case {"float": text}:
            return float(text)
    raise MethodError(
        f"{skeleton} refers to nothing among {len(tensors)} tensors; load the file that was saved with it."
    )


def save_tensors(path: Path, tensors: Tensors) -> None:
    """Write tensors to a safetensors file, whole or not at all; equal tensors give equal bytes.

    Tied and non-contiguous tensors are written as tensors of their own, those on a device from a copy.

    Raises:
        ModelError: if a tensor is of a kind that safetensors cannot say.
    """
    with atomic_file(path) as temporary:
        save_file(_separate(tensors), temporary, metadata=FORMAT)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors from a safetensors file, on the CPU, that compute as those that were saved.

    Raises:
        ModelError: if the file is missing, cut short or not safetensors.
    """
    try:
        return _aligned(load_file(path))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: no readable safetensors file ({error}); save or fetch it again.") from error


def to_bytes(tensors: Tensors) -> bytes:
    """What `save_tensors` would write."""
    return save(_separate(tensors), metadata=FORMAT)


def from_bytes(data: bytes) -> dict[str, Tensor]:
    """The inverse of `to_bytes`; each tensor owns its memory.

    Raises:
        ModelError: if the bytes are not those of a safetensors file.
    """
    try:
        return _aligned(load(data))
    except SafetensorError as error:
        raise ModelError(f"{len(data)} bytes are no safetensors file ({error}); save or fetch it again.") from error


def tensor_hash(tensor: Tensor) -> str:
    """Hex SHA-256 of a tensor's dtype, shape and bits."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    digest.update(_bits(tensor).numpy().data)
    return digest.hexdigest()


def tensors_hash(tensors: Tensors) -> str:
    """Hex SHA-256 of names, dtypes, shapes and bits, whatever the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{tensor_hash(tensors[name])} {len(name.encode())} {name} ".encode())
    return digest.hexdigest()


def equal(a: Tensors, b: Tensors) -> bool:
    """Whether two sets of weights have the same names, dtypes, shapes and bits: nan equals itself, 0 is not -0."""
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype
        and a[name].shape == b[name].shape
        and torch.equal(_bits(a[name]), _bits(b[name]))
        for name in a
    )


def subtract(after: Tensors, before: Tensors) -> dict[str, Tensor]:
    """What an experience changed: after - before, a task vector (Ilharco et al. 2023, arXiv:2212.04089).

    Raises:
        MethodError: if names or shapes differ.
    """
    _require_same(after, before)
    return {name: after[name].detach() - before[name].detach() for name in after}


def add(base: Tensors, delta: Tensors, scale: float = 1.0) -> dict[str, Tensor]:
    """Base + scale * delta, in the base's dtypes; what the delta does not name stays as it is.

    Raises:
        MethodError: if the delta names weights that the base has not, or of another shape.
    """
    _require_same({name: base[name] for name in base if name in delta}, delta)
    return {
        name: (weight.detach() + scale * delta[name].detach()).to(weight.dtype) if name in delta else weight.detach()
        for name, weight in base.items()
    }


def interpolate(a: Tensors, b: Tensors, fraction: float) -> dict[str, Tensor]:
    """(1 - fraction) * a + fraction * b; exactly a at 0 and exactly b at 1, where all are finite.

    Raises:
        MethodError: if names or shapes differ.
    """
    _require_same(a, b)
    return {name: torch.lerp(a[name].detach(), b[name].detach().to(a[name].dtype), fraction) for name in a}


def norm(weights: Tensors) -> float:
    """Euclidean norm of all weights as one vector, accumulated in float32 or better."""
    lengths = [
        float(torch.linalg.vector_norm(w.detach(), dtype=torch.promote_types(w.dtype, torch.float32)))
        for w in weights.values()
    ]
    return math.hypot(*lengths)


def _pack(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor) and _is_storable(value):
        tensors[place] = value.detach()
        return {"tensor": place}
    kind = type(value)  # exactly: a subclass (a named tuple, numpy.float64, an enum) would not come back as itself
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if kind in (list, tuple):
        items = [_pack(item, f"{place}[{index}]", tensors) for index, item in enumerate(value)]
        return items if kind is list else {"tuple": items}
    if kind is dict:
        return {"dict": [[_key(key, place), _pack(item, f"{place}[{key!r}]", tensors)] for key, item in value.items()]}
    raise MethodError(
        f"{place} is {_kind(value)}, and a memory is plain data: keep None, bool, int, float, str, tensors, "
        "and lists, tuples and dicts of these."
    )


def _key(key: Any, place: str) -> str | int:
    if type(key) in (str, int):
        return key  # type: ignore[no-any-return]
    raise MethodError(f"{place} has the key {key!r} of type {_kind(key)}; use text or whole numbers as keys.")


def _is_storable(tensor: Tensor) -> bool:
    return tensor.dtype in STORABLE and tensor.layout == torch.strided and tensor.device.type != "meta"


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}, {value.layout}, on {value.device}"
    return f"a {type(value).__module__}.{type(value).__qualname__}"


def _separate(tensors: Tensors) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, no two of which share memory."""
    odd = [f"{name} is {_kind(tensor)}" for name, tensor in tensors.items() if not _is_storable(tensor)]
    if odd:
        raise ModelError(f"safetensors cannot say {len(odd)} of {len(tensors)} tensors: {odd[0]}; convert it first.")
    separate = {name: _plain(tensor) for name, tensor in tensors.items()}
    end = 0
    for name, tensor in sorted(separate.items(), key=lambda item: item[1].data_ptr()):
        if tensor.data_ptr() < end:
            separate[name] = tensor.clone()
        end = max(end, tensor.data_ptr() + tensor.nbytes)
    return separate


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()


def _aligned(tensors: Tensors) -> dict[str, Tensor]:
    """Tensors at addresses like those of computed ones: the processor's products may round otherwise elsewhere."""
    return {name: t if t.data_ptr() % ALIGNMENT == 0 else t.clone() for name, t in tensors.items()}


def _bits(tensor: Tensor) -> Tensor:
    return _plain(tensor).reshape(-1).view(torch.uint8)


def _require_same(a: Tensors, b: Tensors) -> None:
    alone = sorted(a.keys() ^ b.keys())
    if alone:
        raise MethodError(f"weights differ in their names: {alone[:3]} ({len(alone)} in all) stand on one side only.")
    for name in a:
        if a[name].shape != b[name].shape:
            raise MethodError(
                f"{name} has shape {tuple(a[name].shape)} on one side, {tuple(b[name].shape)} on the other."
            )
