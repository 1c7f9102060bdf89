"""Instances of methods that grow a vocabulary, for the laws."""

from pathlib import Path

from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.vocabulary import GrowVocabulary

CATALOGUE = str(Path(__file__).with_name("catalogue.jsonl"))

METHODS = [
    GrowVocabulary(tokens=("after", "cat"), warm="mean"),
    GrowVocabulary(catalogue=CATALOGUE, warm="similar", trains="all"),
    GrowVocabulary(catalogue=CATALOGUE, warm="random", noise=0.0, trains="last"),
    chain(LoRA(rank=2), GrowVocabulary(tokens=("after",), trains="all")),
]
