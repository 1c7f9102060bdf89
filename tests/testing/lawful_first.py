"""Instances of the first methods, for the laws."""

from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.anchors import EWC, L2SP
from everlearn.methods.replay import Replay
from everlearn.methods.stability import StabilityGap

METHODS = [
    LoRA(rank=2),
    LoRA(rank=3, alpha=1.5, targets=("q_proj", "v_proj"), dropout=0.3),
    Replay(fraction=0.3),
    Replay(fraction=0.3, capacity=5, selection="reservoir"),
    EWC(strength=10.0, samples=4),
    EWC(strength=10.0, samples=4, fisher="empirical", decay=0.9, scaled=False),
    L2SP(strength=10.0),
    StabilityGap(every=2, items=3),
    chain(LoRA(rank=2), Replay(fraction=0.2), EWC(samples=3), L2SP()),
]
