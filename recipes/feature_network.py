"""The embedded model's last feed-forward block over features of texts, and a classifier, as a causal language model.

A text is one token, whose frozen embedding is what the embedded model's residual stream holds over the last token of
the text's prompt, before the last block: one pass over each text, once. Over that token the network is what the
embedded model is, y = x + down(silu(gate(n)) * up(n)) with n the normed x and the model's own weights, and then its
final norm; so adapters on the three linear layers change a pre-trained representation, as they do in the last layers of
the papers' vision transformers, and the token they act on is the one that a causal model's answer is predicted from, as
a class token is. On top is a linear classifier, zero at first. A row is `text answer end`; over the last two the inputs
of all layers are zero, and that an answer ends is certain, so that a loss is half of what it is on answers alone.

The embedding of a text for training also says which experience it belongs to, and then the answers of that one alone
compete: the cross-entropy over the classes of the experience that the papers train with. That of a test text says
nothing, and all classes compete.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from everlearn.method import Method
from everlearn.models.gguf import quiet
from everlearn.models.language_model import LanguageModel
from everlearn.types import Memory
from recipes.words import MARKS, word_tokenizer

END = MARKS.index("<|end|>")
LAYERS = ("gate_proj", "up_proj", "down_proj")
SURE = 30.0
"""Nats by which the head is sure of what is told beforehand; exp(-30) is nothing beside 1 in float32."""
TEMPLATE = "{% for m in messages %}{{ m['content'] + ('<|end|>' if m['role'] == 'assistant' else ' ') }}{% endfor %}"


class FeatureConfig(PreTrainedConfig):
    """The network's shape.

    Args:
        vocab_size: marks, answers and texts, in this order.
        answers: how many answers there are.
        tasks: how many experiences a text for training may say it belongs to.
        hidden_size: width of the features, and of the classifier's input.
        inner: width inside the block.
    """

    model_type = "everlearn-features"

    def __init__(
        self,
        vocab_size: int = 32,
        answers: int = 2,
        tasks: int = 1,
        hidden_size: int = 576,
        inner: int = 1536,
        **rest: object,
    ) -> None:
        self.vocab_size, self.answers, self.tasks = vocab_size, answers, tasks
        self.hidden_size, self.inner, self.num_hidden_layers = hidden_size, inner, 1
        super().__init__(**({"tie_word_embeddings": False} | rest))


class FeatureInner(PreTrainedModel):
    """From tokens to states, (B, T, answers + 1 + tasks): scores of answers, whether an answer ends, the experience."""

    config_class = FeatureConfig

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.texts = nn.Embedding(config.vocab_size, width + 1 + config.tasks)
        self.norm, self.last_norm = nn.RMSNorm(width, 1e-5), nn.RMSNorm(width, 1e-5)
        self.gate_proj, self.up_proj = (nn.Linear(width, config.inner, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(config.inner, width, bias=False)
        self.classifier = nn.Linear(width, config.answers)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The features of each text."""
        return self.texts

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **rest: object
    ) -> BaseModelOutputWithPast:
        """States; each is a function of its own token."""
        x, told = self.texts(input_ids).detach().split([self.config.hidden_size, 1 + self.config.tasks], -1)
        n = self.norm(x)
        y = self.last_norm(x + self.down_proj(silu(self.gate_proj(n)) * self.up_proj(n)))
        return BaseModelOutputWithPast(last_hidden_state=torch.cat([self.classifier(y), told.to(y.dtype)], -1))


class FeatureForCausalLM(PreTrainedModel):
    """The network with its head, which is fixed; what learns to classify is inside."""

    config_class = FeatureConfig
    base_model_prefix = "model"

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__(config)
        self.model = FeatureInner(config)
        self.lm_head = nn.Linear(config.answers + 1 + config.tasks, len(MARKS) + config.answers)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The features of each text."""
        return self.model.texts

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.lm_head

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **rest: object
    ) -> CausalLMOutputWithPast:
        """Logits of marks and answers, (B, T, marks + answers); no text is ever predicted."""
        return CausalLMOutputWithPast(logits=self.lm_head(self.model(input_ids).last_hidden_state))


AutoConfig.register(FeatureConfig.model_type, FeatureConfig, exist_ok=True)
AutoModelForCausalLM.register(FeatureConfig, FeatureForCausalLM, exist_ok=True)


@dataclass(frozen=True)
class Classifier(Method):
    """Let the classifier learn beside whatever else a chain lets learn.

    Args:
        alone: nothing else learns.
    """

    alone: bool = False

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        """Its weights and biases learn."""
        if self.alone:
            model.module.requires_grad_(False)
        model.module.get_submodule("model.classifier").requires_grad_(True)
        return model


@dataclass(frozen=True)
class Texts:
    """What the network is told of texts.

    Args:
        names: a word for each, without white space.
        features: (N, D) of each.
        tasks: for each the number of the experience it belongs to, of those for training; -1 of those for the test.
        answers: of each experience.
        local: whether answers of other experiences do not compete while learning.
    """

    names: Sequence[str]
    features: Tensor
    tasks: Sequence[int]
    answers: Sequence[Sequence[str]]
    local: bool = True


def feature_folder(folder: Path, texts: Texts, block: Mapping[str, Tensor]) -> Path:
    """Save the network where `Learner(model=str(folder))` finds it, unless it is there.

    Args:
        folder: where.
        texts: what it reads.
        block: weights of LAYERS, "norm" and "last_norm".
    """
    if not (folder / "tokenizer.json").exists():  # what is saved last
        answers = tuple(answer for own in texts.answers for answer in own)
        with quiet():
            _module(texts, block).save_pretrained(folder)
        word_tokenizer((*MARKS, *answers, *texts.names), MARKS, TEMPLATE).save_pretrained(folder)
    return folder


def _module(texts: Texts, block: Mapping[str, Tensor]) -> FeatureForCausalLM:
    answers, tasks, first = sum(map(len, texts.answers)), len(texts.answers), len(MARKS)
    vocabulary, width = first + answers + len(texts.names), texts.features.shape[1]
    module = FeatureForCausalLM(FeatureConfig(vocabulary, answers, tasks, width, len(block["gate_proj"])))
    inner, head = module.model, module.lm_head
    with torch.no_grad():
        for name, weight in block.items():
            inner.get_parameter(f"{name}.weight").copy_(weight)
        for parameter in (inner.texts.weight, *inner.classifier.parameters(), head.weight):
            parameter.zero_()
        table = inner.texts.weight
        table[first + answers :, :width] = texts.features
        table[: first + answers, width] = 1.0  # behind these, an answer ends
        head.bias.fill_(-SURE)[first:] = 0.0
        head.weight[first:, :answers] = torch.eye(answers)
        head.weight[END, answers] = 3 * SURE
        at = 0
        for task, own in enumerate(texts.answers):
            rows = [first + answers + i for i, t in enumerate(texts.tasks) if t == task and texts.local]
            table[rows, width + 1 + task] = 1.0
            head.weight[first:, answers + 1 + task] = -SURE
            head.weight[first + at : first + at + len(own), answers + 1 + task] = 0.0
            at += len(own)
    return module
