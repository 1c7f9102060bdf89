"""Instances of the methods that project movements, for the laws."""

from everlearn.methods.projection import AGEM, GEM

METHODS = [
    GEM(kept=3),
    GEM(kept=2, margin=0.1, side="grad", formula="repo"),
    AGEM(kept=4, drawn=3),
    AGEM(kept=2, drawn=2, side="grad"),
]
