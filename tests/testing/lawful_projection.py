"""Instances of the methods that project movements, for the laws."""

from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.projection import AGEM, GEM
from everlearn.methods.subspaces import GPM, OGD, OSF

METHODS = [
    GEM(kept=3),
    GEM(kept=2, margin=0.1, side="grad", formula="repo"),
    AGEM(kept=4, drawn=3),
    AGEM(kept=2, drawn=2, side="both"),
    OGD(kept=2),
    GPM(samples=4, tokens=20),
    OSF(),
    OSF(held=0.2, formula="repo"),
    chain(LoRA(rank=2), OGD(kept=2, of="logprobs"), GPM(threshold=0.8, samples=3, others="free")),
]
