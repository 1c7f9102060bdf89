"""Which training rows stand before a test item: drawn by seed, balanced over labels, and never an item itself."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from everlearn.data.demonstrations import demonstrations
from everlearn.data.streams import class_incremental, task_incremental
from everlearn.examples import Example
from everlearn.metrics.likelihood import Choice
from everlearn.objectives.next_token import NextToken
from everlearn.randomness import permutation
from everlearn.testing.toys import question, toy_stream
from everlearn.types import Experience, Stream


def every(example: Example) -> bool:
    return True


def labelled(name: str, answers: Sequence[str], labels: tuple[str, ...]) -> Experience:
    rows = [question(f"{name} {i}", answer, name) for i, answer in enumerate(answers)]
    test = [question(f"{name} test", labels[0], name)]
    return Experience(name, rows, test, NextToken(), Choice(), labels=labels)


def drawn(stream: Stream, place: int = 0, shots: int = 4, seed: int = 0) -> tuple[Example, ...]:
    return demonstrations(stream, stream.experiences[place], shots, seed, every)


def test_they_are_the_first_rows_of_the_seed_s_order() -> None:
    stream = toy_stream()
    train = stream.experiences[0].train
    for seed in (0, 1):
        assert drawn(stream, 0, 3, seed) == tuple(train[i] for i in permutation(12, seed, "in context", "letters")[:3])
    assert drawn(stream, 0, 3, 0) != drawn(stream, 0, 3, 1)
    assert drawn(stream, 0, 3, 0) == drawn(stream, 0, 8, 0)[:3]


def test_all_are_shown_where_there_are_no_more() -> None:
    stream = toy_stream()
    assert sorted(e.text for e in drawn(stream, 1, 20)) == sorted(e.text for e in stream.experiences[1].train)


def test_labels_are_balanced_also_among_the_first_few() -> None:
    stream = task_incremental([labelled("a", ["yes"] * 90 + ["no"] * 6 + ["so"] * 4, ("yes", "no", "so"))])
    found = [e.response for e in drawn(stream, shots=8)]
    assert sorted(found[:3]) == sorted(found[3:6]) == ["no", "so", "yes"]
    assert len(set(found[6:])) == 2


def test_a_label_with_few_rows_leaves_its_places_to_the_others() -> None:
    stream = task_incremental([labelled("a", ["yes"] * 20 + ["no"], ("yes", "no", "never"))])
    assert sorted(e.response for e in drawn(stream, shots=5)) == ["no", *["yes"] * 4]


def test_of_more_labels_than_places_each_has_one_at_most() -> None:
    labels = tuple("abcdefghij")
    stream = task_incremental([labelled("a", labels * 5, labels)])
    assert len({e.response for e in drawn(stream, shots=4)}) == 4


def test_class_incremental_demonstrations_come_from_all_experiences_and_are_the_same_for_all() -> None:
    parts = [labelled("a", ["one", "two"] * 10, ("one", "two")), labelled("b", ["six", "ten"] * 10, ("six", "ten"))]
    together = class_incremental(parts)
    assert drawn(together, 0) == drawn(together, 1)
    assert sorted(e.response for e in drawn(together, 0)) == ["one", "six", "ten", "two"]
    apart = task_incremental(parts)
    assert {e.origin for e in drawn(apart, 0)} == {"a"}
    assert {e.origin for e in drawn(apart, 1)} == {"b"}


@pytest.mark.parametrize("scenario", ["domain", "class"])
def test_a_test_item_is_never_among_them(scenario: str) -> None:
    stream = toy_stream()
    letters, cats, digits = stream.experiences
    leaking = replace(letters, train=[*letters.train, *letters.test, *digits.test])
    mixed = Stream((leaking, replace(cats, test=letters.test), digits), "class" if scenario == "class" else "domain")
    found = {e.key for e in drawn(mixed, 0, 99)}
    assert not found & {e.key for e in letters.test}
    assert found & {e.key for e in digits.test} == (set() if scenario == "class" else {e.key for e in digits.test})
    assert {e.key for e in letters.train} <= found


def test_rows_of_the_other_kind_and_rows_that_are_too_long_are_passed_over() -> None:
    letters, cats, _ = toy_stream().experiences
    mixed = replace(letters, train=[*letters.train, *cats.train])
    stream = Stream((mixed, cats))
    assert {e.key for e in drawn(stream, 0, 99)} == {e.key for e in letters.train}
    asked = Stream((replace(cats, test=letters.test),))
    assert drawn(asked) == ()
    short = demonstrations(stream, mixed, 99, 0, lambda e: e.response < "c")
    assert [e.response for e in short] == ["b"]
