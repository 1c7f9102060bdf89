"""Which examples a bounded buffer keeps, decided on indices, so that only what is kept is ever read."""

from collections.abc import Callable, Mapping, Sequence

import torch

from everlearn.data.mixes import Mix
from everlearn.data.sequences import Joined, View, each
from everlearn.examples import Example
from everlearn.randomness import integers

Kept = list[tuple[bool, int]]
"""For each slot of the buffer: whether it keeps an old row, and the index of the old row or of the new example."""

Choose = Callable[[Kept, int], Kept]
"""Of a group's members, the given number, those first that are to stay longest."""

Rows = Sequence[Mapping[str, object]]
"""Examples as plain data, see `Example.row`."""


def reservoir_keep(held: int, seen: int, offered: int, capacity: int, rng: torch.Generator) -> Kept:
    """Reservoir sampling (Vitter 1985, algorithm R): every example ever offered is kept with the same probability.

    Args:
        held: rows in the buffer now.
        seen: examples offered before, in all experiences.
        offered: examples offered now.
        capacity: most rows to keep.
        rng: random source.
    """
    room = max(0, capacity - held)
    slots: Kept = [(True, i) for i in range(held)] + [(False, i) for i in range(min(room, offered))]
    counts = torch.arange(seen + 1, seen + offered + 1)
    draws = (torch.rand(offered, generator=rng, dtype=torch.float64) * counts).long()
    for index in (draws[room:] < capacity).nonzero().flatten().tolist():
        slots[int(draws[room + index])] = (False, room + index)
    return slots


def balanced_keep(origins: Sequence[str], name: str, offered: int, capacity: int, rng: torch.Generator) -> Kept:
    """Equal room for each experience: a uniform sample of the new one, and of what is held of each old one.

    Args:
        origins: the experience of each row in the buffer.
        name: the new experience.
        offered: examples offered now.
        capacity: most rows to keep.
        rng: random source.
    """
    held: dict[str, list[int]] = {}
    for i, origin in enumerate(origins):
        held.setdefault(origin, []).append(i)
    held.setdefault(name, [])
    sizes = {origin: len(rows) + (offered if origin == name else 0) for origin, rows in held.items()}
    kept: Kept = []
    for origin, room in rooms(sizes, capacity).items():
        old = held[origin]
        order = torch.randperm(sizes[origin], generator=rng)[:room].sort().values
        kept += [(True, old[i]) if i < len(old) else (False, i - len(old)) for i in order.tolist()]
    return kept


def rooms(sizes: Mapping[str, int], capacity: int) -> dict[str, int]:
    """Equal room for each group, the smallest first; what they do not need goes to the others.

    Args:
        sizes: members of each group.
        capacity: of all groups together.
    """
    given: dict[str, int] = {}
    for left, group in zip(range(len(sizes), 0, -1), sorted(sizes, key=sizes.__getitem__), strict=True):
        given[group] = min(sizes[group], (capacity - sum(given.values())) // left)
    return given


def grouped_keep(held: Sequence[str], offered: Sequence[str], capacity: int, choose: Choose) -> Kept:
    """Equal room for each group; a group with new members is chosen from anew, another one keeps its first rows.

    Args:
        held: the group of each row in the buffer.
        offered: the group of each new example.
        capacity: most rows to keep.
        choose: which members of a group stay.
    """
    members: dict[str, Kept] = {}
    for old, names in ((True, held), (False, offered)):
        for i, group in enumerate(names):
            members.setdefault(group, []).append((old, i))
    kept: Kept = []
    for group, room in rooms({group: len(them) for group, them in members.items()}, capacity).items():
        them = members[group]
        kept += them[:room] if all(old for old, _ in them) else choose(them, room)
    return kept


def group_of(example: Example, name: str, labels: Sequence[str]) -> str:
    """The class of an example inside its experience, or the experience where its answer is none of the labels."""
    return f"{name}: {example.response}" if example.response in labels else name


def rows_kept(kept: Kept, rows: Rows, examples: Sequence[Example], origin: str) -> list[Mapping[str, object]]:
    """The buffer's new rows; only the examples that are kept are read.

    Args:
        kept: what each slot holds.
        rows: the buffer's old rows.
        examples: those that were offered.
        origin: the experience that these are said to belong to.
    """
    new = iter(each(examples, [i for old, i in kept if not old]))
    return [rows[i] if old else next(new).row() | {"origin": origin} for old, i in kept]


def turns(held: int, count: int, rng: torch.Generator) -> Sequence[int]:
    """Indices of `count` rows, without replacement until all `held` have been used, then again."""
    rounds = [torch.randperm(held, generator=rng) for _ in range(-(-count // held))]
    return integers(torch.cat(rounds)[:count]) if rounds else ()


def mixed(examples: Sequence[Example], rows: Rows, count: int, rng: torch.Generator) -> Sequence[Example]:
    """The examples, and after them `count` of the stored rows by `turns`; the same object where there are none.

    Of a mix they get as large a share of the tokens, in all phases, as they would have of the examples.
    """
    if not rows or count < 1:
        return examples
    stored = [Example.from_row(row) for row in rows]
    if isinstance(examples, Mix):
        order = turns(len(rows), len(rows), rng)
        return examples.replaying(count / (count + len(examples)), View(stored, order), "stored")
    return Joined((examples, View(stored, turns(len(rows), count, rng))))
