"""Which examples a bounded buffer keeps, decided on indices, so that only what is kept is ever read."""

from collections.abc import Sequence

import torch

Kept = list[tuple[bool, int]]
"""For each slot of the buffer: whether it keeps an old row, and the index of the old row or of the new example."""


def reservoir_keep(held: int, seen: int, offered: int, capacity: int, rng: torch.Generator) -> Kept:
    """Reservoir sampling (Vitter 1985, algorithm R): every example ever offered is kept with the same probability.

    Args:
        held: rows in the buffer now.
        seen: examples offered before, in all experiences.
        offered: examples offered now.
        capacity: most rows to keep.
        rng: random source.
    """
    slots: Kept = [(True, i) for i in range(held)]
    counts = torch.arange(seen + 1, seen + offered + 1)
    draws = (torch.rand(offered, generator=rng, dtype=torch.float64) * counts).long().tolist()
    for index, draw in enumerate(draws):
        if len(slots) < capacity:
            slots.append((False, index))
        elif draw < capacity:
            slots[draw] = (False, index)
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
    groups: dict[str, Kept] = {}
    for i, origin in enumerate(origins):
        groups.setdefault(origin, []).append((True, i))
    groups.setdefault(name, []).extend((False, i) for i in range(offered))
    kept: Kept = []
    # The smallest groups first: what they do not need goes to the others.
    for left, group in zip(range(len(groups), 0, -1), sorted(groups.values(), key=len), strict=True):
        room = (capacity - len(kept)) // left
        order = torch.randperm(len(group), generator=rng)[:room].sort().values
        kept += [group[i] for i in order.tolist()]
    return kept
