"""Streams on which forgetting is known beforehand, and where a method stands on them: `place(method)`.

The model is a Hugging Face Llama in fp64 of which the token embedding alone learns; embedding and head are not tied.
A prompt is one token (two, where the task is marked), its answer one token and the end. Under plain fine-tuning:

- *Conflicting* experiences give the same prompts different answers. A prompt has one greedy answer, so that the scores
  of both add up to at most 1, whatever the method: once the second is learned, the first is forgotten wholly.
- *Disjoint* experiences share neither a prompt's nor an answer's token. The gradient of the second is zero at every
  embedding of the first's tokens, Adam starts anew with each experience and decays nothing, so that those rows keep
  their bits; all else is frozen. The first is forgotten not at all.
- *Marked* experiences are conflicting ones whose prompts begin with a mark of their own: both can be kept.

The proof of the disjoint pair asks that the embedding is what learns (no `params`), and that weights are not set from
elsewhere (no `start`, no `merge`). What other methods forget there is their own noise floor: adapters and prompts are
shared by all tokens, and merging moves what an experience left alone. A method may also act on the first's tokens by
itself, and says why it may forget them (`Method.forgets_apart`). `uncovered` gives the reason.

Nobody is told which experience a prompt belongs to, but for methods that have to be (`needs_task`): these can keep both
halves of any pair.

A setting says what of the model learns, and how far it goes. An embedding has to be written anew to learn a key, by as
much as it is long; a method that bets on small changes, on many weights or on layers is asked in another setting.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from everlearn.evaluate import exams, sit
from everlearn.learner import Learner, learn
from everlearn.method import Method, members, overrides
from everlearn.metrics.text import ExactMatch
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.schedules import Schedule
from everlearn.objectives.next_token import NextToken
from everlearn.testing.toys import LETTERS, question, toy_tokenizer
from everlearn.types import Experience, Memory, Scenario, Stream
from everlearn.weights import pack

KEYS = 4
"""Prompts in an experience; all of them are learned and asked."""
FLOOR = 0.0
"""What a method that the proof covers may forget on the disjoint pair."""
MOVES = {
    "params": "what it lets learn is shared by all tokens",
    "start": "training starts from other weights than it ended with",
    "merge": "it moves weights that the experience has left alone",
}
"""Hooks that put a method outside that proof, and why."""
EPOCHS = 16
"""Of one step each."""
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"


@dataclass(frozen=True)
class Setting:
    """How the model is made and trained.

    Args:
        rate: AdamW's, constant.
        whole: whether all of the model learns, or the token embedding alone; the proofs are for the embedding.
        width: of the model.
    """

    rate: float = 0.1
    whole: bool = False
    width: int = 32


EMBEDDING = Setting()
ADAPTERS = Setting(rate=0.01)
"""For methods that shape parameters themselves: what they add to layers needs a lower rate than embeddings do."""
WHOLE = Setting(rate=0.01, whole=True)
"""For methods that act on linear layers, or on units other than tokens; the proofs are then no proofs."""
WIDE = Setting(rate=0.002, whole=True, width=192)
"""For methods that keep a part of a change: half a million weights, each of which moves by a tenth of its size."""


@dataclass(frozen=True)
class Halves:
    """Scores in [0, 1] on a pair of experiences.

    Args:
        learned: on the first, after it was learned.
        kept: on the first, after the second was learned.
        new: on the second, after it was learned.
    """

    learned: float
    kept: float
    new: float

    @property
    def forgotten(self) -> float:
        """The score on the first that was lost with the second; negative where it rose."""
        return self.learned - self.kept


@dataclass(frozen=True)
class Placement:
    """Where a method stands.

    Args:
        conflicting: nobody can keep both halves.
        marked: a perfect learner keeps both.
        disjoint: plain fine-tuning keeps both.
        memory: bytes by which both conflicting experiences have grown what the method keeps, as it is saved: tensors,
            and the rest as JSON.
    """

    conflicting: Halves
    marked: Halves
    disjoint: Halves
    memory: int


def conflicting() -> Stream:
    """Two experiences that give the same prompts different answers."""
    return _pair("conflicting", list(zip("abcd", "mnop", strict=True)), list(zip("abcd", "nopm", strict=True)))


def marked() -> Stream:
    """Two experiences that give the same keys different answers, behind a mark that tells them apart."""
    first = [(f"y{key}", value) for key, value in zip("abcd", "mnop", strict=True)]
    return _pair("marked", first, [(f"z{key}", value) for key, value in zip("abcd", "qrst", strict=True)])


def disjoint() -> Stream:
    """Two experiences that share no token."""
    return _pair("disjoint", list(zip("abcd", "mnop", strict=True)), list(zip("efgh", "qrst", strict=True)))


def calibration_model(setting: Setting = EMBEDDING) -> LanguageModel:
    """A random Llama of 2 layers in fp64, of which learns what the setting says.

    Weights are drawn the smaller the wider it is, so that the states keep their size.
    """
    width, spread = setting.width, 0.2 * (32 / setting.width) ** 0.5
    shape = {"hidden_size": width, "intermediate_size": width, "num_hidden_layers": 2, "initializer_range": spread}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": False}
    marks = {"vocab_size": 6 + len(LETTERS), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = LlamaForCausalLM(LlamaConfig.from_dict(shape | heads | marks))
    nn.Module.eval(nn.Module.to(module, torch.float64))
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(setting.whole or "embed_tokens" in name)
    tokenizer = toy_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return LanguageModel(module, tokenizer, "calibration")


@cache
def place(method: Method, setting: Setting | None = None) -> Placement:
    """Learn the three pairs with a method; most of a second.

    Args:
        method: any.
        setting: None takes `EMBEDDING`, or `ADAPTERS` where the method shapes parameters.
    """
    setting = setting or (ADAPTERS if "params" in overrides(method) else EMBEDDING)
    plain, apart = _Lesson(method, setting, conflicting()), _Lesson(method, setting, marked())
    conflict, memory = plain.ended(conflicting())
    return Placement(conflict, apart.ended(marked())[0], plain.ended(disjoint())[0], memory)


def uncovered(method: Method) -> str:
    """Why the proof that the disjoint pair is not forgotten does not cover a method; empty where it does."""
    reasons = [MOVES[hook] for hook in MOVES if hook in overrides(method)]
    return "; ".join(reasons + [member.forgets_apart for member in members(method) if member.forgets_apart])


class _Lesson:
    """A method that has learned the first experience of a pair, which conflicting and disjoint pairs share."""

    def __init__(self, method: Method, setting: Setting, stream: Stream) -> None:
        self.setting = setting
        self.scenario: Scenario = "task" if method.needs_task else "domain"
        recipe = Recipe(AdamW(setting.rate), Schedule("constant", warmup=0.0), EPOCHS, batch_size=KEYS, length=64)
        self.learner, model = Learner("calibration", method, recipe), calibration_model(setting)
        state = self.learner.start(model)
        self.begun = _size(state.memory)
        self.state = learn(self.learner, model, state, stream.experiences[0])
        self.learned = self._scores(model, stream, 1)[0]

    def ended(self, stream: Stream) -> tuple[Halves, int]:
        """The scores once the second is learned as well, and the bytes by which both have grown the memory."""
        model = self.learner.restore(calibration_model(self.setting), self.state)
        state = learn(self.learner, model, self.state, stream.experiences[1])
        kept, new = self._scores(model, stream, 2)
        return Halves(self.learned, kept, new), _size(state.memory) - self.begun

    def _scores(self, model: LanguageModel, stream: Stream, count: int) -> list[float]:
        asked = exams(replace(stream, scenario=self.scenario))[:count]
        return [sum(o.score for o in found) / KEYS for found in sit(model, asked)]


def _size(memory: Memory) -> int:
    skeleton, tensors = pack(memory)
    return len(json.dumps(skeleton).encode()) + sum(tensor.nbytes for tensor in tensors.values())


def _pair(name: str, first: Sequence[tuple[str, str]], second: Sequence[tuple[str, str]]) -> Stream:
    return Stream((_experience("first", first), _experience("second", second)), name=name)


def _experience(name: str, pairs: Sequence[tuple[str, str]]) -> Experience:
    rows = tuple(question(prompt, answer, name) for prompt, answer in pairs)
    return Experience(name, rows, rows, NextToken(), ExactMatch(), labels=tuple(answer for _, answer in pairs))
