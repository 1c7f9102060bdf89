"""Versions: manifests over content-addressed blobs, so that a version costs what it does not share with its parent.

    FOLDER/blobs/<sha256 of the file>.safetensors   tensors, up to 256 MiB of them in a file
    FOLDER/blobs/<sha256 of the file>.json          what a method remembers apart from tensors
    FOLDER/versions/<id>.json                       which tensor of which blob is what; parent; about

A tensor whose bits are among its parent's is not written again: the manifest refers to the parent's blob. So 420
tensors of an adapter are one file for each version in which they changed, a bank of frozen adapters costs nothing
more, and an anchor equal to the weights is stored once. Any tool can check a blob: `sha256sum` gives its name. Blobs
are written before the manifest that names them, each file whole or not at all, so what a manifest names is there.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from everlearn.errors import ModelError, RegistryError
from everlearn.files import write_atomic
from everlearn.types import State
from everlearn.weights import from_bytes, pack, tensor_hash, to_bytes, unpack

Manifest = Mapping[str, Any]
Entry = Mapping[str, str]
"""A tensor's name, its content hash, and where it is: a blob, and the key inside it."""

FORMAT = 1
GROUP = 256 * 2**20
"""Most bytes of tensors in one blob; a larger tensor has a blob of its own."""
RESTORE = "restore it from a copy of the folder, or roll back to a version without it (`everlearn log` lists them)."


@dataclass(frozen=True)
class Size:
    """What a version takes on disk, in bytes.

    Args:
        total: all blobs that it needs.
        added: those of them that its parent does not need.
    """

    total: int
    added: int


