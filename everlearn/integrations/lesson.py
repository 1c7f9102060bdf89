"""One experience at work in somebody else's training loop: what `learn` does around its own steps, in the same order.

The loop keeps its batches, its loss, its optimiser and its learning rate. A lesson is told of each batch once the
gradient of the loop's own loss is there (`saw`), of a whole step before it is clipped (`collect`), and of the
optimiser's step (`before_move`, `after_move`); `finish` gives the new state.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from everlearn.errors import MethodError, ModelError
from everlearn.examples import Batch, Example, Plan
from everlearn.learner import Learner
from everlearn.method import Context, chain, overrides
from everlearn.models.adapted import HALF
from everlearn.models.language_model import LanguageModel
from everlearn.models.parallel import launched, total_norm
from everlearn.needs import require_no_plan
from everlearn.randomness import seed_of
from everlearn.reference_weights import References, base_weights
from everlearn.types import Experience, State

Numbers = Mapping[str, float]


class Lesson:
    """An experience about to be learned from a state: the method has begun, and the model has its shape and weights.

    Of the learner's recipe only `batch_size`, `tokens` and `length` are read: they say how the batches are cut that
    methods make for themselves, in `begin` and `end`. The loop's own settings decide the training.

    The method's `data` is asked once, as for the first epoch: a loop of several epochs goes through the same rows
    again, where `learn` asks anew in each, so that what is drawn (replayed rows, say) is drawn anew.

    Args:
        learner: the method and the seed.
        model: the live model, holding `state`; it holds the new state after `finish`.
        state: the version to start from; it stays as it is.
        experience: what to learn; its objective is what methods measure by in `begin` and `end`. Versions that it looks
            at (`references`) are held as in `learn`.

    `examples` are those to train on, replayed ones among them. `notes` holds what methods have noted for people, in
    order; whoever shows it takes it away.

    Raises:
        ConfigError: if its examples are a mix, or the recipe has a ramp: the loop would follow neither.
        MethodError: if the method routes prompts, which happens in passes of our own alone, or parameters are sharded.
        ModelError: if the model is one of PEFT's wrappers, nothing learns, or something in half precision does.
    """

    def __init__(self, learner: Learner, model: LanguageModel, state: State, experience: Experience) -> None:
        _require_bare(model)
        require_no_plan(experience, learner.recipe)
        recipe, self.method, self.state = learner.recipe, chain(learner.method), state
        self.hooks, self.experience, self.step, self.finished = overrides(self.method), experience, 0, False
        self.processes = launched()
        if self.processes.sharding == "sharded":
            raise MethodError(
                f"{self.method} cannot be served inside another library's loop under FSDP, where no process has "
                "a whole gradient. Launch data parallel, or learn with `everlearn.learn`, which takes FSDP2."
            )
        self._before, self._own, self._terms = dict[str, Tensor](), dict[str, Tensor](), dict[str, Tensor]()
        plan, self.notes = Plan(recipe.batch_size, recipe.tokens, experience.length or recipe.length), list[Numbers]()
        self.context = Context(model, experience, plan, learner.seed, len(state.seen), note=self.notes.append)
        model.module.eval()  # a trainer that was given up leaves it learning
        with torch.random.fork_rng():
            torch.manual_seed(seed_of(learner.seed, len(state.seen), experience.name))
            model = self.method.params(state.memory, model)
            self.memory = self.processes.same(self.method.begin(state.memory, self.context))
            self.model = self.method.params(self.memory, model)
            self.parameters = self._parameters()
            self.processes.prepare(self.model)
            start = self.method.start(self.memory, state.weights, self.context)
            self._assign({name: weight for name, weight in start.items() if name in self.parameters})
            base = partial(base_weights, learner.open, self.method, self.memory, state.weights)
            self.references = References(experience.objective.references, self._values, base, False)
            self.context = replace(self.context, plan=replace(plan, references=self.references.weights))
            self.examples: Sequence[Example] = self.method.data(self.memory, experience.train, self.context)
        self._before_experience = self._values() if "merge" in self.hooks else {}
        self._first: Batch | None = None
        self._weight = 0.0

    def _parameters(self) -> dict[str, Tensor]:
        found = self.model.trainable()
        if self.model.router is not None:
            raise MethodError(
                f"{self.method} routes each prompt to its own adapters or soft prompts, and another library's forward "
                "passes know no routes. Learn this experience with `everlearn.learn`, or take a method without routes."
            )
        if not found:
            raise ModelError(f"nothing learns: {self.method} leaves no parameter of {self.model.name} trainable.")
        half = [name for name, p in found.items() if p.dtype in HALF]
        if half:
            raise ModelError(
                f"{half[0]} learns in {found[half[0]].dtype}, where small steps round to nothing and a projected "
                'update is not projected. Open the model with dtype="float32", and let the trainer compute in bfloat16.'
            )
        return found

    def saw(self, batch: Batch) -> None:
        """Take note of a batch of the step under way; the gradient of the loop's own loss on it is in `.grad` now.

        The gradient of the methods' terms on it is kept apart, weighted by the batch's supervised tokens.
        """
        if "loss" not in self.hooks:
            return
        self._first = self._first or batch
        self._weight += batch.weight
        if batch.weight:
            found = self._gradient(self.method.penalty(self.memory, batch, self._now(), True), batch.weight)
            self._terms |= {name: self._terms[name] + g if name in self._terms else g for name, g in found.items()}

    def collect(self) -> None:
        """All batches of a step were seen: put into `.grad` what the optimiser is to have, not yet clipped.

        Raises:
            ModelError: if it is not finite; the state that the experience began with is untouched.
        """
        own = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in self.parameters.items()}
        if "step" in self.hooks:
            self._own = {name: g.clone() for name, g in own.items()}  # clipping changes `.grad` in place
        grads: Mapping[str, Tensor] = self._penalised(own) if "loss" in self.hooks else own
        if "grad" in self.hooks:
            with self._still():
                found = self.method.grad(self.memory, grads, self._now())
            grads = {name: g.detach().clone() for name, g in found.items()}
        norm = total_norm(grads)
        if not norm < float("inf"):
            raise ModelError(
                f"{self.experience.name}, step {self.step + 1}: gradient norm {norm}. No version was changed; lower "
                "the learning rate or look at the rows of this step."
            )
        if {"loss", "grad"} & self.hooks:
            for name, parameter in self.parameters.items():
                parameter.grad = grads[name]

    def before_move(self) -> None:
        """The optimiser is about to step."""
        if {"update", "step"} & self.hooks:
            self._before = self._values()

    def after_move(self) -> None:
        """The optimiser has stepped: let the method change how far that went, and see it."""
        if {"update", "step"} & self.hooks:
            update = {name: p.detach() - self._before[name] for name, p in self.parameters.items()}
            with self._still():
                if "update" in self.hooks:
                    self._assign(self._before)  # the hook sees the model where the movement begins
                    update = dict(self.method.update(self.memory, update, self._now()))
                    self._assign({name: self._before[name] + u for name, u in update.items()})
                if "step" in self.hooks:
                    self.memory = self.method.step(self.memory, self._own, update, self._now())
        if self.references.moving:
            self.references.step(self._values())
        self.step += 1
        self._before, self._own, self._terms = {}, {}, {}
        self._first, self._weight = None, 0.0

    def finish(self) -> State:
        """The new version: the trained weights, merged with the old ones where the method says so.

        Raises:
            MethodError: if it was finished before; its state was given then.
        """
        if self.finished:
            raise MethodError(f"{self.experience.name} was finished, and a method's `end` runs once; keep its state.")
        self.finished = True
        self.model.module.eval()
        weights: Mapping[str, Tensor] = self._values()
        ctx = replace(self._now(), before=self._before_experience, after=weights)
        with torch.random.fork_rng():
            self.memory = self.processes.same(self.method.end(self.memory, ctx))
            if "merge" in self.hooks:
                weights = self.method.merge(self.memory, self._before_experience, weights, ctx)
                self.model.assign(weights)
        untouched = {n: w for n, w in self.state.weights.items() if n not in weights}
        return State(untouched | dict(weights), self.memory, (*self.state.seen, self.experience.name))

    def _now(self) -> Context:
        return replace(self.context, step=self.step)

    def _penalised(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loop's gradient, the mean over the step's tokens of the methods' terms, and once what reads no batch."""
        asked = own if self.processes.count > 1 else self._terms  # all processes sum the same names
        read = self.processes.total({name: self._terms.get(name, torch.zeros_like(own[name])) for name in asked})
        weight = self.processes.add(self._weight) or 1.0
        once = dict[str, Tensor]()
        if self._first is not None:
            once = self._gradient(self.method.penalty(self.memory, self._first, self._now(), False), 1.0)
        grads = dict(own) | {name: own[name] + g / weight for name, g in read.items()}
        return grads | {name: grads[name] + g for name, g in once.items()}

    def _gradient(self, term: Tensor | float, weight: float) -> dict[str, Tensor]:
        """The weighted gradient of a term, by name where it has one."""
        if not isinstance(term, Tensor) or not term.requires_grad:
            return {}
        found = torch.autograd.grad(term * weight, list(self.parameters.values()), allow_unused=True)
        return {name: g for name, g in zip(self.parameters, found, strict=True) if g is not None}

    @contextmanager
    def _still(self) -> Iterator[None]:
        """Evaluation mode inside, as in our own loop; the loop's mode after."""
        learning = self.model.module.training
        self.model.module.eval()
        try:
            yield
        finally:
            self.model.module.train(learning)

    def _values(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.parameters.items()}

    def _assign(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in values.items():
                self.parameters[name].copy_(value)


def _require_bare(model: LanguageModel) -> None:
    if getattr(model.module, "peft_config", None) is not None and getattr(model.module, "get_base_model", None):
        raise ModelError(
            f"{model.name} is wrapped by PEFT. Give the model inside, which holds the adapters too: "
            "LanguageModel(wrapped.get_base_model(), tokenizer, name)."
        )
