"""Instances of the methods whose adapters are summed, for the laws."""

from everlearn.method import chain
from everlearn.methods.adapters import DoRA, RSLoRA
from everlearn.methods.anchors import L2SP
from everlearn.methods.incremental import IncLoRA, SDLoRA
from everlearn.methods.inflora import InfLoRA
from everlearn.methods.orthogonal import NLoRA, OLoRA, SelfRegularizedCLoRA
from everlearn.methods.shared import SLAO, RoutingCLoRA
from everlearn.methods.tree_lora import TreeLoRA

KEYS = ("k_proj", "v_proj")

METHODS = [
    RSLoRA(rank=2, alpha=3.0),
    DoRA(rank=2, targets=("q_proj", "down_proj")),
    IncLoRA(rank=2, alpha=3.0, targets=KEYS, dropout=0.2),
    SDLoRA(rank=2, targets=KEYS),
    OLoRA(rank=2, targets=KEYS),
    OLoRA(rank=2, targets=KEYS, decay=0.1, formula="repo"),
    NLoRA(rank=2, targets=KEYS),
    NLoRA(rank=2, targets="q_proj", formula="repo", scaled=False),
    SelfRegularizedCLoRA(rank=2, targets=KEYS),
    InfLoRA(rank=2, targets=KEYS, samples=6),
    InfLoRA(rank=2, targets=KEYS, samples=6, energy=0.5, last_energy=0.9, experiences=3, formula="repo"),
    SLAO(rank=2, targets=KEYS, dropout=0.1),
    RoutingCLoRA(rank=2, targets=KEYS),
    TreeLoRA(rank=2, targets=KEYS),
    TreeLoRA(rank=2, targets=KEYS, formula="repo"),
    chain(OLoRA(rank=2, targets=KEYS), L2SP()),
]
