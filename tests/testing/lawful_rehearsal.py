"""Instances of rehearsal of what the model writes itself, for the laws."""

from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.rehearsal import LAMOL, SSR

METHODS = [
    LAMOL(ratio=0.3, limit=8),
    SSR(fraction=0.3, pool=3, demonstrations=3, clusters=2, limit=8),
    chain(LoRA(rank=2), LAMOL(ratio=0.2, limit=5), SSR(pool=2, demonstrations=2, limit=5)),
]
