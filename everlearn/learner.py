"""The package's only training loop: `learn(learner, model, state, experience) -> state`.

A bad experience never touches a good version: the state is a value, and a loss that is not finite raises. Whatever is
random is a function of the learner's seed, of what was seen and of what is next, so that a resumed experience ends in
the same bits as one never stopped.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from everlearn.checkpoint import Position, find, keep
from everlearn.errors import Interrupted, ModelError
from everlearn.examples import Batch, Example, Plan, Step
from everlearn.method import Chain, Context, Method, chain, overrides
from everlearn.models.engine import Engine
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import Optimiser, Recipe
from everlearn.models.parallel import Processes, launched
from everlearn.needs import drawn, require_sharding, require_tokens
from everlearn.randomness import seed_of
from everlearn.reference_weights import References, base_weights
from everlearn.types import Experience, State
from everlearn.validation import measured
from everlearn.watch import Watch


@dataclass(frozen=True)
class Learner:
    """A model, a method, a recipe and a seed: everything that `learn` needs but the experience.

    Args:
        model: a hub name, a directory, a GGUF file, or "embedded".
        method: what fights forgetting; `chain()` is plain sequential fine-tuning.
        recipe: how an experience is trained on.
        seed: of all randomness.
        dtype: of the frozen weights: "float32", "bfloat16", "float64"; None takes what suits the device.
        device: "cpu", "cuda", ...; None takes the best there is.
        engine: how memory and disk are used.
    """

    model: str = "embedded"
    method: Method = field(default_factory=Chain)
    recipe: Recipe = Recipe()
    seed: int = 0
    dtype: str | None = None
    device: str | None = None
    engine: Engine = field(default_factory=Engine)

    def open(self) -> LanguageModel:
        """The untouched base model."""
        return LanguageModel.open(self.model, self.dtype, self.device, self.engine.store())

    def start(self, model: LanguageModel) -> State:
        """The state before anything was learned: the base model and the method's first memory."""
        return State(memory=chain(self.method).init(model))

    def restore(self, model: LanguageModel, state: State) -> LanguageModel:
        """Give a freshly opened base model the shape and the weights of a state."""
        if state.seen:
            chain(self.method).params(state.memory, model)
        model.assign(state.weights)
        return model


def learn(
    learner: Learner,
    model: LanguageModel,
    state: State,
    experience: Experience,
    watch: Watch | None = None,
    processes: Processes | None = None,
) -> State:
    """Learn one experience; the fold's function.

    Args:
        learner: how.
        model: the live model, holding `state`; it holds the new state afterwards.
        state: the version to start from; it stays as it is.
        experience: what to learn.
        watch: checkpoints, progress and logs.
        processes: who learns it together, all calling this function alike; None takes what the launch says.

    Raises:
        MethodError: if the method cannot work as parameters are sharded.
        ModelError: if the loss is not finite; nothing was changed but the live model.
        Interrupted: if `watch.stop` said so; the same call goes on from the checkpoint.
    """
    with torch.random.fork_rng():
        lesson = _Lesson(learner, model, state, experience, watch or Watch(), processes or launched())
        lesson.resume()
        sharded = lesson.processes.sharding == "sharded"
        with learner.engine.serving(lesson.model, learner.recipe.tokens, sharded):
            lesson.train()
            return lesson.finish()


