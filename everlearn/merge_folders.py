"""Models on disk as one: directories of safetensors, PEFT adapters, versions of a run; the result is a directory.

What is written is whole or not there at all: config.json, tokenizer and the rest of the base's small files, safetensors
files cut as the base's are, and merge.json, which says what was merged: hashes of all files read, the rule, the seed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain as join
from pathlib import Path
from typing import Any

from torch import Tensor

from everlearn.combine import MEMORY, Combination, Model
from everlearn.config import dump, parse_method, show
from everlearn.errors import ConfigError, ModelError, RegistryError
from everlearn.files import atomic_folder, read_json, sha256_file, write_json
from everlearn.merge_rules import Merging
from everlearn.merge_vocabularies import NEW, Grown, Vocabulary, copy_small, grown_folder, grown_version, shared
from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.models.load import identity, locate
from everlearn.models.peft_format import CONFIG as ADAPTER
from everlearn.models.peft_format import WEIGHTS, read_peft
from everlearn.run_folder import RunFolder, environment
from everlearn.tensor_files import Rows, Stored, model_files, read_header, write_rows
from everlearn.types import Progress, Silent

TURNED = ("gpt2", "openai-gpt")
"""Architectures whose linear layers keep their weights as (in, out)."""

REPORT = "merge.json"


@dataclass(frozen=True)
class Base:
    """The model that the others were fine-tuned from.

    Args:
        name: as it was asked for.
        folder: where it lies.
        files: its safetensors files, each with its tensors by name.
    """

    name: str
    folder: Path
    files: Mapping[Path, Mapping[str, Stored]]

    @property
    def tensors(self) -> dict[str, Stored]:
        """All tensors by name."""
        return {name: tensor for inside in self.files.values() for name, tensor in inside.items()}

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its config.json."""
        found: Mapping[str, Any] = read_json(self.folder / "config.json")
        return found

    @property
    def vocabulary(self) -> Vocabulary:
        """Its tensors with a row for each token, and where its tokenizer lies."""
        return Vocabulary.of(self.name, self.folder, self.tensors, self.settings)

    @property
    def turned(self) -> bool:
        """Whether linear layers inside lie as (in, out)."""
        return self.settings.get("model_type") in TURNED


@dataclass(frozen=True)
class Read:
    """A model that was opened, the files that it is read from, and what it has beyond the base's vocabulary."""

    model: Model
    files: tuple[Path, ...]
    grown: Grown | None = None


def merge_folders(
    out: Path,
    base: str,
    models: Sequence[str],
    rule: Merging,
    plan: "Plan | None" = None,
    progress: Progress | None = None,
) -> Path:
    """Merge models that are on disk into a new directory, and say in merge.json what was merged.

    Args:
        out: the new directory; it must not be there.
        base: a hub name, a directory, or "embedded": what the models were fine-tuned from.
        models: directories of models or PEFT adapters, or RUN or RUN@VERSION.
        rule: a merging method.
        plan: weights, seed, memory.
        progress: told how far it is.

    Raises:
        ConfigError: if `out` is there, or weights and models do not match.
        ModelError: if a model cannot be read, or is none of this base.
        RegistryError: if there is no such version.
    """
    if out.exists():
        raise ConfigError(f"{out} is there already; name another directory, or delete it.")
    plan, found = plan or Plan(), open_base(base)
    opened = [open_model(name, found) for name in models]
    tensors = found.tensors
    task = Combination(
        rule, tensors, [o.model for o in opened], plan.weights, plan.seed, plan.memory, progress or Silent()
    )
    grown = shared([(o.model.name, o.grown) for o in opened], plan.weights, found.vocabulary)
    about = _about(found, opened, task) | ({"new_tokens": list(grown.tokens.values())} if grown else {})
    with atomic_folder(out) as folder:
        blocks = task.blocks()
        for path, inside in found.files.items():
            parts = {name: _next(blocks, name) for name in inside}  # each is asked for when it is written
            if grown:
                parts = {name: grown.spliced(name, part, plan.memory) for name, part in parts.items()}
            like = grown.wider(inside) if grown else inside
            write_rows(folder / path.name, like, join.from_iterable(parts.values()))
        copy_small(found.folder, folder, (REPORT,))
        if grown:
            grown.finish(folder, found.vocabulary)
        write_json(folder / REPORT, about)
    return out


