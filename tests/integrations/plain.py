"""transformers' own trainer with our methods, on the toy's conversations: it needs none of the extras."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

from everlearn.integrations.continual import Continual
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.schedules import Schedule

RATE = 1e-3
RECIPE = Recipe(AdamW(RATE), Schedule("constant", warmup=0), batch_size=4, length=64, tokens=4096)


class Plain(Continual, Trainer):
    """transformers' trainer on conversations; their tokens and labels are the lesson's."""

    def brings(self, options: Mapping[str, Any]) -> dict[str, Any]:
        rows, model = [], self.lesson.model
        for example in self.lesson.examples:
            encoded = model.encode(example)
            labels = [t if s else -100 for t, s in zip(encoded.tokens, encoded.supervised, strict=True)]
            rows.append({"input_ids": list(encoded.tokens), "labels": labels})
            self.index[encoded.tokens] = example
        return {"train_dataset": rows, "data_collator": DataCollatorForSeq2Seq(model.tokenizer)} | dict(options)


def arguments(folder: Path, **more: Any) -> TrainingArguments:
    fixed = {"use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    steps = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 1}
    rates = {"learning_rate": RATE, "lr_scheduler_type": "constant", "train_sampling_strategy": "sequential"}
    return TrainingArguments(str(folder), **(fixed | steps | rates | more))
