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
    # The smallest groups first: what they do not need goes to the others.
    for left, origin in zip(range(len(sizes), 0, -1), sorted(sizes, key=sizes.__getitem__), strict=True):
        room, old = (capacity - len(kept)) // left, held[origin]
        order = torch.randperm(sizes[origin], generator=rng)[:room].sort().values
        kept += [(True, old[i]) if i < len(old) else (False, i - len(old)) for i in order.tolist()]
    return kept
