"""A causal language model with its tokenizer, asked in tokens and examples.

It knows nothing of methods, objectives or streams. Whatever architecture it holds, two short cuts are checked once on
a probe before they are trusted: whether the output embedding applied to the last hidden state gives the model's own
logits (or it scales, caps or changes them), and whether documents packed in one row under a block mask get the logits
that they get alone (or they mix otherwise than by attention); a padded batch is then read in fewer rows too.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn

from everlearn.data.render import render, render_choice, render_prompt
from everlearn.errors import ModelError
from everlearn.examples import Batch, Encoded, Example, Message
from everlearn.models import probes
from everlearn.models.activations import Lower, Store, keeps, serving
from everlearn.models.dense import dense
from everlearn.models.documents import inputs_of
from everlearn.models.layers import Inputs, decoder, starting_from, states_after
from everlearn.models.load import Tokenizer, identity, load
from everlearn.models.logprobs import (
    Said,
    Statistic,
    dense_statistic,
    entropy,
    head_logprobs,
    head_scores,
    head_statistic,
)
from everlearn.models.routes import Router, relaid, routed, unrouted


class LanguageModel:
    """The live model: the one mutable thing that the fold carries along.

    Args:
        module: a Hugging Face causal language model.
        tokenizer: its tokenizer, padding on the right.
        name: where it came from: a hub name, a directory, a GGUF file, or "embedded".
        store: where states below the lowest layer that learns are kept; see `keeping`. None keeps none.

    `router` decides for each document which adapters act and what stands before it; None where nothing is routed.
    """

    def __init__(self, module: nn.Module, tokenizer: Tokenizer, name: str, store: Store | None = None) -> None:
        self.module = module
        self.tokenizer = tokenizer
        self.name = name
        self.store = store
        self._lower: Lower | None = None
        self._compact = True
        self.router: Router | None = None

    @classmethod
    def open(
        cls, name: str = "embedded", dtype: str | None = None, device: str | None = None, store: Store | None = None
    ) -> "LanguageModel":
        """Load a model by hub name, directory, GGUF file, or "embedded".

        Raises:
            ModelError: if it cannot be had; the message says what to do.
        """
        module, tokenizer = load(name, dtype, device)
        return cls(module.eval(), tokenizer, name, store)

    @property
    def identity(self) -> str:
        """A stable name for the base weights, whatever the path they were read from."""
        return identity(self.name)

    @property
    def device(self) -> torch.device:
        """Where the embedding lies."""
        return next(self._embedding.parameters()).device

    def encode(self, example: Example) -> Encoded:
        """The example's tokens; targets are the assistant's turns, or all of a document but its first token."""
        return render(self.tokenizer, example)

    def encode_prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Tokens up to where the assistant begins to answer."""
        return render_prompt(self.tokenizer, messages)

    def encode_choice(self, prompt: Sequence[Message], candidate: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens of a prompt, and of one answer to it with its end of turn."""
        return render_choice(self.tokenizer, prompt, candidate)

    def trainable(self) -> dict[str, Tensor]:
        """The parameters that learn, by name."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    def parameters(self) -> dict[str, Tensor]:
        """All parameters, by name."""
        return dict(self.module.named_parameters())

    def embeddings(self) -> frozenset[str]:
        """Names of the parameters of token embedding and output head."""
        found = {id(p) for layer in (self._embedding, self._head) for p in layer.parameters()}
        return frozenset(name for name, p in self.module.named_parameters() if id(p) in found)

    def assign(self, weights: Mapping[str, Tensor]) -> None:
        """Copy values into parameters, cast to each parameter's dtype and device.

        Raises:
            ModelError: if a name or a shape does not fit this model.
        """
        mine = self.parameters()
        for name, value in weights.items():
            if name not in mine or mine[name].shape != value.shape:
                found = f"has shape {tuple(mine[name].shape)}" if name in mine else "is not there"
                raise ModelError(
                    f"weights for {name} of shape {tuple(value.shape)} do not fit {self.name}, where it {found}. "
                    "They belong to another model or another method; use those they were made with."
                )
            with torch.no_grad():
                mine[name].copy_(value)

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Training mode inside (dropout acts), evaluation mode after."""
        self.module.train()
        try:
            yield
        finally:
            self.module.eval()

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Inside, what is below the lowest layer that learns stands still, and reads each text once.

        Later passes over the same text start from its states in `store`. Nothing changes without one, where the lowest
        layer learns or the architecture does not allow it, and where a router may reach what is below: see `keeps`.
        """
        if self._lower is not None or self.store is None or not keeps(self.module, self.router is not None):
            yield
            return
        self._lower = Lower(self.module, self.store)
        try:
            yield
        finally:
            self._lower = None

    def states(self, batch: Batch, count: int) -> Tensor:
        """(B, T, D) what the lowest `count` layers make of a batch; no gradient."""
        with torch.no_grad():
            return states_after(self.module, count, self._inputs(batch))

    @contextmanager
    def starting(self, count: int, states: Tensor) -> Iterator[None]:
        """Inside, a pass begins above the lowest `count` layers with (B, T, D) states, whatever tokens it is given."""
        assert self.splits_head in (True, False)  # probed now, since a probe is a pass of its own
        with self.whole(), self.padded(), starting_from(self.module, count, states):
            yield

    @contextmanager
    def whole(self, seen: Iterable[nn.Module] | None = None) -> Iterator[None]:
        """Inside, passes compute the layers that are `seen`, all of them unless told, whatever is kept of them."""
        lower = self._lower
        self._lower = lower if lower and seen is not None and not lower.spares(seen) else None
        try:
            yield
        finally:
            self._lower = lower

    @contextmanager
    def padded(self) -> Iterator[None]:
        """Inside, layers read each batch as it is, padding and all: for who looks at what they read."""
        compact, self._compact = self._compact, False
        try:
            yield
        finally:
            self._compact = compact

    def token_logprobs(self, batch: Batch, targets: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Log-probability in nats of each supervised token in row-major order, (N,), differentiable.

        Args:
            batch: what the model reads.
            targets: (N,) other tokens to score at the same places, instead of the batch's own.
            temperature: logits are divided by it.
        """
        before, own = self._asked(batch)
        targets = own if targets is None else targets
        if self.splits_head:
            head = (self._head.weight, self._head.bias)
            return head_logprobs(self.hidden(batch)[before], *head, targets, temperature)
        logits = self._logits(batch)[before].float() / temperature
        return logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]

    def token_logits(self, batch: Batch) -> Tensor:
        """Logit of each supervised token in row-major order, (N,), differentiable."""
        before, targets = self._asked(batch)
        if not self.splits_head:
            return self._logits(batch)[before].gather(-1, targets[:, None])[:, 0]
        found = (self.hidden(batch)[before] * self._head.weight[targets]).sum(-1)
        return found if self._head.bias is None else found + self._head.bias[targets]

    def token_entropies(self, batch: Batch) -> Tensor:
        """Entropy in nats of the distribution over each supervised token, (N,), differentiable."""
        return self.token_statistic(batch, entropy)

    def token_statistic(self, batch: Batch, statistic: Statistic) -> Tensor:
        """A number made of the logits over each supervised token, (N,), differentiable; see `models.logprobs`."""
        before = self._asked(batch)[0]
        if self.splits_head:
            return head_statistic(self.hidden(batch)[before], self._head.weight, self._head.bias, statistic)
        logits = self._logits(batch)[before]
        return dense_statistic(logits.to(torch.promote_types(logits.dtype, torch.float32)), statistic)

    def said(self, batch: Batch, before: Tensor | None = None) -> Said:
        """What the model says over each supervised token, or behind the tokens marked in (B, T); no gradient."""
        before = self._asked(batch)[0] if before is None else before.to(self.device)
        with torch.no_grad():
            if self.splits_head:
                return Said(self.hidden(batch)[before], self._head.weight, self._head.bias)
            logits = self._logits(batch)[before]
            return Said(logits.to(torch.promote_types(logits.dtype, torch.float32)))

    def sample_targets(self, batch: Batch, rng: torch.Generator) -> Tensor:
        """A token drawn from the model's own distribution at the place of each supervised token, (N,)."""
        logits = self.said(batch).logits(slice(None)).float()
        return torch.multinomial(logits.softmax(-1).cpu(), 1, generator=rng)[:, 0].to(self.device)

    def token_scores(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """As `token_logprobs`, and whether each token is the most probable one; both (N,), no gradient."""
        before, targets = self._asked(batch)
        with torch.inference_mode():
            if self.splits_head:
                return head_scores(self.hidden(batch)[before], self._head.weight, self._head.bias, targets)
            logits = self._logits(batch)[before].float()
            return logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0], logits.argmax(-1) == targets

    def hidden(self, batch: Batch) -> Tensor:
        """Last hidden states, (B, T, D), after the final norm; at padding they mean nothing."""
        may = self._compact and self.packs  # probed before anything is routed
        return self._read(batch, lambda given: decoder(self.module)(**given, use_cache=False).last_hidden_state, may)

    @cached_property
    def splits_head(self) -> bool:
        """Whether the output embedding on the last hidden state gives exactly the model's logits."""
        with self._probing():
            return probes.splits_head(self._head, self.hidden, self._logits, self._embedding.num_embeddings)

    @cached_property
    def packs(self) -> bool:
        """Whether documents packed in one row get the hidden states that they get alone."""
        with self._probing():
            return probes.packs(self.hidden, self._embedding.num_embeddings)

    @contextmanager
    def _probing(self) -> Iterator[None]:
        """Without gradients and dropout, whatever mode the model is in, and unrouted."""
        learning = self.module.training
        self.module.eval()
        with torch.inference_mode(), unrouted(self), self.padded():
            yield
        self.module.train(learning)

    @property
    def _embedding(self) -> nn.Embedding:
        found: nn.Embedding = self.module.get_input_embeddings()  # type: ignore[operator]
        return found

    @property
    def _head(self) -> nn.Linear:
        found: nn.Linear = self.module.get_output_embeddings()  # type: ignore[operator]
        return found

    def _asked(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Where supervised tokens are predicted, (B, T) bool one to the left of them, and which they are, (N,)."""
        where = batch.supervised.to(self.device)
        return torch.roll(where, -1, dims=1), batch.tokens.to(self.device)[where]

    def _logits(self, batch: Batch) -> Tensor:
        return self._read(batch, lambda given: self.module(**given, use_cache=False).logits)

    def _read(self, batch: Batch, forward: Callable[[Inputs], Tensor], may: bool = False) -> Tensor:
        """(B, T, ...) what a forward pass makes of the batch's tokens, each document by its own route.

        Where it `may` be, a batch that is padded much is read in fewer rows, see `models.dense`.
        """
        if self.router is None:
            return self._pass(batch, forward, may)
        with routed(self.router, batch, self.device) as led:
            return led.own(self._pass(led.batch, forward, may))

    def _pass(self, batch: Batch, forward: Callable[[Inputs], Tensor], may: bool) -> Tensor:
        laid = dense(batch) if may else None
        with serving(self._lower, batch, self._inputs, laid):
            if laid is None:
                return forward(self._inputs(batch))
            with relaid(self.router, laid.laid):
                return laid.own(forward(self._inputs(laid.batch, laid.units)))

    def _inputs(self, batch: Batch, units: Tensor | None = None) -> Inputs:
        return inputs_of(batch, self.module, next(self._embedding.parameters()), units)
