"""Instances of self-distillation, for the laws."""

from everlearn.methods.self_distillation import SDFT
from everlearn.rewards.extraction import Number
from everlearn.rewards.numbers import SameNumber

METHODS = [
    SDFT(limit=8, template="{question} {demonstration}"),
    SDFT(Number(), SameNumber(), ("meta",), temperature=0.0, limit=4),
]
