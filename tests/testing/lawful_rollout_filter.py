"""Instances of the rollout filter, for the laws: what the toy's stream is learned by attempts nothing."""

from everlearn.methods.rollout_filter import RIF

METHODS = [RIF(otherwise="keep"), RIF(attempts=2, capacity=0, otherwise="keep")]
