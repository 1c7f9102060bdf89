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
    from everlearn.data.sources import read as read
    from everlearn.data.stream_file import load_stream as load_stream
    from everlearn.data.streams import blurry as blurry
    from everlearn.data.streams import class_incremental as class_incremental
    from everlearn.data.streams import domain_incremental as domain_incremental
    from everlearn.data.streams import experience as experience
    from everlearn.data.streams import online as online
    from everlearn.data.streams import shuffled as shuffled
    from everlearn.data.streams import split_by_class as split_by_class
    from everlearn.data.streams import task_incremental as task_incremental
    from everlearn.examples import Example as Example
    from everlearn.examples import Message as Message
    from everlearn.fold import Run as Run
    from everlearn.fold import Settings as Settings
    from everlearn.fold import run as run
    from everlearn.grid.compare import Compared as Compared
    from everlearn.grid.compare import Grid as Grid
    from everlearn.grid.compare import compare as compare
    from everlearn.grid.executors import InProcess as InProcess
    from everlearn.grid.executors import Processes as Processes
    from everlearn.learner import Learner as Learner
    from everlearn.learner import learn as learn
    from everlearn.matrix import Matrix as Matrix
    from everlearn.method import Context as Context
    from everlearn.method import Method as Method
    from everlearn.method import chain as chain
    from everlearn.methods.adapters import DoRA as DoRA
    from everlearn.methods.adapters import LoRA as LoRA
    from everlearn.methods.adapters import RSLoRA as RSLoRA
    from everlearn.methods.anchors import EWC as EWC
    from everlearn.methods.anchors import L2SP as L2SP
    from everlearn.methods.dual import DualLoRA as DualLoRA
    from everlearn.methods.experts import SAPT as SAPT
    from everlearn.methods.experts import MoELoRA as MoELoRA
    from everlearn.methods.incremental import IncLoRA as IncLoRA
    from everlearn.methods.incremental import SDLoRA as SDLoRA
    from everlearn.methods.inflora import InfLoRA as InfLoRA
    from everlearn.methods.orthogonal import NLoRA as NLoRA
    from everlearn.methods.orthogonal import OLoRA as OLoRA
    from everlearn.methods.orthogonal import SelfRegularizedCLoRA as SelfRegularizedCLoRA
    from everlearn.methods.prompts import L2P as L2P
    from everlearn.methods.prompts import ProgressivePrompts as ProgressivePrompts
    from everlearn.methods.replay import Replay as Replay
    from everlearn.methods.shared import SLAO as SLAO
    from everlearn.methods.shared import RoutingCLoRA as RoutingCLoRA
    from everlearn.methods.tree_lora import TreeLoRA as TreeLoRA
    from everlearn.metrics.likelihood import Choice as Choice
    from everlearn.metrics.likelihood import TokenAccuracy as TokenAccuracy
    from everlearn.metrics.likelihood import TokenLikelihood as TokenLikelihood
    from everlearn.metrics.overlap import EditSimilarity as EditSimilarity
    from everlearn.metrics.overlap import RougeL as RougeL
    from everlearn.metrics.overlap import Sari as Sari
    from everlearn.metrics.suites import general_suite as general_suite
    from everlearn.metrics.text import ExactMatch as ExactMatch
    from everlearn.metrics.text import NumericMatch as NumericMatch
    from everlearn.metrics.text import PrefixMatch as PrefixMatch
    from everlearn.metrics.text import ReasoningGym as ReasoningGym
    from everlearn.models.language_model import LanguageModel as LanguageModel
    from everlearn.models.optim import AdamW as AdamW
    from everlearn.models.optim import Recipe as Recipe
    from everlearn.models.optim import Schedule as Schedule
    from everlearn.models.sampling import Completion as Completion
    from everlearn.models.sampling import LocalSampler as LocalSampler
    from everlearn.models.sampling import Sampler as Sampler
    from everlearn.models.sampling import Sampling as Sampling
    from everlearn.models.sampling import sample as sample
    from everlearn.objectives.next_token import NextToken as NextToken
    from everlearn.references import joint as joint
    from everlearn.references import single as single
    from everlearn.registry.gates import AllOf as AllOf
    from everlearn.registry.gates import Learn as Learn
    from everlearn.registry.gates import Retain as Retain
    from everlearn.serve.exchange import Server as Server
    from everlearn.serve.samplers import SGLangSampler as SGLangSampler
    from everlearn.serve.samplers import VLLMSampler as VLLMSampler
    from everlearn.types import Experience as Experience
    from everlearn.types import State as State
    from everlearn.types import Stream as Stream

