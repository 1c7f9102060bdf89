"""Instances of what freezes, slows, and replays from above what is frozen or slowed, for the laws."""

from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.freezing import Freeze, Slow
from everlearn.methods.latent_replay import LatentReplay
from everlearn.methods.replay import Replay

METHODS = [
    Freeze(below=1),
    chain(LoRA(rank=2), Freeze(below=1), Replay(fraction=0.2)),
    Slow(below=1, factor=0.1),
    LatentReplay(below=1, fraction=0.3, capacity=8),
    LatentReplay(below=1, fraction=0.3, selection="reservoir", age=1, refresh=True),
    chain(LoRA(rank=2), Freeze(below=1), LatentReplay(below=1, fraction=0.3, precision="own")),
]
