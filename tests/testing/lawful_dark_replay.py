"""Instances of dark experience replay, for the laws."""

from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.dark_replay import DER, DERPP

METHODS = [
    DER(top=3, rows=3),
    DER(top=3, distance="mse", rows=2, capacity=5),
    DERPP(top=4, rows=3, capacity=9),
    chain(LoRA(rank=2), DERPP(distance="mse-raw", rows=2)),
]