_HOME = {
    "AdamW": "everlearn.models.optim",
    "AllOf": "everlearn.registry.gates",
    "Choice": "everlearn.metrics.likelihood",
    "Compared": "everlearn.grid.compare",
    "Completion": "everlearn.models.sampling",
    "Context": "everlearn.method",
    "DoRA": "everlearn.methods.adapters",
    "DualLoRA": "everlearn.methods.dual",
    "EWC": "everlearn.methods.anchors",
    "EditSimilarity": "everlearn.metrics.overlap",
    "ExactMatch": "everlearn.metrics.text",
    "Example": "everlearn.examples",
    "Experience": "everlearn.types",
    "Grid": "everlearn.grid.compare",
    "InProcess": "everlearn.grid.executors",
    "IncLoRA": "everlearn.methods.incremental",
    "InfLoRA": "everlearn.methods.inflora",
    "L2P": "everlearn.methods.prompts",
    "L2SP": "everlearn.methods.anchors",
    "LanguageModel": "everlearn.models.language_model",
    "Learn": "everlearn.registry.gates",
    "Learner": "everlearn.learner",
    "LoRA": "everlearn.methods.adapters",
    "LocalSampler": "everlearn.models.sampling",
    "Matrix": "everlearn.matrix",
    "Message": "everlearn.examples",
    "Method": "everlearn.method",
    "MoELoRA": "everlearn.methods.experts",
    "NLoRA": "everlearn.methods.orthogonal",
    "NextToken": "everlearn.objectives.next_token",
    "NumericMatch": "everlearn.metrics.text",
    "OLoRA": "everlearn.methods.orthogonal",
    "PrefixMatch": "everlearn.metrics.text",
    "Processes": "everlearn.grid.executors",
    "ProgressivePrompts": "everlearn.methods.prompts",
    "RSLoRA": "everlearn.methods.adapters",
    "ReasoningGym": "everlearn.metrics.text",
    "Recipe": "everlearn.models.optim",
    "Replay": "everlearn.methods.replay",
    "Retain": "everlearn.registry.gates",
    "RougeL": "everlearn.metrics.overlap",
    "RoutingCLoRA": "everlearn.methods.shared",
    "Run": "everlearn.fold",
    "SAPT": "everlearn.methods.experts",
    "SDLoRA": "everlearn.methods.incremental",
    "SGLangSampler": "everlearn.serve.samplers",
    "SLAO": "everlearn.methods.shared",
    "Sampler": "everlearn.models.sampling",
    "Sampling": "everlearn.models.sampling",
    "Sari": "everlearn.metrics.overlap",
    "Schedule": "everlearn.models.optim",
    "SelfRegularizedCLoRA": "everlearn.methods.orthogonal",
    "Server": "everlearn.serve.exchange",
    "Settings": "everlearn.fold",
    "State": "everlearn.types",
    "Stream": "everlearn.types",
    "TokenAccuracy": "everlearn.metrics.likelihood",
    "TokenLikelihood": "everlearn.metrics.likelihood",
    "TreeLoRA": "everlearn.methods.tree_lora",
    "VLLMSampler": "everlearn.serve.samplers",
    "audit": "everlearn.data.audit",
    "blurry": "everlearn.data.streams",
    "chain": "everlearn.method",
    "class_incremental": "everlearn.data.streams",
    "compare": "everlearn.grid.compare",
    "domain_incremental": "everlearn.data.streams",
    "experience": "everlearn.data.streams",
    "general_suite": "everlearn.metrics.suites",
    "joint": "everlearn.references",
    "learn": "everlearn.learner",
    "load_stream": "everlearn.data.stream_file",
    "online": "everlearn.data.streams",
    "read": "everlearn.data.sources",
    "run": "everlearn.fold",
    "sample": "everlearn.models.sampling",
    "shuffled": "everlearn.data.streams",
    "single": "everlearn.references",
    "split_by_class": "everlearn.data.streams",
    "task_incremental": "everlearn.data.streams",
}

__all__ = [
    "EWC",
    "L2P",
    "L2SP",
    "SAPT",
    "SLAO",
    "AdamW",
    "AllOf",
    "Choice",
    "Compared",
    "Completion",
    "Context",
    "DoRA",
    "DualLoRA",
    "EditSimilarity",
    "ExactMatch",
    "Example",
    "Experience",
    "Grid",
    "InProcess",
    "IncLoRA",
    "InfLoRA",
    "LanguageModel",
    "Learn",
    "Learner",
    "LoRA",
    "LocalSampler",
    "Matrix",
    "Message",
    "Method",
    "MoELoRA",
    "NLoRA",
    "NextToken",
    "NumericMatch",
    "OLoRA",
    "PrefixMatch",
    "Processes",
    "ProgressivePrompts",
    "RSLoRA",
    "ReasoningGym",
    "Recipe",
    "Replay",
    "Retain",
    "RougeL",
    "RoutingCLoRA",
    "Run",
    "SDLoRA",
    "SGLangSampler",
    "Sampler",
    "Sampling",
    "Sari",
    "Schedule",
    "SelfRegularizedCLoRA",
    "Server",
    "Settings",
    "State",
    "Stream",
    "TokenAccuracy",
    "TokenLikelihood",
    "TreeLoRA",
    "VLLMSampler",
    "audit",
    "blurry",
    "chain",
    "class_incremental",
    "compare",
    "domain_incremental",
    "experience",
    "general_suite",
    "joint",
    "learn",
    "load_stream",
    "online",
    "read",
    "run",
    "sample",
    "shuffled",
    "single",
    "split_by_class",
    "task_incremental",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'everlearn' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
