"""What makes a trainer of transformers' learn a lesson: a mixin, whatever the trainer's loss."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from everlearn.errors import ConfigError, MethodError
from everlearn.examples import Batch, Example
from everlearn.integrations.batches import batch_of
from everlearn.integrations.lesson import Lesson
from everlearn.models.adapted import adapted
from everlearn.models.engine import switch
from everlearn.types import State

OURS = ("model", "train_dataset", "processing_class", "peft_config")
"""Arguments of a trainer's that a lesson decides."""


class Continual(ABC):
    """A trainer that learns one experience of a sequence with any method: `class Mine(Continual, SFTTrainer)`.

    The trainer is made, trained and logs as ever; the lesson brings model, tokenizer and rows. What methods note for
    people is logged too, as `notes/NAME`. `learned` gives the state to go on from.

    Args:
        lesson: what is learned.
        options: the trainer's own arguments.

    Raises:
        ConfigError: if an argument is given that the lesson decides, or the trainer moves the model.
        MethodError: if the trainer works in a way in which hooks cannot act.
    """

    accelerator: Any
    args: Any
    optimizer: Any
    state: Any
    compute_loss_context_manager: Any

    def __init__(self, lesson: Lesson, **options: Any) -> None:
        given = [name for name in OURS if options.get(name) is not None]
        if given:
            raise ConfigError(
                f"{given[0]} is the lesson's, which brings model, rows and tokenizer; leave it out. Adapters are a "
                "method's (`LoRA`), or on the model before the lesson is made."
            )
        self.lesson, self.index = lesson, dict[tuple[int, ...], Example]()
        self._batch: Batch | None = None
        self._hooked: Any = None
        module, device = lesson.model.module, lesson.model.device
        self._forward = vars(module).get("forward")
        brought = {"model": module, "processing_class": lesson.model.tokenizer}
        parent: Any = super()
        parent.__init__(**brought, **self.brings(options))
        if lesson.model.device != device:
            raise ConfigError(
                f"the trainer works on {lesson.model.device}, and the lesson began on {device}; open the model there: "
                f'Learner(device="{lesson.model.device}"), or use_cpu among the trainer\'s arguments.'
            )
        self._require_served()

    @abstractmethod
    def brings(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The trainer's arguments with its rows, and whatever else it needs of the lesson; fills `index`."""

    def _require_served(self) -> None:
        count, own = self.accelerator.num_processes, self.lesson.processes.count
        reasons = {
            "DeepSpeed, whose own optimiser and backward pass no hook sees": self.is_on("is_deepspeed_enabled"),
            "FSDP, under which no process has a whole gradient": self.is_on("is_fsdp_enabled"),
            f"{count} processes, and the lesson was made in {own}": count != own,
            "float16, whose scaled gradients and skipped steps hooks would take for real ones": self.args.fp16,
            "auto_find_batch_size, which begins again from weights that have moved": self.args.auto_find_batch_size,
            "vLLM, which cannot be sent the weights of our adapters": (
                getattr(self.args, "use_vllm", False) and adapted(self.lesson.model.module)
            ),
        }
        for reason, there in reasons.items():
            if there:
                raise MethodError(
                    f"{self.lesson.method} cannot be served: the trainer runs with {reason}. Turn that off, or learn "
                    "with `everlearn.learn`, which takes data parallel and FSDP2."
                )

    def is_on(self, name: str) -> bool:
        """Whether one of the trainer's own flags is set."""
        return bool(getattr(self, name, False))

    def train(self, resume_from_checkpoint: Any = None, trial: Any = None, ignore_keys_for_eval: Any = None) -> Any:
        """The trainer's own; once, and from the beginning.

        Raises:
            MethodError: if it is to go on from a checkpoint, or to train a second time.
        """
        if resume_from_checkpoint or self.lesson.step:
            raise MethodError(
                f"{self.lesson.experience.name}: a trainer's checkpoint holds nothing of a method's memory, and a "
                "lesson is learned once. Make a new lesson of the state that it began with."
            )
        parent: Any = super()
        return parent.train(None, trial, ignore_keys_for_eval)

    def create_optimizer(self, model: Any = None) -> Any:
        """The trainer's own, with the method around its steps."""
        parent: Any = super()
        optimizer = parent.create_optimizer(model)
        if self._hooked is not optimizer:
            optimizer.register_step_pre_hook(lambda *given: self.lesson.before_move())
            optimizer.register_step_post_hook(lambda *given: self.lesson.after_move())
            self._hooked = optimizer
        return optimizer

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The trainer's own loss; its batch is kept for the methods' terms."""
        if model.training and "loss" in self.lesson.hooks:
            self._batch = batch_of(inputs, self.index)
        parent: Any = super()
        return parent.compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """The trainer's own forward and backward pass, then the methods' terms; after the last pass of a step, `grad`.

        Raises:
            MethodError: if an optimiser step went by without the hooks around it.
        """
        if self.lesson.step != self.state.global_step:
            raise MethodError(
                f"{self.state.global_step} optimiser steps are done, and the method saw {self.lesson.step}: "
                f"{type(self.optimizer).__name__} does not step as torch's optimisers do. Choose another `optim`."
            )
        parent: Any = super()
        loss: Tensor = parent.training_step(model, inputs, num_items_in_batch)
        if self._batch is not None:
            with self.compute_loss_context_manager():
                self.lesson.saw(self._batch)
            self._batch = None
        if self.accelerator.sync_gradients:
            self.lesson.collect()
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The trainer's own, with what methods have noted since: of a name that was noted twice the last.

        What is logged of an evaluation stays as it is.
        """
        if not any(name.startswith("eval_") for name in logs):
            for numbers in self.lesson.notes:
                logs |= {f"notes/{name}": number for name, number in numbers.items()}
            self.lesson.notes.clear()
        parent: Any = super()
        parent.log(logs, start_time)

    def learned(self) -> State:
        """The state after training; the model is left as it was given, with the new weights.

        Raises:
            MethodError: if nothing was trained, or the state was given before.
        """
        if not self.lesson.step:
            raise MethodError(f"{self.lesson.experience.name}: nothing was learned yet; call train() first.")
        module: Any = self.lesson.model.module
        for name in ("forward", "_original_forward"):  # of TRL's fused head and Accelerate's mixed precision
            vars(module).pop(name, None)
        if self._forward is not None:
            module.forward = self._forward
        if self.args.gradient_checkpointing:
            switch(module, "disable")
        state = self.lesson.finish()
        if self.lesson.notes:
            self.log({})
        return state
