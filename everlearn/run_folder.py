"""The folder of a run: what was asked, with what, what came of it, and how far it is.

run.json        learner, stream, gate and suite, enough to know whether a second start asks for the same
env.json        versions of packages, commit, device
ledger.sqlite   what happened to each version
versions/ blobs/  the versions
scores/         each version's outcomes on each exam
matrix.json     R with outcomes, rewritten after each experience
metrics.jsonl   a row for each optimiser step
rejected.jsonl  rows that were set aside, with file, line and reason
checkpoint/     unfinished work inside an experience
"""

import hashlib
import json
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

from sqlalchemy import URL

from everlearn.config import dump
from everlearn.data.mixes import Mix
from everlearn.data.rejects import Reject, read_rejects
from everlearn.data.sequences import each
from everlearn.errors import ConfigError, RegistryError
from everlearn.files import append_jsonl, find_folder, read_json, read_jsonl, write_atomic, write_json
from everlearn.matrix import Matrix
from everlearn.models.language_model import LanguageModel
from everlearn.registry.ledger import Event, Ledger
from everlearn.registry.versions import Versions
from everlearn.types import Experience, Stream

PACKAGES = ("everlearn", "torch", "transformers", "accelerate", "safetensors", "tokenizers", "numpy")
SAMPLED = 1000
"""Training rows of an experience that enter its fingerprint."""


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps everything.

    Args:
        root: the folder; it is made when something is written.
    """

    root: Path

    @cached_property
    def versions(self) -> Versions:
        """The versions."""
        return Versions(self.root)

    @cached_property
    def ledger(self) -> Ledger:
        """What happened to them."""
        return Ledger(URL.create("sqlite", database=str(self.root / "ledger.sqlite")).render_as_string())

    @property
    def checkpoint(self) -> Path:
        """Unfinished work inside an experience."""
        return self.root / "checkpoint"

    @property
    def scores(self) -> Path:
        """Outcomes by version and exam."""
        return self.root / "scores"

    def rejects(self) -> list[Reject]:
        """The rows that were set aside."""
        return read_rejects(self.root / "rejected.jsonl")

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row to the metrics."""
        append_jsonl(self.root / "metrics.jsonl", row)

    def trace(self, row: Mapping[str, Any]) -> None:
        """Append what the model did to the traces."""
        append_jsonl(self.root / "traces.jsonl", row)

    def traces(self) -> list[dict[str, Any]]:
        """What the model did in its own attempts, one by one; of a step done again after a stop, both times."""
        file = self.root / "traces.jsonl"
        return [row for _, row in read_jsonl(file, torn=True)] if file.exists() else []

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of all steps; of a step done again after a stop, the last."""
        file = self.root / "metrics.jsonl"
        rows = [row for _, row in read_jsonl(file, torn=True)] if file.exists() else []
        kinds = ("loss", "validation")
        latest = {(r["experience"], r["step"], *(k in r for k in kinds), *_noted(r)): r for r in rows}
        return list(latest.values())

    def describe(self, asked: Mapping[str, Any], model: str, device: str) -> None:
        """Write what was asked and with what; once the base model was scored, make sure that it is the same.

        Raises:
            ConfigError: if the folder holds another run.
        """
        file = self.root / "run.json"
        if file.exists() and self.events():
            known = read_json(file)
            unlike = [key for key in asked if key != "source" and known.get(key) != json.loads(json.dumps(asked[key]))]
            if unlike:
                raise ConfigError(
                    f"{self.root} holds a run with another {' and '.join(unlike)}; "
                    "choose another folder, or delete this one to start over."
                )
            return
        write_json(self.root / "env.json", environment(model, device))
        write_json(file, asked)

    def asked(self) -> dict[str, Any]:
        """What `describe` wrote.

        Raises:
            RegistryError: if there is no run here.
        """
        file = self.root / "run.json"
        if not file.exists():
            raise RegistryError(f"{self.root} holds no run: there is no run.json; start one with `everlearn run`.")
        asked: dict[str, Any] = read_json(file)
        return asked

    def keep_tests(self, stream: Stream) -> None:
        """Write the test items down once, so that a report can show what was asked."""
        file = self.root / "tests.jsonl"
        if not file.exists() or not self.events():
            rows = (example.row() for experience in stream for example in experience.test)
            write_atomic(file, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))

    def write_matrix(self, matrix: Matrix) -> None:
        """Keep the matrix so far."""
        write_json(self.root / "matrix.json", matrix.to_dict())

    def read_matrix(self) -> Matrix:
        """The matrix so far.

        Raises:
            RegistryError: if no version was scored yet.
        """
        self.asked()
        file = self.root / "matrix.json"
        if not file.exists():
            raise RegistryError(f"{self.root}: no version was scored yet; go on with the run first.")
        return Matrix.from_dict(read_json(file))

    def events(self) -> list[Event]:
        """The ledger in order."""
        return self.ledger.events()

    def forget_checkpoint(self) -> None:
        """Remove the unfinished work: it has become a version."""
        for folder in iter(lambda: find_folder(self.checkpoint), None):
            shutil.rmtree(folder)


def _noted(row: Mapping[str, Any]) -> list[str]:
    """The names of what a method has noted in a row of its own; of a step's row none, since it has but one."""
    return [] if "loss" in row else sorted(row.get("notes", {}))


def fingerprint(experience: Experience) -> dict[str, Any]:
    """What tells one experience from another: sizes, test items, a sample of the training rows, how it is judged."""
    train, digest = experience.train, hashlib.sha256()
    sample = range(0, len(train), max(1, len(train) // SAMPLED))
    for example in chain(each(train, sample), experience.test):
        digest.update(example.key.encode())
    about = {"name": experience.name, "train": len(train), "test": len(experience.test), "rows": digest.hexdigest()}
    judged = {"objective": dump(experience.objective), "metric": dump(experience.metric)}
    rows = {} if experience.length is None else {"length": experience.length}
    mix = {"mix": train.described()} if isinstance(train, Mix) else {}
    return about | judged | rows | {"candidates": list(experience.candidates)} | mix


def describe_stream(stream: Stream) -> dict[str, Any]:
    """The stream as plain data, without its rows."""
    parts = [fingerprint(e) for e in stream]
    return {"name": stream.name, "scenario": stream.scenario, "online": stream.online, "experiences": parts}


def environment(model: str, device: str) -> dict[str, Any]:
    """Versions of packages, the commit of the folder one stands in, and the device."""
    return {
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "commit": _commit(),
        "model": model,
        "device": device,
    }


def describe_device(model: LanguageModel) -> str:
    """Device and dtype of a model, for people."""
    return f"{model.device} {next(iter(model.parameters().values())).dtype}".replace("torch.", "")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    found = subprocess.run([git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
