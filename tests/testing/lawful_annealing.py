"""Instances of what goes by the fall of the learning rate, for the laws."""

from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.annealing import StableBranch
from everlearn.methods.averaging import EMA

METHODS = [
    StableBranch(),
    EMA(decay=1.0, annealing=True),
    chain(LoRA(rank=2), StableBranch(), EMA(decay=1.0, annealing=True)),
]
