"""TRL's GRPOTrainer at its defaults, with as many prompts, samples and tokens as the table says, and PEFT's LoRA."""

import tempfile
from collections.abc import Sequence

import torch
from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

from benchmarks.harness import Sample
from benchmarks.ours import vowels
from benchmarks.peers.trl_sft import _Clock
from everlearn.models.embedded import embedded_folder


def reward(completions, **_):
    """The share of vowels in each completion."""
    return [vowels(turns[0]["content"]) for turns in completions]


def trainer(prompts: Sequence[str], samples: int, limit: int) -> GRPOTrainer:
    """A trainer that takes all prompts in one step."""
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(prefix="bench-trl-"),
        per_device_train_batch_size=len(prompts) * samples,
        num_generations=samples,
        max_completion_length=limit,
        num_train_epochs=1,
        use_cpu=not torch.accelerator.is_available(),
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=torch.accelerator.is_available(),
    )
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in prompts])
    return GRPOTrainer(str(embedded_folder()), reward, config, train_dataset=rows, peft_config=lora)


def train(made: GRPOTrainer) -> Sample:
    """One step; the value is what was done."""
    watch = _Clock()
    made.add_callback(watch)
    made.train()
    made.remove_callback(watch)
    (drawn,) = [row["completions/mean_length"] for row in made.state.log_history if "completions/mean_length" in row][
        -1:
    ]
    return Sample(watch.ended - watch.began, {"steps": made.state.global_step, "drawn": float(drawn)})


def train_once(prompts: Sequence[str], samples: int, limit: int) -> dict[str, float]:
    """One step in a process of its own."""
    torch.manual_seed(0)
    return dict(train(trainer(prompts, samples, limit)).value)
