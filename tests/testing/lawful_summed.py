"""Instances of the methods whose adapters are summed, for the laws."""

from everlearn.methods.adapters import DoRA, RSLoRA

METHODS = [
    RSLoRA(rank=2, alpha=3.0),
    DoRA(rank=2, targets=("q_proj", "down_proj")),
]
