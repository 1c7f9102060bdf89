"""Instances of the methods on task vectors, for the laws."""

from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.task_vectors import OPCM, SLERP, MagMax, TaskArithmetic

METHODS = [
    TaskArithmetic(scale=0.5),
    MagMax(),
    OPCM(),
    SLERP(),
    chain(LoRA(rank=2), MagMax(begins="base")),
]
