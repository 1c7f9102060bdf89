"""Instances of the methods that grow a model, for the laws."""

from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.growth import BlockExpansion, DepthSplice

METHODS = [
    BlockExpansion(every=2),
    DepthSplice(),
    chain(BlockExpansion(every=1), LoRA(rank=2)),
]
