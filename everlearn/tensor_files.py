"""Safetensors files by rows: read and written in parts, so that memory does not grow with the model.

A file is eight bytes with the length of a header, the header in JSON, then the tensors' bytes without a gap. Nothing is
mapped into memory, so that what a process takes is what it holds.
"""

import functools
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from everlearn.errors import ModelError
from everlearn.files import atomic_file, read_json
from everlearn.merging import rows_of

INDEX = "model.safetensors.index.json"
LONGEST = 100 * 2**20
"""Bytes from which a header is no header: the format's own limit."""

KINDS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {kind: code for code, kind in KINDS.items()}


class Rows(Protocol):
    """A tensor that is read in rows, wherever it lies."""

    @property
    def dtype(self) -> torch.dtype:
        """Its dtype."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    def rows(self, start: int, stop: int) -> Tensor:
        """(stop - start, columns) some of its rows; a vector has one."""


@dataclass(frozen=True)
class Held:
    """A tensor in memory."""

    tensor: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """Its dtype."""
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self.tensor.shape)

    def rows(self, start: int, stop: int) -> Tensor:
        """Some of its rows, a view."""
        return rows_of(self.tensor.detach())[start:stop]


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file.

    Args:
        path: the file.
        dtype: of the tensor.
        shape: of the tensor.
        offset: where in the file it begins, in bytes.
    """

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int

    def rows(self, start: int, stop: int) -> Tensor:
        """Some of its rows, read from the file."""
        columns = extent(self.shape)[1]
        size = columns * self.dtype.itemsize
        data = bytearray((stop - start) * size)
        with self.path.open("rb") as file:
            file.seek(self.offset + start * size)
            read = file.readinto(data)
        if read != len(data):
            raise ModelError(f"{self.path} is cut short; fetch or save it again.")
        found = torch.frombuffer(data, dtype=self.dtype) if data else torch.empty(0, dtype=self.dtype)
        return found.reshape(stop - start, columns)


@dataclass(frozen=True)
class Spans:
    """Rows of several tensors, one span after the other.

    Args:
        spans: tensors, each with its first row and the one after its last.
    """

    spans: tuple[tuple[Rows, int, int], ...]

    @property
    def dtype(self) -> torch.dtype:
        """That which holds all of them."""
        return functools.reduce(torch.promote_types, [tensor.dtype for tensor, _, _ in self.spans])

    @property
    def shape(self) -> tuple[int, ...]:
        """All rows, and the first tensor's columns."""
        return (sum(end - first for _, first, end in self.spans), *self.spans[0][0].shape[1:])

    def rows(self, start: int, stop: int) -> Tensor:
        """Some of the rows."""
        found, at = [], 0
        for tensor, first, end in self.spans:
            low, high = max(start - at, 0), min(stop - at, end - first)
            if low < high:
                found.append(tensor.rows(first + low, first + high))
            at += end - first
        return torch.cat(found)


@dataclass(frozen=True)
class Mean:
    """The mean of several models' rows.

    Args:
        parts: of one shape.
        weights: one for each.
        dtype: of the mean, which is taken in float64.
    """

    parts: tuple[Rows, ...]
    weights: tuple[float, ...]
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """That of each part."""
        return self.parts[0].shape

    def rows(self, start: int, stop: int) -> Tensor:
        """Some of the rows."""
        shares = zip(self.weights, self.parts, strict=True)
        total = torch.stack([weight * part.rows(start, stop).double() for weight, part in shares]).sum(0)
        return (total / sum(self.weights)).to(self.dtype)


def extent(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor of a shape, as a block has them; see `everlearn.merging.rows_of`."""
    rows = shape[0] if len(shape) > 1 else 1
    return rows, torch.Size(shape[1:] if len(shape) > 1 else shape).numel()


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of a file by name, in the order they lie; none is read.

    Raises:
        ModelError: if the file is missing, cut short or not safetensors, or holds a dtype that is not known here.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length) if length <= LONGEST else b""
        header: dict[str, Any] = json.loads(text if len(text) == length else b"")
        entries = {n: e for n, e in header.items() if n != "__metadata__"}
        found = {n: _stored(path, entry, 8 + length) for n, entry in entries.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ModelError(f"{path}: no readable safetensors file ({why}); fetch or save it again.") from error
    return dict(sorted(found.items(), key=lambda item: item[1].offset))


def model_files(folder: Path) -> list[Path]:
    """The safetensors files of a model's folder: those its index names, or the only one.

    Raises:
        ModelError: if there is none.
    """
    if (folder / INDEX).is_file():
        return [folder / name for name in sorted(set(read_json(folder / INDEX)["weight_map"].values()))]
    one = folder / "model.safetensors"
    found = [one] if one.is_file() else sorted(folder.glob("*.safetensors"))
    if not found:
        raise ModelError(f"{folder} has no *.safetensors file; save the model with save_pretrained.")
    return found


def write_rows(path: Path, like: Mapping[str, Rows], blocks: Iterable[Tensor]) -> None:
    """Write a file whole or not at all, block by block.

    Args:
        path: the file.
        like: names, dtypes and shapes of the tensors, in order.
        blocks: their rows, one tensor after the other.
    """
    sizes = [torch.Size(t.shape).numel() * t.dtype.itemsize for t in like.values()]
    ends = list(itertools.accumulate(sizes, initial=0))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for (name, tensor), begin, end in zip(like.items(), ends, ends[1:], strict=False):
        header[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        written = sum(file.write(block.contiguous().reshape(-1).view(torch.uint8).numpy().data) for block in blocks)
        assert written == ends[-1], f"{written} bytes of {ends[-1]}"


def _stored(path: Path, entry: Mapping[str, Any], start: int) -> Stored:
    return Stored(path, KINDS[entry["dtype"]], tuple(entry["shape"]), start + entry["data_offsets"][0])
