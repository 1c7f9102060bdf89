"""Instances of replay chosen by gradients, for the laws."""

from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.interference import GSS, MIR

METHODS = [
    MIR(rows=2, candidates=5),
    GSS(fraction=0.3, capacity=5, compared=2, candidates=4, admitted=0.9),
    chain(LoRA(rank=2), MIR(rows=1, candidates=3, selection="balanced"), GSS(fraction=0.2, compared=1, candidates=3)),
]
