"""Instances of the methods that make contexts longer, for the laws: the toy's rows of 64 are twice what they take."""

from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.context import AdjustedBase, PositionInterpolation, YaRN

METHODS = [
    PositionInterpolation(original=32),
    AdjustedBase(original=32),
    AdjustedBase(original=32, base=500000.0),
    YaRN(original=32, slow=0.5, fast=4.0),
    chain(LoRA(rank=2), YaRN(original=32, formula="repo")),
]
