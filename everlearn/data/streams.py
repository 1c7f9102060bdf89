"""Streams in Python: experiences, the scenario they are met in, their order, and how sharp their boundaries are.

What reaches inference is said by the scenario (van de Ven & Tolias 2019, arXiv:1904.07734). Every function returns a
new value and copies no example that lies on disk.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pkgutil import resolve_name
from typing import Protocol, runtime_checkable

import torch

from everlearn.config import parse
from everlearn.data.sequences import Joined, Planned, select, with_origin
from everlearn.data.splits import split_validation
from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example
from everlearn.randomness import generator, permutation
from everlearn.types import Experience, Metric, Objective, Scenario, Stream

NEXT_TOKEN = "everlearn.objectives.next_token:NextToken"
TOKEN_ACCURACY = "everlearn.metrics.likelihood:TokenAccuracy"
CHOICE = "everlearn.metrics.likelihood:Choice"
EXACT_MATCH = "everlearn.metrics.text:ExactMatch"


@runtime_checkable
class _Judge(Metric, Protocol):
    """A metric, told from other objects by what it has."""


def experience(
    name: str,
    train: Sequence[Example],
    test: Sequence[Example],
    validation: Sequence[Example] | None = None,
    metric: Metric | str | None = None,
    labels: Sequence[str] = (),
) -> Experience:
    """One thing to learn, with the objective and the metric that its rows ask for.

    Both documents and demonstrations are learned by predicting the next token; `dataclasses.replace` sets another
    objective. Unless a metric is given, documents are judged by the accuracy of each token, answers from a closed
    set of labels (or with choices of their own) by the likeliest choice, and other answers by exact match.

    Args:
        name: letters, digits, and any of ``. _ -``.
        train: what is learned from.
        test: what it is judged by; documents alone or conversations alone.
        validation: None splits a tenth off the training rows by a stable hash, see `split_validation`.
        metric: an object, or an expression such as "ExactMatch(ignore_case=True)".
        labels: the closed set of answers, where there is one.

    Raises:
        DataError: if there are no rows to learn from or to be judged by, or an answer is none of the labels.
        ConfigError: if the metric's expression makes no metric.
    """
    for part, rows in (("train", train), ("test", test)):
        if not rows:
            raise DataError(f"experience {name!r} has no {part} rows; give one at least.")
    documents = Counter(bool(example.text) for example in test)
    if len(documents) > 1:
        raise DataError(f"experience {name!r}: its test mixes documents and conversations; make two experiences of it.")
    _check_labels(name, labels, (*test, *(train if isinstance(train, tuple | list) else ())))
    if validation is None:
        train, validation = split_validation(train)
    return Experience(
        name=name,
        train=with_origin(train, name),
        test=with_origin(test, name),
        objective=_next_token(),
        metric=_metric(name, metric if metric is not None else default_metric(test, bool(labels))),
        validation=with_origin(validation, name),
        labels=tuple(labels),
    )


def default_metric(test: Sequence[Example], closed: bool) -> Metric:
    """How such rows are judged where nobody says.

    Args:
        test: the rows.
        closed: whether the candidates are given.
    """
    choose = closed or all(example.choices for example in test)
    found: Metric = resolve_name(TOKEN_ACCURACY if test[0].text else CHOICE if choose else EXACT_MATCH)()
    return found


def _next_token() -> Objective:
    objective: Objective = resolve_name(NEXT_TOKEN)()
    return objective


def taught_by(experience: Experience, objective: Objective | str) -> Experience:
    """The experience with another objective.

    Args:
        experience: what is learned.
        objective: an object, or an expression such as "PolicyGradient(Exact())".

    Raises:
        ConfigError: if the expression makes no objective.
    """
    found = parse(objective) if isinstance(objective, str) else objective
    if not isinstance(found, Objective):
        raise ConfigError(
            f"experience {experience.name!r}: {objective!r} is no objective; give one such as NextToken() or "
            "PolicyGradient(Exact())."
        )
    return replace(experience, objective=found)


def _metric(name: str, metric: Metric | str) -> Metric:
    found = parse(metric) if isinstance(metric, str) else metric
    if not isinstance(found, _Judge):
        raise ConfigError(f"experience {name!r}: {metric!r} is no metric; give one such as ExactMatch() or Choice().")
    return found


def _check_labels(name: str, labels: Sequence[str], examples: Iterable[Example]) -> None:
    known = {label.strip() for label in labels}
    bad = next((e for e in examples if e.response.strip() not in known), None) if labels else None
    if bad:
        raise DataError(
            f"experience {name!r}: the answer {bad.response!r} of {bad.source or 'a row'} is none of its labels "
            f"{list(labels)}; correct the row, or add the label."
        )


def task_incremental(experiences: Sequence[Experience], name: str = "stream") -> Stream:
    """A stream whose task is known at inference: each experience is offered its own labels.

    Raises:
        ConfigError: if an experience is to be judged by choosing and there is nothing to choose among.
    """
    return _stream([replace(e, candidates=e.labels) for e in experiences], "task", name)


def domain_incremental(experiences: Sequence[Experience], name: str = "stream") -> Stream:
    """A stream whose task is not known at inference: labels are offered only where all experiences share one set.

    Raises:
        ConfigError: if an experience is to be judged by choosing and there is nothing to choose among.
    """
    shared = shared_labels([e.labels for e in experiences])
    return _stream([replace(e, candidates=shared) for e in experiences], "domain", name)


def shared_labels(labels: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The one set of labels that all experiences have, in the order of the first; empty where they differ."""
    return tuple(labels[0]) if len({frozenset(own) for own in labels}) == 1 else ()


