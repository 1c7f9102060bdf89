"""GDumb: a control that learns from its buffer alone, and starts again each time (Prabhu et al., ECCV 2020)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from everlearn.data.buffers import group_of, rooms
from everlearn.data.sequences import each
from everlearn.errors import ConfigError
from everlearn.examples import Example
from everlearn.method import Context, Method, Tensors
from everlearn.models.language_model import LanguageModel
from everlearn.randomness import seed_of
from everlearn.types import Memory

Balance = Literal["classes", "balanced"]


@dataclass(frozen=True)
class GDumb(Method):
    """Fill a balanced buffer, and train on it alone from the first weights (GDumb, Prabhu et al. 2020, ECCV, alg. 1).

    A sanity control: it does not learn continually at all, so a method that it ties with is not shown to. At the
    beginning of an experience its examples join the buffer, what learns goes back to where it was before the first
    experience, and the recipe's epochs are spent on the buffer.

    Differs from the paper: of each group those examples stay whose seeded hash is smallest, where the paper
    replaces a random one of the largest class as examples arrive. Both give a balanced random sample; this one does
    not depend on the order inside an experience. The start is the pre-trained model, the recipe the learner's.
    Extra compute: none. Memory: the text of `capacity` examples, and a copy of what learns, in its own dtype,
    whatever the number of experiences.

    Args:
        capacity: most examples kept in all.
        selection: "classes" gives each of an experience's labels the same room, by the example's answer, and so to each
            experience without labels; "balanced" gives each experience the same.
    """

    keeps: ClassVar[str] = "capacity examples and 4 P, in all"
    computes: ClassVar[str] = "nothing"

    capacity: int = 1000
    selection: Balance = "classes"

    def __post_init__(self) -> None:
        """Refuse a buffer of nothing, and selections that there are not."""
        if self.capacity < 1 or self.selection not in ("classes", "balanced"):
            raise ConfigError(f"{self}: capacity is 1 or more, selection is classes or balanced.")

    def init(self, model: LanguageModel) -> Memory:
        """An empty buffer, and no start yet."""
        return {"kept": [], "start": {}}

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """The buffer with the new experience's examples in it, and where what learns now has started."""
        here = {name: p.detach().clone() for name, p in ctx.trainable().items() if name not in memory["start"]}
        return {"kept": self._kept(memory, ctx), "start": memory["start"] | here}

    def start(self, memory: Memory, weights: Tensors, ctx: Context) -> Tensors:
        """Where what learns has started, whatever the last version is."""
        return {**weights, **memory["start"]}

    def data(self, memory: Memory, examples: Sequence[Example], ctx: Context) -> Sequence[Example]:
        """The buffer alone."""
        return tuple(Example.from_row(kept["row"]) for kept in memory["kept"])

    def _kept(self, memory: Memory, ctx: Context) -> list[dict[str, object]]:
        """Of each group as many as it has room for, those with the smallest number first."""
        train, name = ctx.experience.train, ctx.experience.name
        labels = ctx.experience.labels if self.selection == "classes" else ()
        groups: dict[str, list[tuple[int, str, int]]] = {}  # number, source, and place: of new ones below zero
        for i, old in enumerate(memory["kept"]):
            groups.setdefault(old["group"], []).append((old["number"], old["row"]["source"], i))
        for i, example in enumerate(train):
            number = seed_of(ctx.seed, "gdumb", example.key)
            groups.setdefault(group_of(example, name, labels), []).append((number, example.source, i - len(train)))
        given = rooms({group: len(them) for group, them in groups.items()}, self.capacity)
        chosen = [(group, *one) for group in sorted(given) for one in sorted(groups[group])[: given[group]]]
        new = iter(each(train, [place + len(train) for *_, place in chosen if place < 0]))
        return [
            {"row": next(new).row() | {"origin": name}, "number": number, "group": group}
            if place < 0
            else memory["kept"][place]
            for group, number, _, place in chosen
        ]
