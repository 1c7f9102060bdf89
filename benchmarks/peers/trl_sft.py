"""TRL's SFTTrainer at its defaults: bf16 autocast over fp32 weights, gradient checkpointing, PEFT's LoRA.

All weights in place of LoRA for pre-training.
"""

import tempfile
from collections.abc import Mapping, Sequence

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.harness import Sample, clock
from everlearn.examples import Encoded
from everlearn.models.embedded import embedded_folder
from everlearn.models.load import best_device, best_dtype

IGNORED = -100
"""TRL's label of a token that is no target."""

Rows = Sequence[Mapping[str, Sequence[int]]]


class _Clock(TrainerCallback):
    """From the moment training begins, the trainer made and its data read, to its end."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0

    def on_train_begin(self, args, state, control, **_):
        self.began = clock()

    def on_train_end(self, args, state, control, **_):
        self.ended = clock()


def as_rows(encoded: Sequence[Encoded]) -> list[dict[str, list[int]]]:
    """Tokens and labels as TRL takes them."""
    return [
        {
            "input_ids": list(e.tokens),
            "labels": [t if s else IGNORED for t, s in zip(e.tokens, e.supervised, strict=True)],
        }
        for e in encoded
    ]


def trainer(rows: Rows, batch_size: int, accumulation: int = 1, packing: bool = False) -> SFTTrainer:
    """A trainer of LoRA that passes over the rows once; what is not named here is TRL's default."""
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return _made(rows, {"batch": batch_size, "accumulation": accumulation, "packing": packing}, True, lora)


def pretrainer(rows: Rows) -> SFTTrainer:
    """A trainer of all weights that passes over the rows once, all of them in a step, packing on.

    One packed row in a pass: of more, which TRL flattens into one, documents would attend to each other under sdpa.
    float32 where the device does not multiply bf16 natively, as our side is; else TRL's default.
    """
    half = best_dtype(best_device()) == torch.bfloat16
    return _made(rows, {"batch": 1, "accumulation": len(rows), "packing": True}, half)


def _made(rows: Rows, cut: Mapping[str, int], half: bool, lora: LoraConfig | None = None) -> SFTTrainer:
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(prefix="bench-trl-"),
        per_device_train_batch_size=cut["batch"],
        gradient_accumulation_steps=cut["accumulation"],
        num_train_epochs=1,
        packing=bool(cut["packing"]),
        use_cpu=not torch.accelerator.is_available(),
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=torch.accelerator.is_available(),
        **({} if half else {"bf16": False}),
    )
    made = SFTTrainer(str(embedded_folder()), config, train_dataset=Dataset.from_list(list(rows)), peft_config=lora)
    if not (made.args.bf16 == half and made.args.gradient_checkpointing and made.model.dtype == torch.float32):
        raise AssertionError("TRL's defaults are not those that the table names; look at SFTConfig")
    return made


def train(made: SFTTrainer) -> Sample:
    """One pass; the value is what was done."""
    watch = _Clock()
    made.add_callback(watch)
    loss = made.train().training_loss
    made.remove_callback(watch)
    return Sample(watch.ended - watch.began, {"steps": made.state.global_step, "loss": loss})


def content(made: SFTTrainer) -> tuple[int, int]:
    """Tokens and targets of one pass."""
    tokens = sum(len(row) for row in made.train_dataset["input_ids"])
    targets = sum(sum(label != IGNORED for label in row) for row in made.train_dataset["labels"])
    return tokens, targets


def train_long(rows: Rows) -> float:
    """One pass in steps of two rows in a process of its own; the loss."""
    torch.manual_seed(0)
    return float(train(trainer(rows, batch_size=2)).value["loss"])


def pretrain_once(rows: Rows) -> float:
    """One step of all the rows, all weights, in a process of its own; the loss."""
    torch.manual_seed(0)
    return float(train(pretrainer(rows)).value["loss"])