def class_incremental(experiences: Sequence[Experience], name: str = "stream") -> Stream:
    """A stream whose task has to be inferred: every experience is offered the union of all labels, sorted.

    The union is that of the whole stream from the start, and not of the classes seen so far: it is stricter, and the
    scores of one experience under successive versions stay comparable.

    Raises:
        ConfigError: if an experience has no labels.
    """
    without = [e.name for e in experiences if not e.labels]
    if without:
        raise ConfigError(f"class-incremental streams need labels, which {without} have not; give them.")
    union = tuple(sorted({label for e in experiences for label in e.labels}))
    return _stream([replace(e, candidates=union) for e in experiences], "class", name)


def _stream(experiences: Sequence[Experience], scenario: Scenario, name: str) -> Stream:
    for e in experiences:
        if e.metric.question == "choose" and not e.candidates and not all(example.choices for example in e.test):
            raise ConfigError(
                f"experience {e.name!r} is judged by choosing, but the {scenario}-incremental scenario offers it no "
                "labels; use task_incremental or class_incremental with labels, or another metric such as ExactMatch()."
            )
    return Stream(tuple(experiences), scenario, name)


def split_by_class(
    train: Sequence[Example],
    test: Sequence[Example],
    groups: int | Sequence[Sequence[str]],
    seed: int | None = None,
    name: str = "classes",
) -> tuple[Experience, ...]:
    """Experiences of some classes each, for `class_incremental` or `task_incremental`; the answer is the class.

    Args:
        train: rows of all classes.
        test: rows of all classes.
        groups: how many classes an experience has (the last may have fewer), or the classes of each experience.
        seed: draws the classes' order, where `groups` is a number; None sorts them.
        name: experiences are called name-1, name-2, ...

    Raises:
        ConfigError: if the groups leave a class out or name one twice or one that has no training row.
    """
    rows: dict[str, array[int]] = {}
    for row, example in enumerate(train):
        rows.setdefault(example.response.strip(), array("Q")).append(row)
    groups = _grouped(sorted(rows), groups, seed) if isinstance(groups, int) else groups
    named = Counter(label for group in groups for label in group)
    wrong = sorted(set(named) ^ set(rows)) + [label for label, count in named.items() if count > 1]
    if wrong:
        raise ConfigError(f"groups have to name each class of the training rows once; look at {wrong}.")
    return tuple(
        experience(
            f"{name}-{number}",
            select(train, sorted(row for label in group for row in rows[label])),
            select(test, [row for row, example in enumerate(test) if example.response.strip() in group]),
            labels=group,
        )
        for number, group in enumerate(groups, start=1)
    )


def _grouped(classes: Sequence[str], size: int, seed: int | None) -> list[list[str]]:
    if size < 1:
        raise ConfigError(f"{size} classes in an experience; use 1 or more.")
    order = range(len(classes)) if seed is None else permutation(len(classes), seed, "classes")
    drawn = [classes[place] for place in order]
    return [drawn[at : at + size] for at in range(0, len(drawn), size)]


def shuffled(stream: Stream, seed: int) -> Stream:
    """The same experiences in an order drawn by the seed."""
    return stream.ordered([stream.names[place] for place in permutation(len(stream), seed, "order")])


def online(stream: Stream) -> Stream:
    """The same stream, of which every row may be seen once only: a learner makes a single pass."""
    return replace(stream, online=True)


def blurry(stream: Stream, fraction: float, seed: int = 0) -> Stream:
    """The same stream with overlapping boundaries: some of each experience's training rows are met in the others.

    A row that moves still says by its `origin` where it belongs. Test and validation rows stay.

    Args:
        stream: two experiences or more, that are learned by the same objective.
        fraction: how large a part of each experience's training rows moves, each to one of the others, all alike.
        seed: draws which rows move, and where.

    Raises:
        ConfigError: if the fraction is not in [0, 1], or the stream cannot be blurred.
    """
    if not 0 <= fraction <= 1 or len(stream) < 2:
        raise ConfigError(
            f"blurry({fraction}) of {len(stream)} experiences; use two or more, and a fraction in [0, 1]."
        )
    if planned := [e.name for e in stream if isinstance(e.train, Planned)]:
        raise ConfigError(f"a blurry stream cuts its experiences anew, which the mixes of {planned} do not survive.")
    if len({repr(e.objective) for e in stream}) > 1:
        raise ConfigError("a blurry stream mixes rows of its experiences, so that they need one objective; set it.")
    parts = [_spread(len(e.train), fraction, len(stream), place, seed) for place, e in enumerate(stream)]
    mixed = (
        Joined(tuple(select(other.train, parts[giver][place]) for giver, other in enumerate(stream)))
        for place in range(len(stream))
    )
    return replace(
        stream,
        experiences=tuple(replace(e, train=train) for e, train in zip(stream, mixed, strict=True)),
        blurry=stream.blurry or fraction > 0,
    )


def _spread(count: int, fraction: float, experiences: int, own: int, seed: int) -> list["array[int]"]:
    """For each experience, the rows of experience `own` that are met in it, in their order."""
    moving = permutation(count, seed, "blurry", own)[: round(fraction * count)]
    draws = torch.randint(experiences - 1, (len(moving),), generator=generator(seed, "blurry to", own)).tolist()
    home = [own] * count
    for row, draw in zip(moving, draws, strict=True):
        home[row] = draw + (draw >= own)
    places = [array("Q") for _ in range(experiences)]
    for row, place in enumerate(home):
        places[place].append(row)
    return places
