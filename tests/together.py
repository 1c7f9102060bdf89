"""Work done by several processes: `python -m tests.together OUT COUNT SHARDING TASK...`, and what is compared with it.

The processes are forks of one that has imported everything and has no threads yet; each sees the environment that a
launcher gives. The main one writes what came of each task.
"""

import os
import pickle
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from everlearn.checkpoint import find, keep
from everlearn.errors import ConfigError, EverlearnError, Interrupted, RegistryError
from everlearn.examples import Example, Plan
from everlearn.learner import Learner, learn
from everlearn.method import Context, Method, Tensors, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.anchors import EWC
from everlearn.methods.replay import Replay
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.parallel import launched
from everlearn.objectives.selective import Selective
from everlearn.testing.toys import toy_folder, toy_model, toy_stream
from everlearn.types import Experience, Memory, Stream
from everlearn.watch import Watch

RECIPE = Recipe(AdamW(learning_rate=1e-2, clip=0.5), batch_size=5, length=64, tokens=128, epochs=2, patience=9)
STREAM = Stream(toy_stream(8).experiences[:2])
FEW: dict[str, Any] = {"share": 0.05, "tokens": 1}
"""Tokens chosen of steps with a pass for each row, so that in some passes there are none."""
SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}


@dataclass(frozen=True)
class Projected(Method):
    """A-GEM (arXiv:1812.00420, eq. 11): no step against the gradient of examples of the experience before."""

    def init(self, model: Any) -> Memory:
        return {"rows": [], "projections": 0}

    def step(self, memory: Memory, grads: Tensors, update: Tensors, ctx: Context) -> Memory:
        old = self._old(memory, ctx)
        return memory | {"projections": memory["projections"] + (bool(old) and _dot(grads, old) < 0)}

    def end(self, memory: Memory, ctx: Context) -> Memory:
        return memory | {"rows": [example.row() for example in list(ctx.experience.train)[:4]]}

    def grad(self, memory: Memory, grads: Tensors, ctx: Context) -> Tensors:
        old = self._old(memory, ctx)
        if not old or (along := _dot(grads, old)) >= 0:
            return grads
        return {name: g - along / _dot(old, old) * old[name] for name, g in grads.items()}

    def _old(self, memory: Memory, ctx: Context) -> Tensors:
        examples = [Example.from_row(row) for row in memory["rows"]]
        return ctx.grads(ctx.loss(next(ctx.batches(examples, len(examples))))) if examples else {}


@dataclass(frozen=True)
class Agreeing(Method):
    """Keeps of each update what goes against the sum of the gradients so far."""

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        return {name: torch.zeros_like(p) for name, p in ctx.trainable().items()}

    def update(self, memory: Memory, update: Tensors, ctx: Context) -> Tensors:
        return {name: u * (u * memory[name] <= 0) for name, u in update.items()}

    def step(self, memory: Memory, grads: Tensors, update: Tensors, ctx: Context) -> Memory:
        return {name: total + grads[name] for name, total in memory.items()}


def _dot(a: Tensors, b: Tensors) -> float:
    return sum(float((a[name] * b[name]).sum()) for name in a)


METHODS: dict[str, Method] = {
    "plain": chain(),
    "lora_replay": chain(LoRA(rank=4), Replay(fraction=0.3)),
    "ewc": EWC(samples=4),
    "projected": Projected(),
    "agreeing": Agreeing(),
}


