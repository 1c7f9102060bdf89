"""lm-eval's multiple choice on a model in memory."""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from lm_eval import simple_evaluate
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM

BATCH = 8
"""Requests in a forward pass."""

Items = Sequence[dict[str, Any]]


def model(module: torch.nn.Module, tokenizer: Any) -> HFLM:
    """A module as lm-eval asks it."""
    return HFLM(pretrained=module, tokenizer=tokenizer, batch_size=BATCH, device="cpu")


def task(items: Items) -> ConfigurableTask:
    """Items of {prompt, choices, gold}: whole texts, so that each model reads the same tokens."""
    return ConfigurableTask(
        config={
            "task": "choices",
            "custom_dataset": lambda: DatasetDict(test=Dataset.from_list(list(items))),
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{prompt}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{gold}}",
            "target_delimiter": "",
            "metric_list": [{"metric": "acc"}],
        }
    )


def choose(lm: HFLM, asked: ConfigurableTask) -> list[list[float]]:
    """The log-probability of each item's choices."""
    found = simple_evaluate(model=lm, tasks=[asked], bootstrap_iters=0, log_samples=True)
    samples = sorted(found["samples"]["choices"], key=lambda s: s["doc_id"])
    return [[float(answer[0]) for answer in s["filtered_resps"]] for s in samples]
