"""Instances of the critic, for the laws."""

from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.critic import Critic

METHODS = [Critic(hidden=4), chain(LoRA(rank=2), Critic(hidden=4))]
