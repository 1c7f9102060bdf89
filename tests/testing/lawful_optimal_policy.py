"""Instances of regularisation by optimal policies, for the laws; the toy's experiences have no pairs to keep."""

from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.optimal_policy import COPR

METHODS = [COPR(rows=2, capacity=4), chain(LoRA(rank=2), COPR(rate=0.0))]
