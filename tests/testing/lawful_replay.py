"""Instances of the replay family, for the laws."""

from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.replay import Replay, RepresentativeReplay, SpacedReplay

METHODS = [
    Replay(fraction=0.3, capacity=7, selection="classes", course="growing"),
    RepresentativeReplay(fraction=0.3, capacity=5),
    RepresentativeReplay(fraction=0.3, capacity=5, selection="diverse", candidates=9),
    SpacedReplay(every=2, rows=3),
    chain(LoRA(rank=2), RepresentativeReplay(fraction=0.2), SpacedReplay(rows=2)),
]
