"""Demonstrations: training rows that stand before a test item when a model is asked in context, and not trained.

The plain choice of the field (Brown et al. 2020, arXiv:2005.14165): k rows drawn at random, the same before all items.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from itertools import islice

from everlearn.data.sequences import Joined, each
from everlearn.examples import Example
from everlearn.randomness import permutation
from everlearn.types import Experience, Stream

LOOKED_AT = 10_000
"""Training rows, in the order that they are drawn, among which demonstrations are sought."""


def demonstrations(
    stream: Stream, experience: Experience, shots: int, seed: int, fits: Callable[[Example], bool]
) -> tuple[Example, ...]:
    """Training rows to stand before an experience's test items; fewer than asked for where there are no more.

    They are the experience's own. Where the scenario is class-incremental nothing tells which experience an item
    belongs to, so that they are drawn from all experiences together, and are the same for all of them.

    Where there are labels, each has about as many rows, also among the first few: one of each label that is drawn, then
    a second one of each, and so on. Rows that are test items too, and those of the other kind (documents before
    conversations), are passed over.

    Args:
        stream: with its scenario.
        experience: of the stream; whose items are asked.
        shots: how many rows to take.
        seed: of the draw.
        fits: whether a row is short enough to be shown.
    """
    told = stream.scenario != "class"
    sources = (experience,) if told else stream.experiences
    rows, closed = Joined(tuple(e.train for e in sources)), all(e.labels for e in sources)
    labels = {label.strip() for e in sources for label in e.labels} if closed else set[str]()
    tested = {_content(item) for e in sources for item in e.test}
    document = bool(experience.test[0].text)
    order = permutation(len(rows), seed, "in context", experience.name if told else "")[:LOOKED_AT]
    usable = (
        row for row in each(rows, order) if bool(row.text) == document and _content(row) not in tested and fits(row)
    )
    return _balanced(usable, labels, shots)


def _content(example: Example) -> object:
    return example.text or example.messages


def _balanced(rows: Iterable[Example], labels: Collection[str], count: int) -> tuple[Example, ...]:
    """The first of each label in the order that they come, then the second of each, up to so many."""
    if not labels:
        return tuple(islice(rows, count))
    share, taken, found = -(-count // len(labels)), Counter[str](), list[tuple[int, Example]]()
    for row in rows:
        label = row.response.strip()
        found.append((taken[label], row))
        taken[label] += 1
        if len(taken) >= count or all(taken[label] >= share for label in labels):
            break
    return tuple(row for _, row in sorted(found, key=lambda ranked: ranked[0])[:count])
