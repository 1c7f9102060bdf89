"""From a stream.yaml to a stream: files read, bad rows set aside, parts held out, the scenario applied."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from everlearn.data.checked_yaml import CheckedYaml, read_yaml
from everlearn.data.mixes import Mix, Phase
from everlearn.data.rejects import BAD_ROWS, Reject, Rows, check_rejects, named, write_rejects
from everlearn.data.sources import read, split_file
from everlearn.data.splits import hold_out, sample
from everlearn.data.streams import (
    blurry,
    class_incremental,
    default_metric,
    domain_incremental,
    experience,
    online,
    shared_labels,
    shuffled,
    task_incremental,
    taught_by,
)
from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example
from everlearn.names import optional
from everlearn.types import Experience, Metric, Stream

REASONING_GYM = "everlearn.metrics.text:ReasoningGym"
SCENARIOS = {"task": task_incremental, "domain": domain_incremental, "class": class_incremental}


def load_stream(path: str | Path) -> Stream:
    """The stream that a YAML file describes, with a warning where bad rows were left out.

    Args:
        path: the file. Its keys are those of `everlearn/data/stream.schema.json`; paths in it start from its folder.
            A folder without a stream.yaml is the stream of all folders in it that hold training rows, as benchmarks
            are published, in the order of their names.

    Raises:
        ConfigError: if the file cannot be understood; says where and what is allowed.
        DataError: if rows are missing, or more of a file's rows are bad than `bad_rows` allows.
    """
    found = read_stream(path)
    if found.rejects:
        warnings.warn(f"{len(found.rejects)} bad rows were left out: {named(found.rejects)}", stacklevel=2)
    return found.stream


@dataclass(frozen=True)
class StreamFile:
    """What a stream file gives.

    Args:
        stream: its good rows.
        rejects: the rows that were left out.
        bad_rows: the largest fraction of bad rows that it lets pass.
        excess: a sentence for each experience in which there are more, where they were let pass all the same.
    """

    stream: Stream
    rejects: tuple[Reject, ...]
    bad_rows: float
    excess: tuple[str, ...] = ()


def read_stream(path: str | Path, aside: Path | None = None, strict: bool = True) -> StreamFile:
    """As `load_stream`, but with the rows that were left out.

    Args:
        path: the file or folder.
        aside: where to write those rows as JSONL, before the limit on them stops the run.
        strict: whether the limit on bad rows stops; an audit goes on, and reports it.

    Raises:
        ConfigError: if the file cannot be understood; says where and what is allowed.
        DataError: if rows are missing, or more of a file's rows are bad than `bad_rows` allows and `strict` asks.
    """
    path = Path(path).expanduser()
    path = path / "stream.yaml" if (path / "stream.yaml").is_file() else path
    document = _folder(path) if path.is_dir() else read_yaml(path, stream_schema())
    parts = [_parts(document, place) for place in range(len(document.data["experiences"]))]
    rejects = tuple(reject for part in parts for rows in part.read for reject in rows.rejects)
    if aside is not None:
        write_rejects(aside, rejects)
    limit, excess = document.data.get("bad_rows", BAD_ROWS), list[str]()
    for place, rows in ((place, rows) for place, part in enumerate(parts) for rows in part.read):
        try:
            with _located(document, "experiences", place):
                check_rejects(rows.rejects, rows.total, limit)
        except DataError as error:
            if strict:
                raise
            excess.append(str(error))
    return StreamFile(_stream(document, parts), rejects, limit, tuple(excess))


def _folder(folder: Path) -> CheckedYaml:
    """What a stream file would say of a folder of experiences in a published layout."""
    found = sorted(p for p in (folder, *folder.rglob("*")) if p.is_dir() and split_file(p, "train"))
    if not found:
        raise ConfigError(f"{folder} has no stream.yaml, and no folder in it has a train.json, .jsonl, .csv, ...")
    experiences = [{"name": place.name, "path": str(place.relative_to(folder))} for place in found]
    return CheckedYaml(folder / "stream.yaml", {"name": folder.name, "experiences": experiences}, {(): 0})


def stream_schema() -> dict[str, Any]:
    """The JSON schema of a stream file, as it is published for editors."""
    schema: dict[str, Any] = json.loads((files("everlearn.data") / "stream.schema.json").read_text(encoding="utf-8"))
    return schema


@contextmanager
def _located(document: CheckedYaml, *keys: str | int) -> Iterator[None]:
    """Say in an error where in the file its reason stands."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{document.where(*keys)}: {error}") from error
    except DataError as error:
        raise DataError(f"{document.where(*keys)}: {error}") from error


@dataclass(frozen=True)
class _Parts:
    """The rows of one experience.

    Args:
        train: what is learned from.
        test: what is tested on.
        validation: None where it is to be split off.
        labels: the closed set of answers.
        read: all that was read.
    """

    train: Sequence[Example]
    test: Sequence[Example]
    validation: Sequence[Example] | None
    labels: tuple[str, ...]
    read: tuple[Rows, ...]


def _parts(document: CheckedYaml, place: int) -> _Parts:
    spec, keys = document.data["experiences"][place], ("experiences", place)
    given = [key for key in ("path", "train", "task") if key in spec]
    if len(given) != 1:
        raise ConfigError(f"{document.where(*keys)}: it has {given or 'no rows'}; give one of path, train, task.")
    if "splits" in spec and "path" not in spec:
        raise ConfigError(f"{document.where(*keys, 'splits')}: these are names of the splits of a path; give that.")
    rows: dict[str, Rows] = {}
    if "task" in spec:
        with _located(document, *keys, "task"):
            rows["train"], rows["test"] = _drawn(spec["task"])
    for part in ("train", "validation", "test"):
        with _located(document, *keys, part if part in spec else given[0]):
            found = _read_part(document.path.parent, spec, part)
        if found:
            rows[part] = found
    with _located(document, *keys):
        return _divided(spec, rows)