@dataclass(frozen=True)
class Plan:
    """What else a merge may be told.

    Args:
        weights: one for each model; none means 1 each.
        seed: of what is drawn at random.
        memory: about how many bytes blocks of tensors may take.
    """

    weights: tuple[float, ...] = ()
    seed: int = 0
    memory: int = MEMORY


def open_base(name: str) -> Base:
    """The base model by name; nothing but headers is read.

    Raises:
        ModelError: if it is not a directory of safetensors.
    """
    folder = locate(name)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{name} is no directory with a config.json and safetensors, which alone are merged.")
    return Base(name, folder, {path: read_header(path) for path in model_files(folder)})


def open_model(name: str, base: Base) -> Read:
    """A model of the base by name; of an adapter its factors are read, of others nothing but headers.

    Raises:
        ModelError: if it cannot be read, or is none of this base.
        RegistryError: if it names a run's version that is not there.
    """
    folder, _, version = name.rpartition("@")
    place = Path(name)
    if not place.is_dir() and version and (Path(folder) / "run.json").is_file():
        return _version(name, RunFolder(Path(folder)), version, base)
    if (place / "run.json").is_file():
        return _version(name, RunFolder(place), "", base)
    if (place / ADAPTER).is_file() and not (place / "config.json").is_file():
        return _adapter(name, place, base)
    if not place.is_dir():
        raise ModelError(f"{name} is no directory here; name a model's, a PEFT adapter's, a run's, or RUN@VERSION.")
    return _folder(name, place, base)


def _folder(name: str, place: Path, base: Base) -> Read:
    files, tensors = model_files(place), base.tensors
    whole = {n: t for path in files for n, t in read_header(path).items()}
    missing, more = sorted(tensors.keys() - whole.keys()), sorted(whole.keys() - tensors.keys())
    if missing or more:
        what = f"lacks {missing[0]} ({len(missing)} in all)" if missing else f"has {more[0]} more ({len(more)} in all)"
        raise ModelError(
            f"{name} {what}, beside {base.name}; merge models of one architecture, saved alike (with or without tied "
            "weights)."
        )
    grown = grown_folder(name, place, whole, base.vocabulary)
    old = grown.without(whole, base.vocabulary) if grown else whole
    _require_shapes(name, old, base)
    return Read(Model(name, old), tuple(files), grown)


def _adapter(name: str, place: Path, base: Base) -> Read:
    pairs, scale, settings = read_peft(place)
    turned = bool(settings.get("fan_in_fan_out"))
    named = {_known(f"{n}.weight", name, base): _product(a, b, scale, turned) for n, (a, b) in pairs.items()}
    _require_products(name, named, base)
    return Read(Model(name, pairs=named), (place / WEIGHTS, place / ADAPTER))


def _version(name: str, run: RunFolder, version: str, base: Base) -> Read:
    """The weights of a version, whole ones in their blobs, adapters as factors."""
    version = version or run.ledger.head() or ""
    if not version:
        raise RegistryError(f"{name}: no version of this run was kept; name one that was refused, or go on with it.")
    manifest = run.versions.manifest(version)
    about, entries = manifest["about"], manifest["weights"]
    if about.get("identity") != identity(base.name):
        raise ModelError(f"{name} was learned from {about.get('model')}, not from {base.name}; name that as the base.")
    blobs = {b: run.root / "blobs" / b for b in {entry["blob"] for entry in entries}}
    headers = {b: read_header(path) for b, path in blobs.items()}
    stored: dict[str, Rows] = {e["name"]: headers[e["blob"]][e["key"]] for e in entries}
    halves = {n.removesuffix(".A") for n in stored if n.endswith(".A") and f"{n.removesuffix('.A')}.B" in stored}
    pairs = {}
    for layer in sorted(halves):
        a, b = (_all(stored.pop(f"{layer}.{k}")) for k in "AB")
        turned = base.turned and not layer.endswith("lm_head")
        pairs[_known(f"{layer}.weight", name, base)] = _product(a, b, _scale(name, about["method"]), turned)
    grown = grown_version(name, manifest, run.root / "blobs", stored, base.vocabulary)
    whole = {_known(n, name, base): tensor for n, tensor in stored.items() if not (grown and NEW in n)}
    whole = grown.without(whole, base.vocabulary) if grown else whole
    _require_shapes(name, whole, base)
    _require_products(name, pairs, base)
    rest = {manifest["skeleton"], *(entry["blob"] for entry in manifest["memory"])} if grown else set()
    files = tuple(run.root / "blobs" / b for b in sorted({*blobs, *rest}))
    return Read(Model(name, whole, pairs), files, grown)