def learned(name: str, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """The last version's weights and memory, and the losses and norms on the way."""
    learner, model, rows = Learner("toy", METHODS[name], RECIPE), toy_model(dtype=dtype), list[Any]()
    state = learner.start(model)
    for experience in STREAM:
        state = learn(learner, model, state, experience, Watch(log=rows.append))
    kept = [{k: r[k] for k in r if k in ("loss", "norm", "tokens", "validation")} for r in rows]
    largest = max(p.to_local().numel() if launched().plugin else p.numel() for p in model.trainable().values())
    return {"weights": dict(state.weights), "memory": state.memory, "rows": kept, "largest": largest}


def resumed(out: Path, name: str) -> dict[str, Any]:
    """The weights after an experience learned straight, and stopped by the last process alone and gone on with."""
    learner, last = Learner("toy", METHODS[name], RECIPE), launched().index == launched().count - 1

    def attempt(place: Path | None, stop: Callable[[], bool] = lambda: False) -> dict[str, torch.Tensor]:
        model = toy_model()
        watch = Watch(place, stop=stop)
        return dict(learn(learner, model, learner.start(model), STREAM.experiences[0], watch).weights)

    asked = iter([False, False, last])
    with suppress(Interrupted):
        attempt(out / "checkpoint", lambda: next(asked))
    left = len(list(asked))
    return {"straight": attempt(None), "resumed": attempt(out / "checkpoint"), "left": left}


def small() -> dict[str, Any]:
    """Steps of one row each: some processes have nothing to do."""
    first = STREAM.experiences[0]
    lone: Experience = replace(first, train=first.train[:3])
    learner, model = Learner("toy", chain(), replace(RECIPE, batch_size=1)), toy_model()
    return {"weights": dict(learn(learner, model, learner.start(model), lone).weights)}


def selective(out: Path, score: Any, share: float = 0.5, tokens: int = 128) -> dict[str, Any]:
    """Steps whose tokens are chosen among those of all passes, beside a reference that is put into `out`.

    And what the last version chooses of the first experience, token by token, where `steps` says it.
    """
    reference = launched().by_main(lambda: str(toy_folder(out / "reference", seed=1)))
    objective = Selective(reference, share, score, folder=str(out))
    recipe, rows = replace(RECIPE, patience=None, tokens=tokens), list[Any]()
    learner, model = Learner("toy", chain(), recipe), toy_model()
    state = learner.start(model)
    for experience in STREAM:
        state = learn(learner, model, state, replace(experience, objective=objective), Watch(log=rows.append))
    drawn = objective.steps(model, STREAM.experiences[0].train, Plan(recipe.batch_size, tokens, recipe.length))
    chosen = [[(b.at_targets("chosen") > 0).tolist() for b in step.batches if "chosen" in b.values] for step in drawn]
    kept = [{"loss": r["loss"], "norm": r["norm"], **r.get("notes", {})} for r in rows if "loss" in r]
    return {"weights": dict(state.weights), "rows": kept, "chosen": chosen}


def talked(out: Path) -> dict[str, Any]:
    """What the operations of `Processes` return to the main process."""
    here = launched()
    memory = {"number": here.index, "list": [torch.full((2,), float(here.index)), "word"]}
    long = {"w": torch.arange(15.0).view(5, 3)}
    try:
        here.by_main(_refuse)
        error = ""
    except RegistryError as caught:
        error = str(caught)
    mine = {"sum": here.add(here.index + 1.0), "any": here.any(here.index == 1, False), "error": error}
    mine |= {
        "main": here.by_main(lambda: here.index),
        "same": here.same(memory),
        "whole": here.whole(here.spread(long)),
    }
    mine |= {"apart": _found_by_main_alone(out)}
    return {"each": here.gather(mine), "total": here.total({"g": torch.ones(2, 3).T})["g"]}


def _found_by_main_alone(out: Path) -> str:
    """What is said of a checkpoint on a disk that one machine alone has."""
    keep(out / "kept", 1, {"step": 1}, launched())
    try:
        find(out / ("kept" if launched().main else "none"), 1, launched())
    except ConfigError as error:
        return str(error)
    return ""


def _refuse() -> None:
    raise RegistryError("no")


def done(task: str, out: Path) -> dict[str, Any]:
    kind, _, name = task.partition(":")
    try:
        if kind == "learned":
            return learned(name)
        if kind == "half":
            return learned(name, torch.bfloat16)
        if kind == "resumed":
            return resumed(out, name)
        if kind == "selective":
            return selective(out, name)
        if kind == "few":
            return selective(out, name, **FEW)
        return talked(out) if kind == "talked" else small()
    except EverlearnError as error:
        return {"error": str(error)}


def work(out: Path, tasks: Sequence[str]) -> None:
    torch.set_num_threads(1)
    for task in tasks:
        found = done(task, out)
        if launched().main:
            (out / f"{task}.pickle").write_bytes(pickle.dumps(found))


def environment(index: int, count: int, port: int, sharding: str) -> dict[str, str]:
    """What a launcher tells a process."""
    ranks = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return {k: str(v) for k, v in ranks.items()} | place | (SHARDED if sharding == "sharded" else {})


def forked(count: int, sharding: str, work: Callable[[], None]) -> int:
    """Do the same in so many processes, each told what a launcher tells it; the largest exit code."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for index in range(count):
        process = os.fork()
        if process == 0:
            os.environ.update(environment(index, count, port, sharding))
            work()
            sys.exit(0)
        children.append(process)
    return max(abs(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])) for process in children)


if __name__ == "__main__":
    sys.exit(forked(int(sys.argv[2]), sys.argv[3], lambda: work(Path(sys.argv[1]), sys.argv[4:])))
