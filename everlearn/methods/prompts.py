"""Soft prompts: the model is frozen, and what is learned stands in front of what it reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from everlearn.errors import ConfigError, MethodError
from everlearn.examples import Batch
from everlearn.method import Context, Method, Tensors
from everlearn.models.language_model import LanguageModel
from everlearn.models.prompts import prompt_states
from everlearn.models.routes import Request, Routes, Switch, requests, routed_by
from everlearn.models.soft_prompts import SoftPrompts, prompted
from everlearn.types import Memory


@dataclass(frozen=True)
class ProgressivePrompts(Method):
    """Learn a soft prompt for each experience, in front of those of all earlier ones (arXiv:2301.12314, section 3.2).

    A row of experience k is read as [P_k, ..., P_1, x]. Only P_k learns, through a residual network, E(P) = P + MLP(P)
    with one hidden layer; afterwards E(P_k) is kept in its place and the network starts again. The model has to be told
    the experience: a prompt of one that was never learned, and of the general suite, is answered by the base model.

    Differs from the paper: the network's second layer starts at zero, so that E(P) = P at first. Soft prompts need a
    far higher learning rate than adapters: the paper's is 0.3. A prompt takes `length` of a row's tokens from each
    experience, and unlike an adapter it changes the function as soon as it is there.

    Memory: 4 * length * D bytes of weights for each experience, and 8 * hidden * D once.

    Args:
        length: tokens of a prompt.
        hidden: width of the network; 0 learns the prompt itself.
    """

    keeps: ClassVar[str] = "a list of names; a version gains 4 length D"
    computes: ClassVar[str] = "length tokens before a prompt, for each experience"
    needs_task: ClassVar[bool] = True
    needs_boundaries: ClassVar[bool] = True
    length: int = 10
    hidden: int = 128

    def __post_init__(self) -> None:
        """Refuse a prompt of nothing."""
        if self.length < 1 or self.hidden < 0:
            raise ConfigError(f"{self}: length is 1 or more, hidden 0 or more.")

    def init(self, model: LanguageModel) -> Memory:
        """No prompt yet."""
        return {"names": []}

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """A prompt for the new experience."""
        return {"names": [*memory["names"], ctx.experience.name]}

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        """Put the prompts there, the last one to learn."""
        names = memory["names"]
        if not names:
            return model
        layer = prompted(model, [self.length] * len(names))
        if layer.encoder is None and self.hidden:
            layer.encoder = _network(layer, self.hidden)
        for learns in (layer.prompts[-1], *(layer.encoder.parameters() if layer.encoder else ())):
            learns.requires_grad_(True)
        router = routed_by(model, _Progressive, lambda: _Progressive(self, layer))
        router.names = list(names)
        return model

    def merge(self, memory: Memory, before: Tensors, after: Tensors, ctx: Context) -> Tensors:
        """Keep the prompt as the network makes it, and let the network be the identity."""
        if not self.hidden:
            return after
        prompt = next(n for n in after if n.endswith(f".prompts.{len(memory['names']) - 1}"))
        place = prompt.rpartition(".prompts.")[0] + ".encoder."
        first, first_bias, second, second_bias = (
            after[place + leaf] for leaf in ("first", "first_bias", "second", "second_bias")
        )
        made = residual(after[prompt], (first, first_bias, second, second_bias))
        zeros = {f"{place}second": torch.zeros_like(second), f"{place}second_bias": torch.zeros_like(second_bias)}
        return dict(after) | {prompt: made} | zeros


@dataclass(frozen=True)
class L2P(Method):
    """Put in front the prompts of a pool whose keys are nearest to what is read (arXiv:2112.08654, eq. 3 and 5).

    The query q is the frozen model's last state after the prompt, the `chosen` keys of highest cosine to it say which
    soft prompts stand in front, nearest first, and - pull * sum_s cos(q, k_s) is added to the loss. Prompts are shared
    by all experiences: which one a text belongs to is neither asked for nor inferred.

    Differs from the paper: the query is a causal model's last state in place of a class token's. As in the paper's own
    experiments each text chooses for itself, without the optional penalty on prompts that are chosen often. A raw text
    chooses by its first token, which says next to nothing. Soft prompts need a far higher learning rate than adapters.

    Memory: 4 * size * (length + 1) * D bytes of weights, once. A pass of the frozen model over each prompt is added to
    each pass, and two to a step's.

    Args:
        size: M, prompts in the pool.
        length: L_p, tokens of each.
        chosen: N, how many of them stand in front of a text.
        pull: lambda of eq. 5.
    """

    keeps: ClassVar[str] = "nothing"
    computes: ClassVar[str] = "a forward pass over each prompt; chosen tokens before it"

    size: int = 10
    length: int = 5
    chosen: int = 5
    pull: float = 0.5

    def __post_init__(self) -> None:
        """Refuse to choose more than there is."""
        if self.length < 1 or not 1 <= self.chosen <= self.size or self.pull < 0:
            raise ConfigError(f"{self}: length is 1 or more, chosen in 1 to size, pull 0 or more.")

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        """Put the pool there; all of it learns."""
        layer = prompted(model, [self.length] * self.size)
        layer.prompts.requires_grad_(True)
        routed_by(model, _Pool, lambda: _Pool(model, layer, self.chosen)).keys.requires_grad_(True)
        return model

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """The pull of keys towards the queries that chose them, a mean over the batch's documents."""
        router = ctx.model.router
        assert isinstance(router, _Pool)
        cosines, places = router.nearest([r.prompt for r in requests(batch)])
        return -self.pull * cosines.gather(1, places).sum(1).mean()


