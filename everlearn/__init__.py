"""Keep a language model learning without forgetting.

    from everlearn import Learner, LoRA, Replay, chain, load_stream, run

    learner = Learner("embedded", chain(LoRA(rank=16), Replay(fraction=0.1)))
    done = run(learner, load_stream("stream.yaml"), "runs/x")

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everlearn.data.audit import audit as audit
    from everlearn.data.stream_file import load_stream as load_stream
    from everlearn.data.streams import blurry as blurry
    from everlearn.data.streams import class_incremental as class_incremental
    from everlearn.data.streams import domain_incremental as domain_incremental
    from everlearn.data.streams import experience as experience
    from everlearn.data.streams import online as online
    from everlearn.data.streams import shuffled as shuffled
    from everlearn.data.streams import task_incremental as task_incremental
    from everlearn.learner import Learner as Learner
    from everlearn.learner import Recipe as Recipe
    from everlearn.learner import learn as learn
    from everlearn.matrix import Matrix as Matrix
    from everlearn.method import Context as Context
    from everlearn.method import Method as Method
    from everlearn.method import chain as chain
    from everlearn.methods.adapters import LoRA as LoRA
    from everlearn.methods.anchors import EWC as EWC
    from everlearn.methods.anchors import L2SP as L2SP
    from everlearn.methods.replay import Replay as Replay
    from everlearn.metrics.likelihood import Choice as Choice
    from everlearn.metrics.likelihood import TokenAccuracy as TokenAccuracy
    from everlearn.metrics.text import ExactMatch as ExactMatch
    from everlearn.models.language_model import LanguageModel as LanguageModel
    from everlearn.models.optim import AdamW as AdamW
    from everlearn.models.optim import Schedule as Schedule
    from everlearn.objectives.next_token import NextToken as NextToken
    from everlearn.fold import Run as Run
    from everlearn.fold import run as run
    from everlearn.types import Example as Example
    from everlearn.types import Experience as Experience
    from everlearn.types import Message as Message
    from everlearn.types import State as State
    from everlearn.types import Stream as Stream

_HOME = {
    "AdamW": "everlearn.models.optim",
    "Choice": "everlearn.metrics.likelihood",
    "Context": "everlearn.method",
    "EWC": "everlearn.methods.anchors",
    "ExactMatch": "everlearn.metrics.text",
    "Example": "everlearn.types",
    "Experience": "everlearn.types",
    "L2SP": "everlearn.methods.anchors",
    "LanguageModel": "everlearn.models.language_model",
    "Learner": "everlearn.learner",
    "LoRA": "everlearn.methods.adapters",
    "Matrix": "everlearn.matrix",
    "Message": "everlearn.types",
    "Method": "everlearn.method",
    "NextToken": "everlearn.objectives.next_token",
    "Recipe": "everlearn.learner",
    "Replay": "everlearn.methods.replay",
    "Run": "everlearn.fold",
    "Schedule": "everlearn.models.optim",
    "State": "everlearn.types",
    "Stream": "everlearn.types",
    "TokenAccuracy": "everlearn.metrics.likelihood",
    "audit": "everlearn.data.audit",
    "blurry": "everlearn.data.streams",
    "chain": "everlearn.method",
    "class_incremental": "everlearn.data.streams",
    "domain_incremental": "everlearn.data.streams",
    "experience": "everlearn.data.streams",
    "learn": "everlearn.learner",
    "load_stream": "everlearn.data.stream_file",
    "online": "everlearn.data.streams",
    "run": "everlearn.fold",
    "shuffled": "everlearn.data.streams",
    "task_incremental": "everlearn.data.streams",
}

__all__ = ["AdamW", "Choice", "Context", "EWC", "ExactMatch", "Example", "Experience", "L2SP", "LanguageModel", "Learner", "LoRA", "Matrix", "Message", "Method", "NextToken", "Recipe", "Replay", "Run", "Schedule", "State", "Stream", "TokenAccuracy", "audit", "blurry", "chain", "class_incremental", "domain_incremental", "experience", "learn", "load_stream", "online", "run", "shuffled", "task_incremental"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'everlearn' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
