"""Instances of what freezes, for the laws."""

from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.freezing import Freeze
from everlearn.methods.replay import Replay

METHODS = [Freeze(below=1), chain(LoRA(rank=2), Freeze(below=1), Replay(fraction=0.2))]
