"""Instances of the methods with soft prompts, for the laws."""

from everlearn.methods.prompts import L2P, ProgressivePrompts

METHODS = [
    ProgressivePrompts(length=2, hidden=4),
    ProgressivePrompts(length=3, hidden=0),
    L2P(size=4, length=2, chosen=2),
]
