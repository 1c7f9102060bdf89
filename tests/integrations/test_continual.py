"""The mixin on transformers' own trainer: it learns as our loop does, and says at once what it cannot serve."""

import pickle
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Trainer

from everlearn.data.packing import Row, collate
from everlearn.errors import ConfigError, MethodError
from everlearn.examples import Batch, Encoded
from everlearn.integrations.lesson import Lesson
from everlearn.learner import Learner, learn
from everlearn.method import Context, Method, Tensors, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.anchors import EWC
from everlearn.methods.distillation import LwF
from everlearn.methods.importance import SI
from everlearn.methods.replay import Replay
from everlearn.methods.self_distillation import FATES, SDFT
from everlearn.methods.subspaces import OGD
from everlearn.models.parallel import Processes
from everlearn.registry.versions import Versions
from everlearn.testing.toys import toy_folder, toy_model, toy_stream
from everlearn.types import Memory, State
from tests.integrations.plain import RATE, RECIPE, Plain, arguments
from tests.integrations.two import learned

LETTERS = toy_stream().experiences[0]


def lesson(method: Method, dtype: torch.dtype = torch.float32) -> Lesson:
    model = toy_model(dtype=dtype)
    learner = Learner("toy", method, RECIPE)
    return Lesson(learner, model, learner.start(model), LETTERS)


@dataclass(frozen=True)
class Modes(Method):
    """Writes down whether dropout would act in each hook."""

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        assert ctx.model.module.training
        return 0.0

    def step(self, memory: Memory, grads: Tensors, update: Tensors, ctx: Context) -> Memory:
        assert not ctx.model.module.training
        return [*(memory or []), (ctx.step, float(sum(u.abs().max() for u in update.values())) > 0)]


def test_every_step_is_seen_in_order_and_the_model_learns(tmp_path: Path) -> None:
    trainer = Plain(lesson(Modes()), args=arguments(tmp_path))
    before = {n: p.detach().clone() for n, p in trainer.lesson.parameters.items()}
    trainer.train()
    state = trainer.learned()
    assert state.memory[0] == [(0, True), (1, True), (2, True)]
    assert state.seen == ("letters",)
    assert max(float((state.weights[n] - before[n]).abs().max()) for n in before) > RATE
    assert not trainer.lesson.model.module.training


def test_it_learns_what_our_loop_learns_of_the_same_batches(tmp_path: Path) -> None:
    """The one step of a learner whose batch is all rows, whatever their order; of two passes in the trainer."""
    method, recipe = chain(SI(), OGD()), replace(RECIPE, batch_size=12)
    model = toy_model(dtype=torch.float32)
    learner = Learner("toy", method, recipe)
    ours = learn(learner, model, learner.start(model), LETTERS)
    trainer = Plain(lesson(method), args=arguments(tmp_path, per_device_train_batch_size=6))
    trainer.train()
    theirs = trainer.learned()
    for name, weight in ours.weights.items():
        torch.testing.assert_close(theirs.weights[name], weight, rtol=0.0, atol=1e-5)
    torch.testing.assert_close(theirs.memory[0]["importance"], ours.memory[0]["importance"], rtol=1e-3, atol=1e-6)


@dataclass(frozen=True)
class Noting(Method):
    """Notes where it is."""

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        ctx.note({"begun": 1.0})
        return memory

    def step(self, memory: Memory, grads: Tensors, update: Tensors, ctx: Context) -> Memory:
        ctx.note({"at": float(ctx.step)})
        return memory

    def end(self, memory: Memory, ctx: Context) -> Memory:
        ctx.note({"ended": float(ctx.step)})
        return memory


def test_what_methods_note_is_in_the_trainers_log(tmp_path: Path) -> None:
    trainer = Plain(lesson(chain(Noting(), SDFT(limit=2))), args=arguments(tmp_path, logging_steps=2))
    trainer.train()
    trainer.learned()
    noted = [
        (row["step"], name, number)
        for row in trainer.state.log_history
        for name, number in row.items()
        if name in ("notes/begun", "notes/at", "notes/ended")
    ]
    assert noted == [(2, "notes/begun", 1.0), (2, "notes/at", 1.0), (3, "notes/at", 2.0), (3, "notes/ended", 3.0)]
    first = next(row for row in trainer.state.log_history if "loss" in row)
    assert sum(first[f"notes/{fate}"] for fate in FATES) == len({e.key for e in LETTERS.train})


def test_an_evaluations_numbers_stay_without_notes(tmp_path: Path) -> None:
    trainer = Plain(lesson(Noting()), args=arguments(tmp_path))
    trainer.log({"eval_loss": 1.0})
    assert trainer.lesson.notes == [{"begun": 1.0}]


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_the_model_is_given_back_as_it_was(tmp_path: Path, dtype: str | None) -> None:
    trainer = Plain(lesson(EWC()), args=arguments(tmp_path, bf16=dtype is not None, activation_checkpointing=True))
    module, batch = trainer.lesson.model.module, collate([Row((Encoded((6, 7, 8), (False, True, True)),), ())])
    trainer.train()
    trainer.learned()
    assert "forward" not in vars(module)
    assert not module.is_activation_checkpointing
    with torch.no_grad():
        assert trainer.lesson.model.hidden(batch).dtype == torch.float32
        assert module(batch.tokens).logits.dtype == torch.float32


