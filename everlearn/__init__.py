"""Keep a language model learning without forgetting.

    from everlearn import Learner, LoRA, Replay, chain, load_stream, run

    learner = Learner("embedded", chain(LoRA(rank=16), Replay(fraction=0.1)))
    done = run(learner, load_stream("stream.yaml"), "runs/x")

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everlearn.adaptation import TTRL, format_only, ttrl
    from everlearn.agents.environments import Env, Observation, Scoring
    from everlearn.agents.factories import EnvironmentFactory
    from everlearn.agents.games import TextArena
    from everlearn.agents.multi_turn import MultiTurn
    from everlearn.agents.reasoning_tasks import reasoning_gym_task
    from everlearn.agents.tools import Calling, Tools
    from everlearn.data.audit import audit
    from everlearn.data.catalogue import Item, read_catalogue
    from everlearn.data.mixes import Mix, Phase, replay_share
    from everlearn.data.pairing import Pairing
    from everlearn.data.self_edits import Implications, Questions, Rewrites
    from everlearn.data.sources import read
    from everlearn.data.stream_file import load_stream
    from everlearn.data.streams import (
        blurry,
        class_incremental,
        domain_incremental,
        experience,
        online,
        shuffled,
        split_by_class,
        task_incremental,
    )
    from everlearn.examples import Example, Message
    from everlearn.flywheel import Flywheel
    from everlearn.fold import Run, Settings, run
    from everlearn.grid.compare import Compared, Grid, compare
    from everlearn.grid.executors import InProcess, Processes
    from everlearn.knowledge.facts import Fact, read_facts
    from everlearn.knowledge.suite import FactSuite
    from everlearn.learner import Learner, learn
    from everlearn.matrix import Matrix
    from everlearn.method import Context, Method, chain
    from everlearn.methods.adapters import DoRA, LoRA, RSLoRA
    from everlearn.methods.anchors import EWC, L2SP
    from everlearn.methods.annealing import StableBranch
    from everlearn.methods.averaging import EMA, LMCocktail, ModelStock, Soup, WiSEFT
    from everlearn.methods.context import AdjustedBase, PositionInterpolation, YaRN
    from everlearn.methods.critic import Critic
    from everlearn.methods.dark_replay import DER, DERPP
    from everlearn.methods.distillation import LwF, NewInputsKL, OldInputsKL
    from everlearn.methods.dual import DualLoRA
    from everlearn.methods.experts import SAPT, MoELoRA
    from everlearn.methods.freezing import Freeze, Slow
    from everlearn.methods.gdumb import GDumb
    from everlearn.methods.growth import BlockExpansion, DepthSplice
    from everlearn.methods.importance import MAS, SI, RWalk
    from everlearn.methods.incremental import IncLoRA, SDLoRA
    from everlearn.methods.inflora import InfLoRA
    from everlearn.methods.injection import SelfEdits
    from everlearn.methods.interference import GSS, MIR
    from everlearn.methods.latent_replay import LatentReplay
    from everlearn.methods.optimal_policy import COPR
    from everlearn.methods.orthogonal import NLoRA, OLoRA, SelfRegularizedCLoRA
    from everlearn.methods.projection import AGEM, GEM
    from everlearn.methods.prompts import L2P, ProgressivePrompts
    from everlearn.methods.pruning import FAPM, PackNet, SparseMovement
    from everlearn.methods.recycling import InheritAdapter, OldAdapterKL
    from everlearn.methods.rehearsal import LAMOL, SSR
    from everlearn.methods.replay import Replay, RepresentativeReplay, SpacedReplay
    from everlearn.methods.rollout_filter import RIF
    from everlearn.methods.self_distillation import SDFT
    from everlearn.methods.shared import SLAO, RoutingCLoRA
    from everlearn.methods.soft_masks import SoftMask
    from everlearn.methods.sparse_vectors import DARE, DELLA, TIES, Breadcrumbs
    from everlearn.methods.stability import StabilityGap
    from everlearn.methods.subspaces import GPM, OGD, OSF
    from everlearn.methods.task_vectors import OPCM, SLERP, MagMax, TaskArithmetic
    from everlearn.methods.tree_lora import TreeLoRA
    from everlearn.methods.vocabulary import GrowVocabulary
    from everlearn.metrics.likelihood import Choice, TokenAccuracy, TokenLikelihood
    from everlearn.metrics.needles import Found, Needles
    from everlearn.metrics.overlap import EditSimilarity, RougeL, Sari
    from everlearn.metrics.suites import general_suite
    from everlearn.metrics.text import Contains, ExactMatch, NumericMatch, PrefixMatch, ReasoningGym
    from everlearn.models.alignment import drift
    from everlearn.models.engine import Engine
    from everlearn.models.language_model import LanguageModel
    from everlearn.models.optim import AdamW, Recipe
    from everlearn.models.sampling import Completion, LocalSampler, Sampler, Sampling, sample
    from everlearn.models.schedules import Schedule
    from everlearn.objectives.actor_critic import ActorCritic
    from everlearn.objectives.continual_policy import CPPO
    from everlearn.objectives.criteria import DPO, IPO, KTO, Hinge, RobustDPO, SimPO
    from everlearn.objectives.distillation import Distillation
    from everlearn.objectives.next_token import NextToken
    from everlearn.objectives.policy_gradient import PolicyGradient
    from everlearn.objectives.preference import Preference
    from everlearn.objectives.rollouts import SingleTurn
    from everlearn.objectives.selective import Selective
    from everlearn.objectives.surrogates import CISPO, Clip, Reinforce, SequenceClip
    from everlearn.references import in_context, joint, single
    from everlearn.registry.gates import AllOf, Learn, Reached, Recovered, Retain
    from everlearn.registry.promotion import Promotion
    from everlearn.rewards.extraction import Boxed, Marked, Number, Tagged, WholeText
    from everlearn.rewards.judge import Judge, PairJudge
    from everlearn.rewards.mathematics import MathEqual, SameMath
    from everlearn.rewards.numbers import NumericEqual, SameNumber
    from everlearn.rewards.reward import Answer, IfFinished, Part, Reward, Scored, Weighted
    from everlearn.rewards.sandbox import Finished, Limits, run_code
    from everlearn.rewards.tasks import TaskScore
    from everlearn.rewards.text import Answered, Exact, Format, Length, TargetLength
    from everlearn.rewards.unit_tests import UnitTests
    from everlearn.rewards.votes import MajorityVote, SameText, Vote
    from everlearn.selecting.choosing import Selection
    from everlearn.selecting.criteria import DocumentReader, Importance, Learnability, Novelty, Similarity, WordEntropy
    from everlearn.selecting.probe import AnnealingProbe
    from everlearn.selecting.quality import Quality
    from everlearn.serve.chat import OpenAIChat
    from everlearn.serve.exchange import Server
    from everlearn.serve.samplers import SGLangSampler, VLLMSampler
    from everlearn.synthesis.answers import Answers
    from everlearn.synthesis.first_order import FirstOrder
    from everlearn.synthesis.higher_order import HigherOrder
    from everlearn.synthesis.trajectories import Trajectory, read_trajectories
    from everlearn.traces import Trace
    from everlearn.types import Experience, State, Stream

_HOMES = {
    "everlearn.adaptation": "TTRL format_only ttrl",
    "everlearn.agents.environments": "Env Observation Scoring",
    "everlearn.agents.factories": "EnvironmentFactory",
    "everlearn.agents.games": "TextArena",
    "everlearn.agents.multi_turn": "MultiTurn",
    "everlearn.agents.reasoning_tasks": "reasoning_gym_task",
    "everlearn.agents.tools": "Calling Tools",
    "everlearn.data.audit": "audit",
    "everlearn.data.catalogue": "Item read_catalogue",
    "everlearn.data.mixes": "Mix Phase replay_share",
    "everlearn.data.pairing": "Pairing",
    "everlearn.data.self_edits": "Implications Questions Rewrites",
    "everlearn.data.sources": "read",
    "everlearn.data.stream_file": "load_stream",
    "everlearn.data.streams": (
        "blurry class_incremental domain_incremental experience online shuffled split_by_class task_incremental"
    ),
    "everlearn.examples": "Example Message",
    "everlearn.flywheel": "Flywheel",
    "everlearn.fold": "Run Settings run",
    "everlearn.grid.compare": "Compared Grid compare",
    "everlearn.grid.executors": "InProcess Processes",
    "everlearn.knowledge.facts": "Fact read_facts",
    "everlearn.knowledge.suite": "FactSuite",
    "everlearn.learner": "Learner learn",
    "everlearn.matrix": "Matrix",
    "everlearn.method": "Context Method chain",
    "everlearn.methods.adapters": "DoRA LoRA RSLoRA",
    "everlearn.methods.anchors": "EWC L2SP",
    "everlearn.methods.annealing": "StableBranch",
    "everlearn.methods.averaging": "EMA LMCocktail ModelStock Soup WiSEFT",
    "everlearn.methods.context": "AdjustedBase PositionInterpolation YaRN",
    "everlearn.methods.critic": "Critic",
    "everlearn.methods.dark_replay": "DER DERPP",
    "everlearn.methods.distillation": "LwF NewInputsKL OldInputsKL",
    "everlearn.methods.dual": "DualLoRA",
    "everlearn.methods.experts": "MoELoRA SAPT",
    "everlearn.methods.freezing": "Freeze Slow",
    "everlearn.methods.gdumb": "GDumb",
    "everlearn.methods.growth": "BlockExpansion DepthSplice",
    "everlearn.methods.importance": "MAS RWalk SI",
    "everlearn.methods.incremental": "IncLoRA SDLoRA",
    "everlearn.methods.inflora": "InfLoRA",
    "everlearn.methods.injection": "SelfEdits",
    "everlearn.methods.interference": "GSS MIR",
    "everlearn.methods.latent_replay": "LatentReplay",
    "everlearn.methods.optimal_policy": "COPR",
    "everlearn.methods.orthogonal": "NLoRA OLoRA SelfRegularizedCLoRA",
    "everlearn.methods.projection": "AGEM GEM",
    "everlearn.methods.prompts": "L2P ProgressivePrompts",
    "everlearn.methods.pruning": "FAPM PackNet SparseMovement",
    "everlearn.methods.recycling": "InheritAdapter OldAdapterKL",
    "everlearn.methods.rehearsal": "LAMOL SSR",
    "everlearn.methods.replay": "Replay RepresentativeReplay SpacedReplay",
    "everlearn.methods.rollout_filter": "RIF",
    "everlearn.methods.self_distillation": "SDFT",
    "everlearn.methods.shared": "RoutingCLoRA SLAO",
    "everlearn.methods.soft_masks": "SoftMask",
    "everlearn.methods.sparse_vectors": "Breadcrumbs DARE DELLA TIES",
    "everlearn.methods.stability": "StabilityGap",
    "everlearn.methods.subspaces": "GPM OGD OSF",
    "everlearn.methods.task_vectors": "MagMax OPCM SLERP TaskArithmetic",
    "everlearn.methods.tree_lora": "TreeLoRA",
    "everlearn.methods.vocabulary": "GrowVocabulary",
    "everlearn.metrics.likelihood": "Choice TokenAccuracy TokenLikelihood",
    "everlearn.metrics.needles": "Found Needles",
    "everlearn.metrics.overlap": "EditSimilarity RougeL Sari",
    "everlearn.metrics.suites": "general_suite",
    "everlearn.models.alignment": "drift",
    "everlearn.metrics.text": "Contains ExactMatch NumericMatch PrefixMatch ReasoningGym",
    "everlearn.models.engine": "Engine",
    "everlearn.models.language_model": "LanguageModel",
    "everlearn.models.optim": "AdamW Recipe",
    "everlearn.models.sampling": "Completion LocalSampler Sampler Sampling sample",
    "everlearn.models.schedules": "Schedule",
    "everlearn.objectives.actor_critic": "ActorCritic",
    "everlearn.objectives.continual_policy": "CPPO",
    "everlearn.objectives.criteria": "DPO Hinge IPO KTO RobustDPO SimPO",
    "everlearn.objectives.distillation": "Distillation",
    "everlearn.objectives.next_token": "NextToken",
    "everlearn.objectives.policy_gradient": "PolicyGradient",
    "everlearn.objectives.preference": "Preference",
    "everlearn.objectives.rollouts": "SingleTurn",
    "everlearn.objectives.selective": "Selective",
    "everlearn.objectives.surrogates": "CISPO Clip Reinforce SequenceClip",
    "everlearn.references": "in_context joint single",
    "everlearn.registry.gates": "AllOf Learn Reached Recovered Retain",
    "everlearn.registry.promotion": "Promotion",
    "everlearn.rewards.extraction": "Boxed Marked Number Tagged WholeText",
    "everlearn.rewards.judge": "Judge PairJudge",
    "everlearn.rewards.mathematics": "MathEqual SameMath",
    "everlearn.rewards.numbers": "NumericEqual SameNumber",
    "everlearn.rewards.reward": "Answer IfFinished Part Reward Scored Weighted",
    "everlearn.rewards.sandbox": "Finished Limits run_code",
    "everlearn.rewards.tasks": "TaskScore",
    "everlearn.rewards.text": "Answered Exact Format Length TargetLength",
    "everlearn.rewards.unit_tests": "UnitTests",
    "everlearn.rewards.votes": "MajorityVote SameText Vote",
    "everlearn.selecting.choosing": "Selection",
    "everlearn.selecting.criteria": "DocumentReader Importance Learnability Novelty Similarity WordEntropy",
    "everlearn.selecting.probe": "AnnealingProbe",
    "everlearn.selecting.quality": "Quality",
    "everlearn.serve.chat": "OpenAIChat",
    "everlearn.serve.exchange": "Server",
    "everlearn.serve.samplers": "SGLangSampler VLLMSampler",
    "everlearn.synthesis.answers": "Answers",
    "everlearn.synthesis.first_order": "FirstOrder",
    "everlearn.synthesis.higher_order": "HigherOrder",
    "everlearn.synthesis.trajectories": "Trajectory read_trajectories",
    "everlearn.traces": "Trace",
    "everlearn.types": "Experience State Stream",
}

_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "AGEM",
    "CISPO",
    "COPR",
    "CPPO",
    "DARE",
    "DELLA",
    "DER",
    "DERPP",
    "DPO",
    "EMA",
    "EWC",
    "FAPM",
    "GEM",
    "GPM",
    "GSS",
    "IPO",
    "KTO",
    "L2P",
    "L2SP",
    "LAMOL",
    "MAS",
    "MIR",
    "OGD",
    "OPCM",
    "OSF",
    "RIF",
    "SAPT",
    "SDFT",
    "SI",
    "SLAO",
    "SLERP",
    "SSR",
    "TIES",
    "TTRL",
    "ActorCritic",
    "AdamW",
    "AdjustedBase",
    "AllOf",
    "AnnealingProbe",
    "Answer",
    "Answered",
    "Answers",
    "BlockExpansion",
    "Boxed",
    "Breadcrumbs",
    "Calling",
    "Choice",
    "Clip",
    "Compared",
    "Completion",
    "Contains",
    "Context",
    "Critic",
    "DepthSplice",
    "Distillation",
    "DoRA",
    "DocumentReader",
    "DualLoRA",
    "EditSimilarity",
    "Engine",
    "Env",
    "EnvironmentFactory",
    "Exact",
    "ExactMatch",
    "Example",
    "Experience",
    "Fact",
    "FactSuite",
    "Finished",
    "FirstOrder",
    "Flywheel",
    "Format",
    "Found",
    "Freeze",
    "GDumb",
    "Grid",
    "GrowVocabulary",
    "HigherOrder",
    "Hinge",
    "IfFinished",
    "Implications",
    "Importance",
    "InProcess",
    "IncLoRA",
    "InfLoRA",
    "InheritAdapter",
    "Item",
    "Judge",
    "LMCocktail",
    "LanguageModel",
    "LatentReplay",
    "Learn",
    "Learnability",
    "Learner",
    "Length",
    "Limits",
    "LoRA",
    "LocalSampler",
    "LwF",
    "MagMax",
    "MajorityVote",
    "Marked",
    "MathEqual",
    "Matrix",
    "Message",
    "Method",
    "Mix",
    "MoELoRA",
    "ModelStock",
    "MultiTurn",
    "NLoRA",
    "Needles",
    "NewInputsKL",
    "NextToken",
    "Novelty",
    "Number",
    "NumericEqual",
    "NumericMatch",
    "OLoRA",
    "Observation",
    "OldAdapterKL",
    "OldInputsKL",
    "OpenAIChat",
    "PackNet",
    "PairJudge",
    "Pairing",
    "Part",
    "Phase",
    "PolicyGradient",
    "PositionInterpolation",
    "Preference",
    "PrefixMatch",
    "Processes",
    "ProgressivePrompts",
    "Promotion",
    "Quality",
    "Questions",
    "RSLoRA",
    "RWalk",
    "Reached",
    "ReasoningGym",
    "Recipe",
    "Recovered",
    "Reinforce",
    "Replay",
    "RepresentativeReplay",
    "Retain",
    "Reward",
    "Rewrites",
    "RobustDPO",
    "RougeL",
    "RoutingCLoRA",
    "Run",
    "SDLoRA",
    "SGLangSampler",
    "SameMath",
    "SameNumber",
    "SameText",
    "Sampler",
    "Sampling",
    "Sari",
    "Schedule",
    "Scored",
    "Scoring",
    "Selection",
    "Selective",
    "SelfEdits",
    "SelfRegularizedCLoRA",
    "SequenceClip",
    "Server",
    "Settings",
    "SimPO",
    "Similarity",
    "SingleTurn",
    "Slow",
    "SoftMask",
    "Soup",
    "SpacedReplay",
    "SparseMovement",
    "StabilityGap",
    "StableBranch",
    "State",
    "Stream",
    "Tagged",
    "TargetLength",
    "TaskArithmetic",
    "TaskScore",
    "TextArena",
    "TokenAccuracy",
    "TokenLikelihood",
    "Tools",
    "Trace",
    "Trajectory",
    "TreeLoRA",
    "UnitTests",
    "VLLMSampler",
    "Vote",
    "Weighted",
    "WholeText",
    "WiSEFT",
    "WordEntropy",
    "YaRN",
    "audit",
    "blurry",
    "chain",
    "class_incremental",
    "compare",
    "domain_incremental",
    "drift",
    "experience",
    "format_only",
    "general_suite",
    "in_context",
    "joint",
    "learn",
    "load_stream",
    "online",
    "read",
    "read_catalogue",
    "read_facts",
    "read_trajectories",
    "reasoning_gym_task",
    "replay_share",
    "run",
    "run_code",
    "sample",
    "shuffled",
    "single",
    "split_by_class",
    "task_incremental",
    "ttrl",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'everlearn' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