def _scale(name: str, method: str) -> float:
    """Alpha / rank of the one LoRA of a run's method."""
    found = [m for m in chain(parse_method(method)).methods if isinstance(m, LoRA)]
    if len(found) != 1:
        raise ModelError(f"{name} was learned with {method}, whose adapters are not those of one LoRA.")
    return 2.0 if found[0].alpha is None else found[0].alpha / found[0].rank


def _product(a: Tensor, b: Tensor, scale: float, turned: bool) -> tuple[Tensor, Tensor]:
    left, right = scale * b.double(), a.double()
    return (right.T, left.T) if turned else (left, right)


def _all(tensor: Rows) -> Tensor:
    return tensor.rows(0, tensor.shape[0])


def _known(tensor: str, model: str, base: Base) -> str:
    """The base's name of a tensor, where files leave out or add what a module's names begin with."""
    names = base.tensors
    if tensor in names:
        return tensor
    alike = [n for n in names if n.endswith(f".{tensor}") or tensor.endswith(f".{n}")]
    if len(alike) != 1:
        raise ModelError(f"{model} changes {tensor}, which {base.name} has not; name its own base.")
    return alike[0]


def _require_shapes(model: str, whole: Mapping[str, Rows], base: Base) -> None:
    known = base.tensors
    for name, tensor in whole.items():
        if tensor.shape == known[name].shape:
            continue
        words = base.settings.get("vocab_size")
        other = words in known[name].shape[:1] and tensor.shape[1:] == known[name].shape[1:]
        hint = "it has another vocabulary; resize its embeddings to the base's" if other else "merge models of one size"
        raise ModelError(f"{model}: {name} is {tensor.shape}, and in {base.name} {known[name].shape}: {hint}.")


def _require_products(model: str, pairs: Mapping[str, tuple[Tensor, Tensor]], base: Base) -> None:
    for name, (left, right) in pairs.items():
        shape, known = (left.shape[0], right.shape[1]), base.tensors[name].shape
        if shape != known:
            raise ModelError(f"{model} adapts {name} as {shape}, and in {base.name} it is {known}; name its own base.")


def _next(blocks: Iterator[tuple[str, Iterator[Tensor]]], name: str) -> Iterator[Tensor]:
    found, inside = next(blocks)
    assert found == name, f"{found} in place of {name}"
    yield from inside


def _about(base: Base, opened: Sequence[Read], task: Combination) -> dict[str, Any]:
    def hashed(name: str, files: Sequence[Path]) -> dict[str, Any]:
        sums = {}
        for done, path in enumerate(files):
            task.progress.update(f"hashing {name}", done, len(files), path.name)
            sums[path.name] = sha256_file(path)
        task.progress.update(f"hashing {name}", len(files), len(files))
        return {"name": name, "files": sums}

    return {
        "method": show(task.rule),
        "rule": dump(task.rule),
        "seed": task.seed,
        "weights": list(task.weights) or [1.0] * len(opened),
        "base": hashed(base.name, list(base.files)),
        "of": [hashed(o.model.name, o.files) for o in opened],
        "environment": environment(base.name, "cpu"),
    }
