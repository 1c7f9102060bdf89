"""Instances of knowledge injection, for the laws."""

from everlearn.data.self_edits import Implications, Questions
from everlearn.methods.injection import SelfEdits

METHODS = [
    SelfEdits((Implications("{document}"), Questions("ask {document}")), limit=8),
    SelfEdits((Implications("{document}"),), completions=2, near=None, temperature=0.0, limit=4),
]
