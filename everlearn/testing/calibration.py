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
itself: DER holds them to logits from before they were learned, LAMOL trains on what it writes badly.

Nobody is told which experience a prompt belongs to, but for methods that have to be (`needs_task`): these can keep both
halves of any pair.
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
from everlearn.method import Method, overrides
from everlearn.metrics.text import ExactMatch
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe, Schedule
from everlearn.objectives.next_token import NextToken
from everlearn.testing.toys import LETTERS, question, toy_tokenizer
from everlearn.types import Experience, Memory, Stream
from everlearn.weights import pack

KEYS = 4
"""Prompts in an experience; all of them are learned and asked."""
FLOOR = 0.0
"""What a method that the proof covers may forget on the disjoint pair."""
MOVES = frozenset({"params", "start", "merge"})
"""Hooks that put a method outside that proof."""
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"


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


def calibration_model(whole: bool = False) -> LanguageModel:
    """A random Llama of 2 layers and width 32 in fp64 whose token embedding alone learns, or the whole of it."""
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "initializer_range": 0.2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": False}
    marks = {"vocab_size": 6 + len(LETTERS), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = LlamaForCausalLM(LlamaConfig.from_dict(shape | heads | marks))
    nn.Module.eval(nn.Module.to(module, torch.float64))
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(whole or "embed_tokens" in name)
    tokenizer = toy_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return LanguageModel(module, tokenizer, "calibration")


@cache
def place(method: Method, whole: bool = False) -> Placement:
    """Learn the three pairs with a method; about a second.

    Args:
        method: any; one that shapes parameters itself learns at a lower rate than embeddings do.
        whole: whether the whole model learns, for methods that act on linear layers; the proofs are then no proofs.
    """
    conflict, memory = _learned(method, conflicting(), whole)
    return Placement(conflict, _learned(method, marked(), whole)[0], _learned(method, disjoint(), whole)[0], memory)


def is_covered(method: Method) -> bool:
    """Whether the proof covers it that the disjoint pair is not forgotten."""
    return not MOVES & overrides(method)


def _learned(method: Method, stream: Stream, whole: bool) -> tuple[Halves, int]:
    stream = replace(stream, scenario="task" if method.needs_task else "domain")
    rate, epochs = (0.02, 30) if whole or "params" in overrides(method) else (0.1, 20)
    schedule = Schedule("constant", warmup=0.0)
    learner = Learner("calibration", method, Recipe(AdamW(rate), schedule, epochs, batch_size=KEYS, length=64))
    model, rows = calibration_model(whole), list[list[float]]()
    state = learner.start(model)
    begun = _size(state.memory)
    for experience in stream:
        state = learn(learner, model, state, experience)
        rows.append([sum(o.score for o in found) / KEYS for found in sit(model, exams(stream))])
    return Halves(rows[0][0], rows[1][0], rows[1][1]), _size(state.memory) - begun


def _size(memory: Memory) -> int:
    skeleton, tensors = pack(memory)
    return len(json.dumps(skeleton).encode()) + sum(tensor.nbytes for tensor in tensors.values())


def _pair(name: str, first: Sequence[tuple[str, str]], second: Sequence[tuple[str, str]]) -> Stream:
    return Stream((_experience("first", first), _experience("second", second)), name=name)


def _experience(name: str, pairs: Sequence[tuple[str, str]]) -> Experience:
    rows = tuple(question(prompt, answer, name) for prompt, answer in pairs)
    return Experience(name, rows, rows, NextToken(), ExactMatch(), labels=tuple(answer for _, answer in pairs))