@pytest.mark.parametrize("method", [LwF(), chain(LoRA(rank=2), LwF(), OGD())], ids=["whole", "adapters"])
def test_a_model_read_from_a_folder_learns_while_the_trainer_computes_in_bfloat16(
    method: Method, tmp_path: Path
) -> None:
    """Such a model attends by a function of our own, on a processor."""
    learner = Learner(str(toy_folder(tmp_path / "toy")), method, RECIPE, dtype="float32", device="cpu")
    model = learner.open()
    trainer = Plain(Lesson(learner, model, learner.start(model), LETTERS), args=arguments(tmp_path, bf16=True))
    began = {n: p.detach().clone() for n, p in trainer.lesson.parameters.items()}
    trainer.train()
    state = trainer.learned()
    assert {w.dtype for w in state.weights.values()} == {torch.float32}
    assert any(not torch.equal(w, began[n]) for n, w in state.weights.items())


@pytest.mark.parametrize(
    ("more", "says"),
    [({"auto_find_batch_size": True}, "auto_find_batch_size"), ({"optim": "sgd", "fp16": True}, "float16")],
)
def test_ways_to_train_in_which_hooks_cannot_act_are_refused(tmp_path: Path, more: dict[str, Any], says: str) -> None:
    given = arguments(tmp_path, **{name: value for name, value in more.items() if name != "fp16"})
    given.fp16 = "fp16" in more  # on a processor the trainer would refuse it before
    with pytest.raises(MethodError, match=says):
        Plain(lesson(chain()), args=given)


@pytest.mark.parametrize("flag", ["is_deepspeed_enabled", "is_fsdp_enabled"])
def test_sharded_trainers_are_refused(tmp_path: Path, flag: str) -> None:
    class Sharded(Plain):
        def is_on(self, name: str) -> bool:
            return name == flag

    with pytest.raises(MethodError, match="DeepSpeed" if "deep" in flag else "FSDP"):
        Sharded(lesson(EWC()), args=arguments(tmp_path))


def test_a_lesson_made_by_other_processes_is_refused(tmp_path: Path) -> None:
    made = lesson(EWC())
    made.processes = Processes(0, 2)
    with pytest.raises(MethodError, match="1 processes, and the lesson was made in 2"):
        Plain(made, args=arguments(tmp_path))


@pytest.mark.parametrize("name", ["model", "train_dataset", "processing_class", "peft_config"])
def test_what_is_the_lessons_is_not_given_twice(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is the lesson's"):
        Plain(lesson(chain()), args=arguments(tmp_path), **{name: object()})


def test_an_optimiser_whose_steps_no_hook_sees_is_noticed(tmp_path: Path) -> None:
    class Blind(Plain):
        def create_optimizer(self, model: Any = None) -> Any:
            return Trainer.create_optimizer(self, model)

    with pytest.raises(MethodError, match="1 optimiser steps are done, and the method saw 0"):
        Blind(lesson(SI()), args=arguments(tmp_path)).train()


def test_a_lesson_is_learned_once_and_from_its_beginning(tmp_path: Path) -> None:
    trainer = Plain(lesson(chain()), args=arguments(tmp_path, max_steps=1))
    with pytest.raises(MethodError, match="nothing was learned yet"):
        trainer.learned()
    with pytest.raises(MethodError, match="holds nothing of a method's memory"):
        trainer.train(resume_from_checkpoint="somewhere")
    trainer.train()
    with pytest.raises(MethodError, match="a lesson is learned once"):
        trainer.train()
    assert trainer.learned().seen == ("letters",)


def test_the_model_is_not_moved_in_silence(tmp_path: Path) -> None:
    class Moving(Plain):
        def _move_model_to_device(self, model: nn.Module, device: torch.device) -> nn.Module:
            return model.to("meta")

    with pytest.raises(ConfigError, match="the lesson began on cpu"):
        Moving(lesson(chain()), args=arguments(tmp_path))


def test_a_sequence_is_a_loop_and_every_version_can_be_restored(tmp_path: Path) -> None:
    model, learner = toy_model(dtype=torch.float32), Learner("toy", chain(Replay(fraction=0.5), EWC()), RECIPE)
    state: State = learner.start(model)
    for experience in (LETTERS, toy_stream().experiences[2]):
        trainer = Plain(Lesson(learner, model, state, experience), args=arguments(tmp_path))
        assert len(trainer.train_dataset) == len(trainer.lesson.examples)
        trainer.train()
        state = trainer.learned()
    assert len(trainer.train_dataset) > len(LETTERS.train), "replayed rows are among them"
    versions = Versions(tmp_path / "versions")
    kept = versions.get(versions.put(state, None, {}))
    fresh = learner.restore(toy_model(dtype=torch.float32), kept)
    tokens = torch.arange(6, 18)[None]
    with torch.no_grad():
        assert torch.equal(fresh.module(tokens).logits, model.module(tokens).logits)


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.integrations.two", str(tmp_path), "2"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    two = pickle.loads((tmp_path / "weights.pickle").read_bytes())
    for name, weight in learned(tmp_path).items():
        torch.testing.assert_close(two[name], weight, rtol=0.0, atol=1e-5)
