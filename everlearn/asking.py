"""From the words of a command line or a run.json to a learner, a stream and settings."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from everlearn.config import parse, parse_method
from everlearn.data.stream_file import read_stream
from everlearn.errors import ConfigError
from everlearn.files import read_json
from everlearn.fold import Settings
from everlearn.learner import Learner
from everlearn.metrics.suites import general_suite
from everlearn.models.optim import Recipe
from everlearn.models.parallel import launched
from everlearn.registry.gates import AllOf
from everlearn.types import Stream


@dataclass(frozen=True)
class Asked:
    """A run in words; the fields are the options of `everlearn run`."""

    stream: str
    model: str = "embedded"
    method: str = "LoRA(rank=16), Replay(fraction=0.1)"
    recipe: str = "Recipe()"
    gate: str = ""
    suite: str = "shipped"
    seed: int = 0
    dtype: str | None = None
    device: str | None = None


def prepare(asked: Asked, out: Path) -> tuple[Learner, Stream, Settings]:
    """Understand all of it before anything long begins; rows that cannot be used are kept in `out`.

    Raises:
        ConfigError: if an expression or the stream file cannot be understood.
        DataError: if its files cannot be read.
    """
    if asked.stream.endswith(".json"):
        return prepare(again(Path(asked.stream)), out)
    recipe = _parsed(asked.recipe, Recipe, "--recipe")
    learner = Learner(asked.model, parse_method(asked.method), recipe, asked.seed, asked.dtype, asked.device)
    gate = parse(asked.gate) if asked.gate else AllOf(())
    suite = None if asked.suite == "shipped" else () if asked.suite == "none" else general_suite(Path(asked.suite))
    aside = out / "rejected.jsonl" if launched().main else None
    stream, rejects = read_stream(Path(asked.stream), aside)
    source = asdict(replace(asked, stream=str(Path(asked.stream).resolve())))
    return learner, stream, Settings(gate=gate, suite=suite, rejects=tuple(rejects), source=source)


def again(file: Path) -> Asked:
    """What was asked for in an earlier run.

    Raises:
        ConfigError: if that run was not started from a stream file.
    """
    source = read_json(file).get("source")
    if not source:
        raise ConfigError(f"{file} was not started from a stream file, so it cannot be repeated from here.")
    return Asked(**source)


def _parsed(text: str, kind: type, option: str) -> Any:
    value = parse(text)
    if not isinstance(value, kind):
        raise ConfigError(f"{option} {text!r} is a {type(value).__name__}; give a {kind.__name__}(...).")
    return value
