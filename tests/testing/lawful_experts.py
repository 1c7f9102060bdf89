"""Instances of the methods with experts, for the laws."""

from everlearn.methods.dual import DualLoRA
from everlearn.methods.experts import SAPT, MoELoRA

METHODS = [
    DualLoRA(rank=2, energy=0.5, samples=6),
    DualLoRA(rank=2, targets=("q_proj", "down_proj"), samples=6, gating="cosine", identity="residual"),
    SAPT(rank=2, width=4, kept=5),
    SAPT(rank=2, width=4, targets=("q_proj", "down_proj"), reflection=0.0, told=False, formula="repo"),
    MoELoRA(experts=3, rank=2),
    MoELoRA(experts=2, rank=1, targets="all-linear", balance=0.0, formula="repo"),
]
