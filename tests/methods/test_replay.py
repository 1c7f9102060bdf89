"""Replay mixes the share it promises, from the experiences it has seen."""

from dataclasses import replace

import pytest

from everlearn.errors import ConfigError
from everlearn.method import Context
from everlearn.methods.replay import Replay
from everlearn.testing.toys import toy_model, toy_stream


def contexts() -> list[Context]:
    model = toy_model()
    return [Context(model, e, seen=i) for i, e in enumerate(toy_stream())]


def test_the_share_of_old_examples_is_the_fraction() -> None:
    first, second, _ = contexts()
    method = Replay(fraction=0.25)
    memory = method.end(method.init(first.model), first)
    mixed = method.data(memory, second.experience.train, second)
    old = [e for e in mixed if e.origin == "letters"]
    assert len(old) / len(mixed) == 0.25
    assert len({e.key for e in old}) == len(old)


def test_nothing_is_replayed_in_the_first_experience() -> None:
    first, *_ = contexts()
    assert Replay().data(Replay().init(first.model), first.experience.train, first) is first.experience.train


def test_a_small_buffer_is_used_up_before_it_is_used_again() -> None:
    first, second, _ = contexts()
    method = Replay(fraction=0.5, capacity=5)
    memory = method.end(method.init(first.model), first)
    old = [e.key for e in method.data(memory, second.experience.train, second) if e.origin == "letters"]
    assert len(old) == 12
    assert len(set(old[:5])) == len(set(old[5:10])) == 5


def test_the_buffer_is_bounded_and_balanced() -> None:
    method = Replay(capacity=6)
    memory = method.init(toy_model())
    for ctx in contexts():
        memory = method.end(memory, ctx)
    assert sorted(r["origin"] for r in memory["rows"]) == ["cats"] * 2 + ["digits"] * 2 + ["letters"] * 2
    assert memory["seen"] == 36


def test_other_moments_draw_other_examples() -> None:
    first, second, third = contexts()
    method = Replay(fraction=0.2)
    memory = method.end(method.init(first.model), first)
    draws = [[e.key for e in method.data(memory, second.experience.train, c)][12:] for c in (second, third, second)]
    assert draws[0] == draws[2] != draws[1]


def test_a_share_of_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="fraction is in"):
        replace(Replay(), fraction=1.0)
