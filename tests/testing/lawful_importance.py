"""Instances of the methods that measure importance, for the laws."""

from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.importance import MAS, SI, RWalk

METHODS = [
    SI(strength=2.0),
    SI(damping=1e-3, scaled=False, formula="repo"),
    MAS(strength=10.0, samples=4),
    MAS(samples=3, scaled=False),
    RWalk(strength=10.0, interval=2),
    RWalk(strength=0.1, alpha=0.5, damping=1e-6, scaled=False),
    chain(LoRA(rank=2), SI(), MAS(samples=2), RWalk(interval=1)),
]
