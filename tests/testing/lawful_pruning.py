"""Instances of the methods whose experiences change few weights, for the laws."""

from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.pruning import FAPM, PackNet, SparseMovement
from everlearn.methods.soft_masks import SoftMask

METHODS = [
    FAPM(keep=0.3),
    FAPM(keep=0.05, scope="all"),
    SparseMovement(strength=1e3),
    SparseMovement(fraction=0.01),
    PackNet(),
    PackNet(prune=0.7, retrain_after=1),
    PackNet(free="restore", retrain_after=2),
    SoftMask(samples=3),
    SoftMask(samples=2, general=False, acts_on="grad", low="free"),
    chain(LoRA(rank=2), PackNet(), SparseMovement(), SoftMask(samples=1)),
]
