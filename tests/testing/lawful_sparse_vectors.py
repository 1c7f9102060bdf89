"""Instances of the methods on sparse task vectors, for the laws."""

from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.averaging import EMA
from everlearn.methods.sparse_vectors import DARE, DELLA, TIES, Breadcrumbs

METHODS = [
    TIES(density=0.3),
    TIES(formula="mergekit", begins="merged"),
    DARE(drop=0.5),
    DARE(drop=0.5, elect=True, formula="mergekit"),
    Breadcrumbs(),
    DELLA(),
    DELLA(formula="mergekit", begins="last"),
    chain(LoRA(rank=2), DARE(drop=0.5), EMA()),
    chain(LoRA(rank=2), EMA(), TIES()),
]