def _drawn(task: Mapping[str, Any]) -> tuple[Rows, Rows]:
    """Training and test rows of a task; test rows are drawn first, so that more training rows leave them the same."""
    draw = optional("everlearn.data.tasks:reasoning_gym_examples", "rl")
    size, tested = task["size"], task.get("test_size", 100)
    examples = draw(task["name"], size + tested, task.get("seed", 0), task.get("parameters"))
    return Rows(examples[tested:]), Rows(examples[:tested])


def _read_part(base: Path, spec: Mapping[str, Any], part: str) -> Rows | None:
    """The rows of a part that has a file of its own."""
    source = spec[part] if part in spec else _split_of_path(base, spec, part)
    if isinstance(source, str):
        source = {"path": source}
    if "mix" in source:
        return _mix(base, spec, source)
    return _read_source(base, spec, source) if "path" in source else None


def _mix(base: Path, spec: Mapping[str, Any], asked: Mapping[str, Any]) -> Rows:
    """Several sources, and the phases in which they are learned from."""
    read = {
        name: _read_source(base, spec, {"path": source} if isinstance(source, str) else source)
        for name, source in asked["mix"].items()
    }
    mix = Mix(
        {name: rows.examples for name, rows in read.items()},
        tuple(Phase(phase["tokens"], phase["weights"]) for phase in asked["phases"]),
    )
    return Rows(mix, tuple(reject for rows in read.values() for reject in rows.rejects))


def _read_source(base: Path, spec: Mapping[str, Any], source: Mapping[str, str]) -> Rows:
    path = source["path"] if source["path"].startswith("hub:") else base / Path(source["path"]).expanduser()
    return read(path, spec.get("layout", "auto"), source.get("split"))


def _split_of_path(base: Path, spec: Mapping[str, Any], part: str) -> Mapping[str, str]:
    """Where the experience's path has a part; training rows have to be there, the others may be missing.

    Of a data set of the hub, test rows are expected, and validation rows are those that `splits` names.
    """
    path, splits = spec.get("path", ""), spec.get("splits", {})
    if path.startswith("hub:"):
        there = part != "validation"
    else:
        folder = base / Path(path).expanduser()
        there = part == "train" or split_file(folder, part) is not None or (folder / part).is_dir()
    return {"path": path, "split": splits.get(part, part)} if path and (part in splits or there) else {}


def _divided(spec: Mapping[str, Any], rows: Mapping[str, Rows]) -> _Parts:
    """The three parts, held out from the training rows where that is asked for."""
    limit = spec.get("limit", {})
    limit = {"train": limit} if isinstance(limit, int) else limit
    parts = {part: sample(rows[part].examples, limit.get(part, len(rows[part].examples))) for part in rows}
    for part, fraction in _held_out(spec):
        parts["train"], parts[part] = hold_out(parts["train"], fraction, part)
    if not parts.get("test"):
        raise DataError("there are no test rows; give `test: FILE`, or `test: {fraction: 0.1}` to hold some out.")
    _check_signal(spec, parts["train"])
    labels = tuple(spec.get("labels", rows["train"].labels))
    return _Parts(parts["train"], parts["test"], parts.get("validation"), labels, tuple(rows.values()))


def _held_out(spec: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The parts that are held out, test rows first."""
    asked = [(part, spec.get(part)) for part in ("test", "validation")]
    return [(part, value["fraction"]) for part, value in asked if isinstance(value, dict) and "fraction" in value]


def _check_signal(spec: Mapping[str, Any], train: Sequence[Example]) -> None:
    if "signal" in spec:
        documents = spec["signal"] == "documents"
        other = next((example for example in train if bool(example.text) != documents), None)
        if other:
            found = "a document" if other.text else "a demonstration"
            raise DataError(f"its signal is {spec['signal']}, but {other.source} is {found}; correct one of them.")


def _stream(document: CheckedYaml, parts: Sequence[_Parts]) -> Stream:
    data = document.data
    scenario = data.get("scenario", "domain")
    shared = shared_labels([part.labels for part in parts])
    experiences = []
    for place, part in enumerate(parts):
        closed = bool(shared if scenario == "domain" else part.labels)
        with _located(document, "experiences", place):
            experiences.append(_experience(data["experiences"][place], part, closed))
    with _located(document, "experiences"):
        stream = SCENARIOS[scenario](experiences, data.get("name", document.path.stem))
    with _located(document, "order"):
        stream = _ordered(stream, data.get("order", stream.names))
    if "blurry" in data:
        how = data["blurry"] if isinstance(data["blurry"], dict) else {"fraction": data["blurry"]}
        with _located(document, "blurry"):
            stream = blurry(stream, how["fraction"], how.get("seed", 0))
    return online(stream) if data.get("online") else stream


def _experience(spec: Mapping[str, Any], part: _Parts, closed: bool) -> Experience:
    metric: Metric | str
    if "metric" in spec:
        metric = spec["metric"]
    elif "task" in spec:
        metric = resolve_name(REASONING_GYM)(spec["task"]["name"])
    else:
        metric = default_metric(part.test, closed)
    found = experience(spec["name"], part.train, part.test, part.validation, metric, part.labels)
    found = replace(found, length=spec.get("length"))
    return taught_by(found, spec["objective"]) if "objective" in spec else found


def _ordered(stream: Stream, order: Mapping[str, int] | Sequence[str]) -> Stream:
    return shuffled(stream, order["seed"]) if isinstance(order, Mapping) else stream.ordered(order)