@dataclass(frozen=True)
class Versions:
    """A store of states that only grows; safe with several processes at once, and with killed ones.

    Args:
        folder: made by the first `put`.
    """

    folder: Path

    def put(self, state: State, parent: str | None, about: Mapping[str, Any]) -> str:
        """Store a state and return its id: the same state, parent and about give the same id, and are stored once.

        Args:
            state: what to store.
            parent: id, or unique start of one, of the version it was learned from; None for a first version.
            about: plain JSON data on where it comes from: the base model's identity, the learner, and the like.

        Raises:
            MethodError: if the memory is not plain data.
            RegistryError: if the parent is not here, or `about` is not JSON.
        """
        lineage = self.manifest(parent) if parent else None
        known = self._known(lineage) if lineage else {}
        skeleton, kept = pack(state.memory)
        content = {
            "format": FORMAT,
            "parent": lineage["id"] if lineage else None,
            "about": dict(about),
            "seen": list(state.seen),
            "weights": self._store(state.weights, known),
            "memory": self._store(kept, known),
            "skeleton": self._write(_canonical(skeleton, "the memory"), "json"),
        }
        sizes = {blob: self._blob(blob).stat().st_size for blob in sorted(_blobs(content))}
        manifest = _canonical(content | {"blobs": sizes}, "about")
        write_atomic(self._manifest(_id(manifest)), manifest)
        return _id(manifest)

    def get(self, version: str) -> State:
        """The state that was stored, its tensors on the CPU; each file is checked against its hash.

        Args:
            version: an id, or its first characters where they are unique.

        Raises:
            RegistryError: if there is no such version, or one of its files is missing or damaged.
        """
        manifest = self.manifest(version)
        skeleton = json.loads(self._read(manifest["skeleton"]))
        weights, memory = self._load(manifest["weights"]), self._load(manifest["memory"])
        return State(weights, unpack(skeleton, memory), tuple(manifest["seen"]))

    def manifest(self, version: str) -> Manifest:
        """What a version is made of: id, parent, about, seen, weights, memory, skeleton, and blobs with their sizes.

        Raises:
            RegistryError: if there is no such version, more than one, or its manifest is damaged.
        """
        path = self._manifest(self._resolve(version))
        data = path.read_bytes()
        if _id(data) != path.stem:
            raise RegistryError(f"{path} is damaged: its content does not give its name; {RESTORE}")
        manifest = json.loads(data)
        if manifest["format"] != FORMAT:
            raise RegistryError(f"{path} has format {manifest['format']}, not {FORMAT}; update everlearn to read it.")
        return {"id": path.stem, **manifest}

    def sizes(self, version: str) -> Size:
        """What a version takes on disk.

        Raises:
            RegistryError: as for `manifest`.
        """
        manifest = self.manifest(version)
        shared = self.manifest(manifest["parent"])["blobs"] if manifest["parent"] else {}
        blobs = manifest["blobs"]
        return Size(sum(blobs.values()), sum(size for blob, size in blobs.items() if blob not in shared))

    def list(self) -> tuple[str, ...]:
        """All ids, in alphabetical order; the ledger knows their history."""
        return tuple(sorted(path.stem for path in self.folder.glob("versions/*.json")))

    def _resolve(self, version: str) -> str:
        found = [known for known in self.list() if version and known.startswith(version)]
        if len(found) == 1:
            return found[0]
        if found:
            raise RegistryError(f"{self.folder}: {version!r} begins several versions, {found}; give more characters.")
        raise RegistryError(
            f"{self.folder}: no version {version!r} among {len(self.list())}; `everlearn log` lists what was stored."
        )

    def _manifest(self, version: str) -> Path:
        return self.folder / "versions" / f"{version}.json"

    def _blob(self, name: str) -> Path:
        return self.folder / "blobs" / name

    def _known(self, manifest: Manifest) -> dict[str, Entry]:
        """The tensors of a version by content hash, as far as their blobs are there in full."""
        sizes = manifest["blobs"]
        whole = {b for b in sizes if self._blob(b).is_file() and self._blob(b).stat().st_size == sizes[b]}
        return {e["hash"]: e for e in (*manifest["weights"], *manifest["memory"]) if e["blob"] in whole}

    def _store(self, tensors: Mapping[str, Tensor], known: dict[str, Entry]) -> Sequence[Entry]:
        """Write what is not yet known, add it to what is, and say where each tensor is."""
        hashes = {name: tensor_hash(tensor) for name, tensor in tensors.items()}
        new = {hashes[name]: name for name in sorted(tensors, reverse=True) if hashes[name] not in known}
        for group in _groups({name: tensors[name] for name in sorted(new.values())}):
            blob = self._write(to_bytes(group), "safetensors")
            known |= {hashes[name]: {"blob": blob, "key": name} for name in group}
        places = {name: known[content] for name, content in hashes.items()}
        return [{"name": n, "hash": hashes[n], "blob": p["blob"], "key": p["key"]} for n, p in places.items()]

    def _load(self, entries: Sequence[Entry]) -> dict[str, Tensor]:
        """The tensors by name, in order; copies, so that no two share memory and a blob's rest can go."""
        found: dict[str, Tensor] = {}
        for blob in {entry["blob"]: None for entry in entries}:
            try:
                inside = from_bytes(self._read(blob))
            except ModelError as error:
                raise RegistryError(f"{self._blob(blob)} cannot be read: {error}") from error
            found |= {entry["name"]: inside[entry["key"]].clone() for entry in entries if entry["blob"] == blob}
        return {entry["name"]: found[entry["name"]] for entry in entries}

    def _write(self, data: bytes, suffix: str) -> str:
        name = f"{hashlib.sha256(data).hexdigest()}.{suffix}"
        write_atomic(self._blob(name), data)  # also where it stands already: this mends a damaged one
        return name

    def _read(self, name: str) -> bytes:
        path = self._blob(name)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise RegistryError(f"{path} cannot be read ({error.strerror}); {RESTORE}") from error
        if hashlib.sha256(data).hexdigest() != path.stem:
            raise RegistryError(f"{path} is damaged: its SHA-256 is not its name; {RESTORE}")
        return data


def _groups(tensors: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
    group, size = dict[str, Tensor](), 0
    for name, tensor in tensors.items():
        if group and size + tensor.nbytes > GROUP:
            yield group
            group, size = {}, 0
        group[name] = tensor
        size += tensor.nbytes
    if group:
        yield group


def _blobs(content: Mapping[str, Any]) -> set[str]:
    return {entry["blob"] for part in ("weights", "memory") for entry in content[part]} | {content["skeleton"]}


def _canonical(value: Any, what: str) -> bytes:
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise RegistryError(
            f"{what} of this version is not plain JSON: {error}; keep text, numbers, lists, objects."
        ) from error


def _id(manifest: bytes) -> str:
    return hashlib.sha256(manifest).hexdigest()[:12]
