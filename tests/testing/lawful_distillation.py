"""Instances of the methods that hold what is said to what an older version says, for the laws."""

from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.distillation import LwF, NewInputsKL, OldInputsKL

METHODS = [
    LwF(strength=2.0),
    LwF(temperature=1.0, reference="base"),
    NewInputsKL(strength=0.5),
    NewInputsKL(reference="previous", direction="reverse"),
    OldInputsKL(strength=3.0, batch_size=3),
    OldInputsKL(reference="base", direction="reverse", capacity=5),
    chain(LoRA(rank=2, dropout=0.2), LwF(), NewInputsKL(), OldInputsKL(batch_size=2)),
]
