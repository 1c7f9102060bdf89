"""A network for small images that is a causal language model by its interface, and as fast as the network it is.

A row is `<|user|> 64 grey values [task] <|end|> <|assistant|> answer <|end|>`. The state over `<|assistant|>`, from
which the answer is predicted, is what a perceptron with two hidden layers of ReLU makes of the grey values before it
(the networks of arXiv:1904.07734); it is computed once a row, and there is no attention. Over every other token the
state is a constant that says that the answer ends. So whatever works on language models works on it, with the same
code; and since an end that is certain is half of all targets, a loss is half of what it is on answers alone.

What can be told beforehand is told by the head's first weights, and is so certain that no gradient reaches it: only
answers are answered, an answer is one token, and, where the prompt names a task, the answer is one of that task's. This
last is the multi-headed output layer of the literature on task-incremental learning, in training and in tests alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from everlearn.errors import DataError
from everlearn.examples import Example
from everlearn.models.gguf import quiet
from everlearn.types import Question, Reply
from recipes import words

MARKS = (*words.MARKS, "<|user|>", "<|assistant|>")
END, ASK = MARKS.index("<|end|>"), MARKS.index("<|assistant|>")
GREYS, PIXELS = 17, 64
SURE = 30.0
"""Nats by which the head is sure of what is told beforehand; exp(-30) is nothing beside 1 in float32."""
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class DigitsConfig(PreTrainedConfig):
    """The network's shape.

    Args:
        vocab_size: marks, grey values, answers and tasks, in this order.
        answers: how many answers there are.
        tasks: how many tasks a prompt may name.
        width: units of each of the two hidden layers.
    """

    model_type = "everlearn-digits"

    def __init__(
        self, vocab_size: int = 32, answers: int = 10, tasks: int = 0, width: int = 200, **rest: object
    ) -> None:
        self.vocab_size, self.answers, self.tasks, self.width = vocab_size, answers, tasks, width
        self.num_hidden_layers, self.hidden_size = 2, width + 1 + tasks
        super().__init__(**({"tie_word_embeddings": False} | rest))


class DigitsInner(PreTrainedModel):
    """From tokens to states, (B, T, width + 1 + tasks): what the images say, that an answer ends, and the task."""

    config_class = DigitsConfig

    def __init__(self, config: DigitsConfig) -> None:
        super().__init__(config)
        self.grey = nn.Embedding(config.vocab_size, 1)
        self.first, self.second = nn.Linear(PIXELS, config.width), nn.Linear(config.width, config.width)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The grey value of each token."""
        return self.grey

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **rest: object
    ) -> BaseModelOutputWithPast:
        """States; an asking token reads the 64 grey values that it may look at, by the mask."""
        states = torch.zeros(*input_ids.shape, self.config.hidden_size, dtype=self.first.weight.dtype)
        states = states.to(input_ids.device)
        states[:, :, self.config.width] = 1.0
        rows, places = (input_ids == ASK).nonzero(as_tuple=True)
        seen = _visible(input_ids, attention_mask, rows, places)
        greys = seen & (input_ids[rows] >= len(MARKS)) & (input_ids[rows] < len(MARKS) + GREYS)
        full = greys.sum(1) == PIXELS
        rows, places, seen, greys = rows[full], places[full], seen[full], greys[full]
        images = self.grey(input_ids[rows][greys].view(-1, PIXELS))[:, :, 0].detach()  # greys are not learned
        said = torch.relu(self.second(torch.relu(self.first(images))))
        named = input_ids[rows][:, :, None] == self.config.vocab_size - self.config.tasks + torch.arange(
            self.config.tasks, device=input_ids.device
        )
        tasks = (named & seen[:, :, None]).any(1).to(said.dtype)
        asking = torch.cat([said, torch.zeros_like(said[:, :1]), tasks], 1)
        return BaseModelOutputWithPast(last_hidden_state=states.index_put((rows, places), asking))


class DigitsForCausalLM(PreTrainedModel, GenerationMixin):
    """The network with its head."""

    config_class = DigitsConfig
    base_model_prefix = "model"

    def __init__(self, config: DigitsConfig) -> None:
        super().__init__(config)
        self.model = DigitsInner(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The grey value of each token."""
        return self.model.grey

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.lm_head

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **rest: object
    ) -> CausalLMOutputWithPast:
        """Logits, (B, T, V)."""
        return CausalLMOutputWithPast(logits=self.lm_head(self.model(input_ids, attention_mask).last_hidden_state))


AutoConfig.register(DigitsConfig.model_type, DigitsConfig, exist_ok=True)
AutoModelForCausalLM.register(DigitsConfig, DigitsForCausalLM, exist_ok=True)


@dataclass(frozen=True)
class AllRight:
    """1 if each token of the target is the likeliest after the true tokens before it.

    That is when greedy decoding gives the target to the letter, so that it equals `ExactMatch`, in one forward pass.
    """

    @property
    def question(self) -> Question:
        """The model predicts."""
        return "predict"

    def score(self, example: Example, reply: Reply) -> float:
        """0 or 1.

        Raises:
            DataError: if the reply does not say.
        """
        if reply.right is None:
            raise DataError(f"{example.source or 'an example'}: the reply has no fraction of right tokens.")
        return float(reply.right == 1.0)


def digits_folder(folder: Path, tasks: Mapping[str, Sequence[str]], named: bool, seed: int, width: int = 200) -> Path:
    """Save an untrained network where `Learner(model=str(folder))` finds it, unless it is there.

    Args:
        folder: where.
        tasks: the answers of each task.
        named: whether prompts name their task.
        seed: of the first weights.
        width: units of each hidden layer.
    """
    if not (folder / "tokenizer.json").exists():  # what is saved last
        answers = tuple(dict.fromkeys(answer for own in tasks.values() for answer in own))
        names = tuple(tasks) if named else ()
        allowed = [[answer in own for answer in answers] for own in tasks.values()] if named else []
        with torch.random.fork_rng(), quiet():
            torch.manual_seed(seed)
            _module(len(answers), allowed, width).save_pretrained(folder)
        tokens = (*MARKS, *map(str, range(GREYS)), *answers, *names)
        words.word_tokenizer(tokens, MARKS, TEMPLATE).save_pretrained(folder)
    return folder


def _module(answers: int, allowed: Sequence[Sequence[bool]], width: int) -> DigitsForCausalLM:
    first = len(MARKS) + GREYS
    module = DigitsForCausalLM(DigitsConfig(first + answers + len(allowed), answers, len(allowed), width))
    head, end = module.lm_head, width
    with torch.no_grad():
        for layer in (module.model.first, module.model.second, head):
            layer.reset_parameters()  # torch's own, not that of transformers
        module.model.grey.weight.zero_()[len(MARKS) : first, 0] = torch.arange(GREYS) / (GREYS - 1)
        head.bias.fill_(-SURE)[first : first + answers] = 0.0
        head.weight[:, end:] = 0.0
        head.weight[END, end] = 2 * SURE
        for task, own in enumerate(allowed):
            head.weight[first : first + answers, end + 1 + task] = torch.where(torch.tensor(own), 0.0, -SURE)
    return module


def _visible(tokens: Tensor, mask: Tensor | None, rows: Tensor, places: Tensor) -> Tensor:
    """(N, T) which tokens each asking token may look at: those before it, by the mask of its row or of its own."""
    before = torch.arange(tokens.shape[1], device=tokens.device) <= places[:, None]
    if mask is None:
        return before
    return before & (mask[rows, 0, places] == 0 if mask.ndim == 4 else mask[rows] > 0)
