"""Instances of the averages, for the laws."""

from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.averaging import EMA, LMCocktail, ModelStock, Soup, WiSEFT

METHODS = [
    WiSEFT(mixing=0.7),
    Soup(begins="last"),
    ModelStock(),
    LMCocktail(examples=2),
    EMA(decay=0.5),
    chain(LoRA(rank=2), WiSEFT(mixing=0.3)),
    chain(LoRA(rank=2), ModelStock(begins="merged")),
    chain(LoRA(rank=2), EMA(every=2), LMCocktail(examples=2)),
]
