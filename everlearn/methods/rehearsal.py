"""Rehearsal of what the model writes itself: no example of an earlier experience is kept.

What a model writes is not always an example. What cannot be read as one, did not end, is longer than a row, or answers
with none of its experience's labels is left out and counted; the counts stand in the method's memory.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, permutations
from typing import Any, ClassVar

import torch
from torch import Tensor

from everlearn.data.buffers import grouped_keep, mixed, rooms, rows_kept
from everlearn.data.selection import proportional
from everlearn.data.sequences import Joined, each
from everlearn.data.transcripts import read, survives, written
from everlearn.errors import ConfigError
from everlearn.examples import Batch, Example, Message
from everlearn.method import Context, Method
from everlearn.methods.replay import replayed
from everlearn.models.features import prompt_features
from everlearn.models.language_model import LanguageModel
from everlearn.models.recall import recalled
from everlearn.models.sampling import Completion, Sampling, sample
from everlearn.randomness import integers, seed_of
from everlearn.types import Experience, Memory

SHOWN = 2
"""Demonstrations in a prompt of SSR."""


@dataclass(frozen=True)
class LAMOL(Method):
    """Learn to write examples too, and write some of the past before each new experience (LAMOL, arXiv:1909.03329).

    Adds modelling times the loss of writing each example of the batch when asked for one of its experience by name
    (L = L_QA + lambda L_LM). Before an experience of n examples, the last version writes ratio n examples, as many of
    each earlier experience, and learns from them as from the new ones.

    Differs from the paper: an experience is asked for in a user's turn, "write: NAME", where the paper has a new token;
    tokens are drawn from the nucleus, where the paper draws from the 20 most probable; what is not a whole example is
    left out (see the module). An example that would not be read back the same, or not fit into a row with the request,
    is not learned to be written. Extra compute: a second forward and backward pass for every example, and ratio n
    completions before each experience. Memory: names, labels and counts of the experiences; the text of ratio n
    examples while an experience is learned, and none after.

    Args:
        ratio: gamma, examples written for each new one.
        modelling: lambda, the weight of learning to write.
        temperature: of writing.
        top_p: the probability of the nucleus that is drawn from; None draws from all tokens.
        limit: most tokens of an example that is written.
    """

    keeps: ClassVar[str] = "counts"
    computes: ClassVar[str] = "a second gradient of each example; sampling, at the beginning"
    forgets_apart: ClassVar[str] = "it learns what it has written itself, be it wrong"

    ratio: float = 0.2
    modelling: float = 0.25
    temperature: float = 1.0
    top_p: float | None = 0.9
    limit: int = 256

    def __post_init__(self) -> None:
        """Refuse numbers that are negative, and samplings that there are not."""
        if not 0 <= self.ratio < float("inf") or not 0 <= self.modelling < float("inf"):
            raise ConfigError(f"{self}: ratio and modelling are 0 or more, and finite.")
        Sampling(self.temperature, self.limit, self.top_p)

    def init(self, model: LanguageModel) -> Memory:
        """Nothing learned, nothing written."""
        return {"known": {}, "rows": [], "counts": {}}

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """What the last version writes of the earlier experiences."""
        rows, counts = [], dict(memory["counts"])
        number = round(self.ratio * len(ctx.experience.train) / max(len(memory["known"]), 1))
        for name, about in memory["known"].items() if number else ():
            sampling = Sampling(self.temperature, self.limit, self.top_p, _seed(ctx, "write"))
            request = ctx.model.encode_prompt((_request(name),))
            (drawn,) = sample(ctx.model, [request], sampling, number)
            found = [_read(c, about, ctx) for c in drawn]
            kept = [e.row() | {"origin": name} for e in found if e is not None]
            counts[name] = _sum(counts.get(name, {}), {"asked": number, "kept": len(kept)})
            rows += kept
        return memory | {"rows": rows, "counts": counts}

    def data(self, memory: Memory, examples: Sequence[Example], ctx: Context) -> Sequence[Example]:
        """The new examples and those that were written."""
        written_ones = tuple(Example.from_row(row) for row in memory["rows"])
        return Joined((examples, written_ones)) if written_ones else examples

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """The weighted loss of writing the batch's examples."""
        taught = [self._taught(e, memory, ctx) for e in {e.key: e for e in batch.examples}.values()]
        lessons = [lesson for lesson in taught if lesson is not None]
        if not lessons or not self.modelling:
            return 0.0
        batches = list(ctx.batches(lessons))
        weight = sum(b.weight for b in batches)
        return self.modelling * torch.stack([ctx.loss(b) * (b.weight / weight) for b in batches]).sum()

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The experience is known by its name from now on; what was written for it is gone."""
        return memory | {"known": memory["known"] | {ctx.experience.name: _about(ctx.experience)}, "rows": []}

    def _taught(self, example: Example, memory: Memory, ctx: Context) -> Example | None:
        """The lesson of writing an example, or None where it cannot be had."""
        if not survives(example):
            return None
        name = example.origin if example.origin in memory["known"] else ctx.experience.name
        lesson = Example(messages=(_request(name), Message("assistant", written(example))))
        return lesson if len(ctx.model.encode(lesson).tokens) <= ctx.plan.length else None


@dataclass(frozen=True)
class SSR(Method):
    """Rehearse instances that the base model writes and the latest version answers (SSR, arXiv:2403.01244).

    At the end of an experience the base model, the weights that learn taken back to where they started, reads two of a
    few demonstrations as plain text and goes on with an instance like them. Instances are chosen by k-means on the
    features of their prompts, each cluster in proportion to its size and what is nearest to its centre first; then the
    new version answers them itself, greedily. What is kept is replayed as by `Replay`.

    After the authors' code: the number of demonstrations, of clusters, the temperature and top_p are its defaults, and
    instances are chosen before they are answered. Reconstruction in: features (mean last hidden states of the new
    version, where the code has SimCSE's), the plain text of a demonstration ("user: ...", "assistant: ..."), the first
    whole instance of a continuation alone, answers made once, at the end of an instance's own experience. A document
    has no answer and stays as it was written. Extra compute: `pool` completions of two demonstrations, and one for each
    instance that is kept, at the end of each experience. Memory: the text of `capacity` instances, counts, and a copy
    of what learns, in its own dtype, whatever the number of experiences.

    Args:
        fraction: share of rehearsed instances among all examples trained on, in [0, 1).
        capacity: most instances kept in all; each experience has the same room.
        pool: instances that are asked for at the end of an experience.
        demonstrations: examples that are shown, two at a time, of at most half a row each.
        clusters: of k-means.
        temperature: of writing.
        top_p: the probability of the nucleus that is drawn from; None draws from all tokens.
        limit: most tokens that are written, of an instance and of an answer.
    """

    keeps: ClassVar[str] = "capacity examples and 4 P, in all"
    computes: ClassVar[str] = "sampling of a pool, at the end"

    fraction: float = 0.1
    capacity: int = 1000
    pool: int = 400
    demonstrations: int = 20
    clusters: int = 20
    temperature: float = 0.9
    top_p: float | None = 0.6
    limit: int = 256

    def __post_init__(self) -> None:
        """Refuse a share that leaves no room for new examples, counts below one, and samplings that there are not."""
        if not 0 <= self.fraction < 1 or min(self.capacity, self.pool, self.demonstrations, self.clusters) < 1:
            raise ConfigError(
                f"{self}: fraction is in [0, 1), capacity, pool, demonstrations and clusters are 1 or more."
            )
        Sampling(self.temperature, self.limit, self.top_p)

    def init(self, model: LanguageModel) -> Memory:
        """Nothing written, and no start yet."""
        return {"rows": [], "groups": [], "start": {}, "counts": {}}

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """Where what learns started, taken once."""
        here = {name: p.detach().clone() for name, p in ctx.trainable().items() if name not in memory["start"]}
        return memory | {"start": memory["start"] | here}

    def data(self, memory: Memory, examples: Sequence[Example], ctx: Context) -> Sequence[Example]:
        """The new examples, and as many instances as the fraction asks for."""
        count = replayed(self.fraction, "constant", len(examples), ctx.seen)
        return mixed(examples, memory["rows"], count, ctx.rng("replay"))

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The instances of the experience beside the earlier ones."""
        name, about = ctx.experience.name, _about(ctx.experience)
        asked, instances = self._instances(memory, about, ctx)
        sizes = Counter(memory["groups"]) + Counter({name: len(instances)})
        room = rooms(sizes, self.capacity).get(name, 0)
        chosen: list[Example] = []
        if instances and room:
            features = prompt_features(ctx.model, instances, ctx.plan.length, ctx.plan.tokens)
            chosen = [instances[i] for i in proportional(features, self.clusters, room)]
        answered = [e for e in self._answered(chosen, about, ctx) if e is not None]
        kept = grouped_keep(memory["groups"], [name] * len(answered), self.capacity, lambda them, room: them[:room])
        here = {"asked": asked, "readable": len(instances), "chosen": len(chosen), "kept": len(answered)}
        return memory | {
            "rows": rows_kept(kept, memory["rows"], answered, name),
            "groups": [memory["groups"][i] if old else name for old, i in kept],
            "counts": memory["counts"] | {name: _sum(memory["counts"].get(name, {}), here)},
        }

    def _instances(self, memory: Memory, about: Mapping[str, Any], ctx: Context) -> tuple[int, list[Example]]:
        """How many the base model was asked for, and those among them that can be read, each prompt once."""
        texts = [written(e) for e in islice(_demonstrations(ctx), self.demonstrations)]
        pairs = list(permutations(range(len(texts)), min(SHOWN, len(texts)))) if texts else []
        order = torch.randperm(len(pairs), generator=ctx.rng("shown")).tolist()
        mark = "" if about["document"] or not texts else texts[0].partition(":")[0] + ":"
        found: dict[str, Example] = {}
        parameters = ctx.trainable()
        with recalled(ctx.model, {n: p for n, p in memory["start"].items() if n in parameters}):
            for start in range(0, self.pool if pairs else 0, len(pairs) or 1):  # all pairs, then again with other draws
                shown = ["\n\n".join([*(texts[i] for i in pairs[j]), mark]) for j in order[: self.pool - start]]
                prompts = [ctx.model.encode(Example(text=text)).tokens[:-1] for text in shown]  # without the end token
                sampling = Sampling(self.temperature, self.limit, self.top_p, _seed(ctx, "instances", start))
                for (drawn,) in sample(ctx.model, prompts, sampling):
                    instance = _first(mark, drawn, about, ctx)
                    if instance is not None:
                        found.setdefault(written(replace(instance, messages=instance.prompt)), instance)
        return self.pool if pairs else 0, list(found.values())

    def _answered(self, chosen: Sequence[Example], about: Mapping[str, Any], ctx: Context) -> list[Example | None]:
        """The instances with the live model's own answers; None for what it does not answer."""
        if about["document"]:
            return list(chosen)
        prompts = [ctx.model.encode_prompt(e.prompt) for e in chosen]
        drawn = sample(ctx.model, prompts, Sampling(0.0, self.limit)) if chosen else []
        return [
            _fitting(replace(e, messages=(*e.prompt, Message("assistant", c.text.strip()))), about, ctx)
            if c.finished and c.text.strip()
            else None
            for e, (c,) in zip(chosen, drawn, strict=True)
        ]


def _request(name: str) -> Message:
    return Message("user", f"write: {name}")


def _about(experience: Experience) -> dict[str, Any]:
    """What has to be known of an experience to read what is written of it."""
    first = next(iter(experience.train), None)
    return {"document": bool(first and first.text), "labels": list(experience.labels)}


def _read(completion: Completion, about: Mapping[str, Any], ctx: Context) -> Example | None:
    if not completion.finished:
        return None
    return _fitting(read(completion.text, about["document"]), about, ctx)


def _first(mark: str, completion: Completion, about: Mapping[str, Any], ctx: Context) -> Example | None:
    """The first instance that a text goes on with, if it is whole; its answer is another's matter."""
    text, more, _ = (mark + completion.text).partition("\n\n")
    example = read(text, about["document"]) if more or completion.finished else None
    return None if example is None else _fitting(example, {**about, "labels": []}, ctx)


def _fitting(example: Example | None, about: Mapping[str, Any], ctx: Context) -> Example | None:
    """The example, unless it has an answer that is none of the labels, or is longer than a row."""
    if example is None or (about["labels"] and example.response not in about["labels"]):
        return None
    return example if example.text or len(ctx.model.encode(example).tokens) <= ctx.plan.length else None


def _demonstrations(ctx: Context) -> Iterator[Example]:
    """Examples in random order that survive as plain text without blank lines, of at most half a row each."""
    train = ctx.experience.train
    for example in each(train, integers(torch.randperm(len(train), generator=ctx.rng("demonstrations")))):
        text = written(example)
        short = len(ctx.model.encode(example).tokens) <= ctx.plan.length // SHOWN
        if survives(example) and "\n\n" not in text and short:
            yield example


def _seed(ctx: Context, *purpose: str | int) -> int:
    return seed_of(ctx.seed, ctx.seen, ctx.experience.name, *purpose, *ctx.place)


def _sum(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {name: a.get(name, 0) + b[name] for name in b}