def nearest(queries: Tensor, keys: Tensor, chosen: int) -> tuple[Tensor, Tensor]:
    """Cosines of queries (n, D) to keys (M, D), arXiv:2112.08654, eq. 3; and the places of the highest.

    Returns:
        (n, M) and (n, chosen), the highest first.
    """
    cosines = normalize(queries, dim=1) @ normalize(keys, dim=1).T
    return cosines, cosines.topk(chosen, dim=1).indices


class _Progressive:
    """Puts a told experience's prompt in front, and those before it."""

    def __init__(self, method: ProgressivePrompts, layer: SoftPrompts) -> None:
        self.method, self.layer, self.switch, self.names = method, layer, Switch(0), list[str]()

    def route(self, requests: Sequence[Request]) -> Routes:
        return Routes(leads=tuple(self._lead(request) for request in requests))

    def _lead(self, request: Request) -> tuple[int, ...]:
        name = request.task or request.origin
        if not name:
            raise MethodError(
                f"{self.method} has to be told which experience a prompt belongs to, and was not. Ask within a "
                "task-incremental stream, or name the experience in what you ask; examples to learn from say it by "
                "their origin."
            )
        if name not in self.names:
            if request.origin:
                raise MethodError(
                    f"{self.method} has a prompt for each of {self.names}, and was given an example of {name} to learn "
                    "from; it needs boundaries between experiences, which a blurry stream has not."
                )
            return ()
        last = self.names.index(name)
        return tuple(token for prompt in range(last, -1, -1) for token in self.layer.ids(prompt))


class _Pool:
    """Puts the prompts with the nearest keys in front."""

    def __init__(self, model: LanguageModel, layer: SoftPrompts, chosen: int) -> None:
        self.model, self.layer, self.chosen, self.switch = model, layer, chosen, Switch(0)
        drawn = 2 * torch.rand(len(layer.prompts), layer.weight.shape[1]) - 1
        self.keys = nn.Parameter(drawn.to(layer.weight.device, layer.prompts[0].dtype))
        layer.register_parameter("keys", self.keys)

    def route(self, requests: Sequence[Request]) -> Routes:
        with torch.no_grad():
            _, places = self.nearest([request.prompt for request in requests])
        return Routes(leads=tuple(tuple(t for p in row for t in self.layer.ids(p)) for row in places.tolist()))

    def nearest(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """(n, size) cosine of each prompt's query to each key, and (n, chosen) the nearest keys, nearest first."""
        return nearest(prompt_states(self.model, prompts).to(self.keys.dtype), self.keys, self.chosen)


class _Residual(nn.Module):
    """E(P) = P + second relu(first P + first_bias) + second_bias.

    Matrices and not layers: adapters that go on all linear layers would go on these too.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(hidden, width), a=5**0.5))
        self.first_bias = nn.Parameter(torch.zeros(hidden))
        self.second, self.second_bias = nn.Parameter(torch.zeros(width, hidden)), nn.Parameter(torch.zeros(width))

    def forward(self, prompt: Tensor) -> Tensor:
        """(length, D) of (length, D)."""
        return residual(prompt, (self.first, self.first_bias, self.second, self.second_bias))


def residual(prompt: Tensor, network: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """E(P) of arXiv:2301.12314, section 3.2: a prompt (length, D) by a network of two matrices, a bias behind each."""
    first, first_bias, second, second_bias = network
    return prompt + (prompt @ first.T + first_bias).relu() @ second.T + second_bias


def _network(layer: SoftPrompts, hidden: int) -> nn.Module:
    like = layer.prompts[0]
    return _Residual(like.shape[1], hidden).to(like.device, like.dtype)
