"""From the words of a command line or a run.json to a learner, a stream and settings, or to a grid of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from everlearn.config import parse, parse_method
from everlearn.data.stream_file import read_stream
from everlearn.errors import ConfigError
from everlearn.files import read_json
from everlearn.fold import Settings
from everlearn.grid.cells import Reference
from everlearn.grid.compare import Grid
from everlearn.grid.executors import Executor, InProcess, Processes
from everlearn.learner import Learner
from everlearn.method import Method
from everlearn.metrics.suites import general_suite
from everlearn.models.engine import Engine
from everlearn.models.optim import Recipe
from everlearn.models.parallel import launched
from everlearn.names import optional
from everlearn.references import SHOTS
from everlearn.registry.gates import AllOf, Gate
from everlearn.run_folder import RunFolder
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
    engine: str = "Engine()"


def prepare(asked: Asked, out: Path, given: Collection[str] = ()) -> tuple[Learner, Stream, Settings]:
    """Understand all of it before anything long begins; rows that cannot be used are kept in `out`.

    Args:
        asked: the words; where its stream is an earlier run's run.json, that run's words stand in place of the others.
        out: the run's folder.
        given: the names of the words that replace those of an earlier run.

    Raises:
        ConfigError: if an expression or the stream file cannot be understood.
        DataError: if its files cannot be read.
    """
    if asked.stream.endswith(".json"):
        return prepare(replace(again(Path(asked.stream)), **{name: getattr(asked, name) for name in given}), out)
    recipe = _parsed(asked.recipe, Recipe, "--recipe")
    engine, method = _parsed(asked.engine, Engine, "--engine"), parse_method(asked.method)
    learner = Learner(asked.model, method, recipe, asked.seed, asked.dtype, asked.device, engine)
    suite = None if asked.suite == "shipped" else () if asked.suite == "none" else general_suite(Path(asked.suite))
    gate = _gate(asked.gate)
    # A folder in which a run is under way has its rejects; those of another stream would take their place.
    fresh = launched().main and not RunFolder(out).events()
    read = read_stream(Path(asked.stream), out / "rejected.jsonl" if fresh else None)
    settings = Settings(gate, suite, bad_rows=read.bad_rows, rejects=read.rejects, source=asdict(_lasting(asked)))
    return learner, read.stream, settings


def again(file: Path) -> Asked:
    """What was asked for in an earlier run.

    Raises:
        ConfigError: if that run was not started from a stream file.
    """
    source = read_json(file).get("source")
    if not source:
        raise ConfigError(f"{file} was not started from a stream file, so it cannot be repeated from here.")
    return Asked(**source)


def _lasting(asked: Asked) -> Asked:
    """The same words, with files and folders named so that they are found from anywhere."""

    def absolute(name: str) -> str:
        path = Path(name).expanduser()
        return str(path.resolve()) if path.exists() else name

    model = asked.model if asked.model == "embedded" else absolute(asked.model)
    suite = asked.suite if asked.suite in ("shipped", "none") else absolute(asked.suite)
    return replace(asked, stream=absolute(asked.stream), model=model, suite=suite)


def _gate(text: str) -> Gate:
    """The gate of an expression; all of them where it is a list, and one that keeps all where it is empty."""
    gates: AllOf = parse(f"AllOf(({text},))" if text.strip() else "AllOf(())")
    return gates.gates[0] if len(gates.gates) == 1 else gates


def prepare_grid(
    asked: Asked,
    methods: Sequence[str],
    seeds: str,
    references: Mapping[Reference, bool],
    out: Path,
    shots: int = SHOTS,
) -> Grid:
    """Understand all of a comparison before anything long begins.

    Args:
        asked: the run that all cells have in common; its method and seed are not used.
        methods: each as "name=expression".
        seeds: whole numbers between commas.
        references: whether each is to be learned beside the methods.
        out: where rows that cannot be used are kept.
        shots: demonstrations before each test item, in context.

    Raises:
        ConfigError: if an expression, a seed or the stream file cannot be understood.
        DataError: if its files cannot be read.
    """
    named = [_named(text) for text in methods]
    twice = {name for name, _ in named if [n for n, _ in named].count(name) > 1}
    if twice:
        raise ConfigError(f"--methods: the names {sorted(twice)} stand twice; rename.")
    try:
        numbers = tuple(int(seed) for seed in seeds.split(","))
    except ValueError as error:
        raise ConfigError(f"--seeds {seeds!r}: {error}; give whole numbers between commas, as in 0,1,2.") from error
    learner, stream, settings = prepare(asked, out)
    wanted = tuple(kind for kind, asked_for in references.items() if asked_for)
    return Grid(stream, dict(named), numbers, learner, settings, wanted, shots=shots)


def executor(workers: int | None, ray: str | None) -> Executor:
    """Who runs a grid: this process, so many workers, or a Ray cluster.

    Args:
        workers: cells at a time; None is one after another, here.
        ray: a cluster's address, or "local" for one that is started; None takes none.

    Raises:
        ConfigError: if Ray is asked for and not installed.
    """
    if ray is not None:
        found: Executor = optional("everlearn.grid.ray_cluster:RayCluster", "ray")(ray, workers)
        return found
    return InProcess() if workers is None else Processes(workers)


def _named(text: str) -> tuple[str, Method]:
    name, mark, expression = text.partition("=")
    if not mark or not name.strip().replace("-", "_").replace(".", "_").isidentifier():
        raise ConfigError(f"--methods {text!r} has no name; give one, as in 'plain=LoRA(rank=16)'.")
    return name.strip(), parse_method(expression)


def _parsed(text: str, kind: type, option: str) -> Any:
    value = parse(text)
    if not isinstance(value, kind):
        raise ConfigError(f"{option} {text!r} is a {type(value).__name__}; give a {kind.__name__}(...).")
    return value