class _Lesson:
    """One experience at work: the mutable inside of `learn`."""

    def __init__(
        self,
        learner: Learner,
        model: LanguageModel,
        state: State,
        experience: Experience,
        watch: Watch,
        processes: Processes,
    ) -> None:
        recipe, self.method, self.watch, self.processes = learner.recipe, chain(learner.method), watch, processes
        require_sharding(self.method, processes.sharding)
        self.hooks, self.recipe, self.state, self.experience = overrides(self.method), recipe, state, experience
        self.base = seed_of(learner.seed, len(state.seen), experience.name)
        require_tokens(experience, recipe)
        plan = Plan(recipe.batch_size, recipe.tokens, experience.length or recipe.length, ramp=recipe.ramp)
        self.at, self.saved, self.best, self.enough = Position(), time.monotonic(), dict[str, Tensor](), False
        self.context = Context(model, experience, plan, learner.seed, len(state.seen), note=self._note)
        torch.manual_seed(self.base)
        model = self.method.params(state.memory, model)
        self.memory = processes.same(self.method.begin(state.memory, self.context))
        self.model = self.method.params(self.memory, model)
        self.begun = self.memory  # a resumed experience draws from what it began with, whatever steps have added since
        self.forward, parameters = processes.prepare(self.model), self._parameters()
        rate = recipe.optimiser.rate(*(sum(p.numel() for p in ps.values()) for ps in (parameters, model.parameters())))
        self.optimiser = Optimiser(recipe.optimiser, parameters, rate, model.embeddings())
        start = self.method.start(self.memory, state.weights, self.context)
        self.optimiser.assign(processes.spread({n: w for n, w in start.items() if n in parameters}))
        self.before = self.optimiser.values() if "merge" in self.hooks else {}
        base = partial(base_weights, learner.open, self.method, self.memory, state.weights)
        wanted = experience.objective.references
        self.references = References(wanted, self.optimiser.values, base, processes.sharding == "sharded")
        self.context = replace(self.context, plan=replace(plan, references=self.references.weights))

    def _parameters(self) -> dict[str, Tensor]:
        if not (parameters := self.model.trainable()):
            raise ModelError(f"nothing learns: {self.method} leaves no parameter of {self.model.name} trainable.")
        return parameters

    def train(self) -> None:
        """All epochs, from where the work is."""
        if not self.at.total and self.recipe.validate != "loss":
            self._validate(-1.0)
        while self.at.epoch < self.recipe.epochs and not self._exhausted():
            seed = seed_of(self.base, "epoch", self.at.epoch)
            plan = replace(self.context.plan, seed=seed, start=self.at.step)
            for step in self.experience.objective.steps(self.model, self._examples(), plan):
                before = self.at.progress
                # Where nothing can be learned nothing moves.
                self._step(step) if step.batches else self._report(step, 0.0, 0.0, 0.0, 0.0)
                self.at.progress, self.at.step, self.at.total = step.progress, self.at.step + 1, self.at.total + 1
                self._validate(before)
                (self.enough,) = self.processes.any(self.watch.enough())
                if step.pausable:
                    self._pause()
                if self._exhausted():
                    break
            self.at.epoch, self.at.step, self.at.progress = self.at.epoch + 1, 0, 0.0

    def _examples(self) -> Sequence[Example]:
        """What this epoch learns from: a method that draws draws anew in each."""
        return drawn(self.method, self.begun, replace(self.context, step=self.at.total - self.at.step))

    def _exhausted(self) -> bool:
        stale = self.recipe.patience is not None and self.at.stale >= self.recipe.patience
        return stale or self.at.fallen or self.enough

    def _note(self, numbers: Mapping[str, float]) -> None:
        self.watch.log({"experience": self.experience.name, "step": self.at.total, "notes": dict(numbers)})

    def _step(self, step: Step) -> None:
        """One optimiser step: the objective's gradient, then penalties, then the sides that change them."""
        started, optimiser = time.monotonic(), self.optimiser
        ctx = replace(self.context, step=self.at.total)
        torch.manual_seed(seed_of(self.base, "step", self.at.total) + self.processes.index)  # dropout differs
        with self.model.learning():
            mine = self.processes.share(step)
            loss = self._backward(mine, lambda batch: self.experience.objective.loss(self.model, batch))
            own = grads = self.processes.total(optimiser.take_grads())
            if "loss" in self.hooks:
                grads = self._penalised(step, mine, own, ctx)
        if "grad" in self.hooks:
            grads = dict(self.method.grad(self.memory, grads, ctx))
        grads, norm = optimiser.clip(grads, spare=bool({"grad", "step"} & self.hooks))
        self._require_finite(loss, norm)
        passed = (self.at.progress + step.progress) / 2
        factor = self.recipe.schedule.factor((self.at.epoch + passed) / self.recipe.epochs, self.context.seen)
        self._move(own, grads, factor, replace(ctx, factor=factor))
        self._report(step, loss, norm, factor, time.monotonic() - started)

    def _penalised(
        self, step: Step, mine: Sequence[tuple[Batch, float]], own: Mapping[str, Tensor], ctx: Context
    ) -> dict[str, Tensor]:
        """The objective's gradient and that of the methods' terms; every process computes those of no batch whole."""
        self._backward(mine, lambda batch: self.method.penalty(self.memory, batch, ctx, True))
        read = self.processes.total(self.optimiser.take_grads(self.processes.count > 1))
        once = self.method.penalty(self.memory, step.batches[0], ctx, False)
        if isinstance(once, Tensor) and once.requires_grad:
            once.backward()  # type: ignore[no-untyped-call]
        added, found = self.optimiser.take_grads(all_names=False), dict(own)
        for name, grad in (*read.items(), *added.items()):
            found[name] = found[name] + grad
        return found

    def _backward(self, mine: Sequence[tuple[Batch, float]], term: Callable[[Batch], Tensor | float]) -> float:
        """Accumulate the gradient of a term over this process's batches, each weighted by its share of the tokens.

        Returns:
            The term's value over the whole step, whichever process computed it.
        """
        total = 0.0
        for batch, share in mine:
            value = self.forward(partial(term, batch))
            if isinstance(value, Tensor) and value.requires_grad:
                (value * share).backward()  # type: ignore[no-untyped-call]
                value = value.detach()
            total += float(value) * share
        return self.processes.add(total)

    def _move(self, own: Mapping[str, Tensor], grads: Mapping[str, Tensor], factor: float, ctx: Context) -> None:
        """Let the optimiser propose an update, the method change it, and the method see it."""
        optimiser, watched = self.optimiser, bool({"update", "step"} & self.hooks)
        before = optimiser.values() if watched else {}
        optimiser.step(grads, factor)
        update = {name: m.detach() - before[name] for name, m in optimiser.masters.items()} if watched else {}
        if "update" in self.hooks:
            optimiser.assign(before)  # the hook sees the model where the movement begins, whatever its precision
            update = dict(self.method.update(self.memory, update, ctx))
            optimiser.assign({name: before[name] + u for name, u in update.items()})
        if "step" in self.hooks:
            self.memory = self.method.step(self.memory, own, update, ctx)
        if self.references.moving:
            self.references.step(optimiser.values())
        optimiser.publish()

    def _require_finite(self, loss: float, norm: float) -> None:
        if not (abs(loss) < float("inf") and norm < float("inf")):
            raise ModelError(
                f"{self.experience.name}, step {self.at.total + 1}: loss {loss}, gradient norm {norm}. "
                "No version was changed; lower the learning rate or look at the rows of this step."
            )

    def _report(self, step: Step, loss: float, norm: float, factor: float, seconds: float) -> None:
        done = (self.at.epoch + step.progress) / self.recipe.epochs
        tokens = sum(int((b.segments > 0).sum()) for b in step.batches)
        self.watch.progress.update(f"learning {self.experience.name}", round(1000 * done), 1000, f"loss {loss:.3f}")
        row: dict[str, Any] = {"experience": self.experience.name, "step": self.at.total + 1, "loss": loss}
        row |= {"norm": norm, "rate": self.optimiser.rate * factor}
        row |= {"tokens": tokens, "seconds": seconds} | ({"notes": notes} if (notes := step.noted()) else {})
        self.watch.log(row)
        for trace in step.traces:
            self.watch.trace({"experience": self.experience.name, "step": self.at.total + 1, **trace})

    def _validate(self, before: float) -> None:
        """Ask the validation rows when the progress crosses the next mark, and remember the best weights."""
        crossed = int(before * self.recipe.validations) < int(self.at.progress * self.recipe.validations)
        wanted = self.recipe.patience is not None or self.recipe.margin is not None
        if not wanted or not (crossed or before < 0) or not len(self.experience.validation):
            return
        found, kind = measured(self.recipe.validate, self.context, self.processes, self.forward), self.recipe.validate
        self.watch.log({"experience": self.experience.name, "step": self.at.total, "validation": found})
        if self.at.judge(found if kind == "loss" else -found, self.recipe.margin):
            self.best = self.optimiser.values()

    def _pause(self) -> None:
        """Keep what is done so far when it is time, and end here when asked to."""
        stop, due = self.processes.any(self.watch.stop(), time.monotonic() - self.saved >= self.watch.every)
        if self.watch.checkpoint and (stop or due):
            work = {"position": vars(self.at), "optimiser": self.optimiser.state(), "memory": self.memory}
            work |= {"best": self.best, "references": self.references.state()}
            keep(self.watch.checkpoint, self.base, work, self.processes)
            self.saved = time.monotonic()
        if stop:
            raise Interrupted(f"stopped in {self.experience.name} after {self.at.total} steps.")

    def resume(self) -> None:
        """Go on from the checkpoint, where there is one of this experience."""
        work = find(self.watch.checkpoint, self.base, self.processes)
        if work is not None:
            self.at, self.memory, self.best = Position(**work["position"]), work["memory"], work["best"]
            self.optimiser.load_state(work["optimiser"])
            self.references.load_state(work["references"])

    def finish(self) -> State:
        """The new version: the trained weights, merged with the old ones where the method says so."""
        self.optimiser.assign(self.best)  # none where nothing was validated
        weights: Mapping[str, Tensor] = self.processes.same(self.processes.whole(self.optimiser.values()))
        ctx = replace(self.context, step=self.at.total, before=self.before, after=weights)
        self.memory = self.processes.same(self.method.end(self.memory, ctx))
        if "merge" in self.hooks:
            weights = self.method.merge(self.memory, self.before, weights, ctx)
            self.model.assign(weights)
        untouched = {n: w for n, w in self.state.weights.items() if n not in weights}
        return State(untouched | dict(weights), self.memory, (*self.state.seen, self.experience.name))
