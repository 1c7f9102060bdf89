"""Instances of GDumb, for the laws."""

from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.gdumb import GDumb

METHODS = [GDumb(capacity=9), GDumb(capacity=20, selection="balanced"), chain(LoRA(rank=2), GDumb(capacity=6))]
