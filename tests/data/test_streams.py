from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.data.sequences import Joined
from everlearn.data.sources import read
from everlearn.data.streams import (
    blurry,
    class_incremental,
    domain_incremental,
    experience,
    online,
    shuffled,
    split_by_class,
    task_incremental,
)
from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example, Message
from everlearn.metrics.likelihood import Choice, TokenAccuracy
from everlearn.metrics.text import ExactMatch
from everlearn.objectives.next_token import NextToken
from everlearn.types import Experience, Stream


def asked(count: int, answers: Sequence[str] = ("yes", "no"), prefix: str = "p") -> tuple[Example, ...]:
    return tuple(
        Example(messages=(Message("user", f"{prefix}{i}"), Message("assistant", answers[i % len(answers)])))
        for i in range(count)
    )


def made(name: str, labels: Sequence[str] = (), count: int = 40) -> Experience:
    rows = asked(count, labels or ("yes", "no"), name)
    return experience(name, rows, asked(4, labels or ("yes", "no"), "test"), (), labels=labels)


def test_an_experience_has_the_objective_and_the_metric_that_its_rows_ask_for() -> None:
    answers, texts = asked(40), tuple(Example(text=f"t{i}") for i in range(40))
    own = tuple(replace(example, choices=("yes", "no")) for example in answers)
    assert experience("a", answers, answers).metric == ExactMatch()
    assert experience("a", answers, answers, labels=("yes", "no")).metric == Choice()
    assert experience("a", answers, own).metric == Choice()
    assert experience("a", texts, texts).metric == TokenAccuracy()
    assert experience("a", texts, answers).metric == ExactMatch()
    assert experience("a", answers, answers, metric=ExactMatch(strip=False)).metric == ExactMatch(strip=False)
    assert experience("a", answers, answers, metric="ExactMatch(characters=1)").metric == ExactMatch(characters=1)
    assert experience("a", answers, answers).objective == NextToken() == experience("a", texts, texts).objective


def test_rows_say_which_experience_they_belong_to(tmp_path: Path) -> None:
    found = experience("a", asked(200), asked(3))
    assert {e.origin for part in (found.train, found.validation, found.test) for e in part} == {"a"}
    assert 5 < len(found.validation) < 40
    assert len(found.train) + len(found.validation) == 200
    assert experience("a", asked(200), asked(3), asked(2)).validation == tuple(replace(e, origin="a") for e in asked(2))
    path = tmp_path / "a.txt"
    path.write_text("".join(f"paragraph {i}\n\n" for i in range(300)))
    lazy = experience("a", read(path, chunk=16, in_memory=0).examples, asked(3))
    assert not isinstance(lazy.train, tuple)
    assert {e.origin for e in (*lazy.train, *lazy.validation)} == {"a"}


def test_an_experience_that_cannot_be_judged_is_refused() -> None:
    rows, text = asked(20), Example(text="t")
    with pytest.raises(DataError, match="'a' has no train rows"):
        experience("a", (), rows)
    with pytest.raises(DataError, match="'a' has no test rows"):
        experience("a", rows, ())
    with pytest.raises(DataError, match="mixes documents and conversations"):
        experience("a", rows, (*rows, text))
    with pytest.raises(DataError, match=r"the answer 'no' of a row is none of its labels \['yes', 'maybe'\]"):
        experience("a", rows, rows, labels=("yes", "maybe"))
    with pytest.raises(ConfigError, match=r"'EWC\(\)' is no metric"):
        experience("a", rows, rows, metric="EWC()")
    with pytest.raises(ConfigError, match="letters, digits"):
        experience("a/b", rows, rows)


def test_a_task_incremental_stream_offers_each_experience_its_own_labels() -> None:
    stream = task_incremental([made("a", ("x", "y")), made("b", ("u", "v")), made("c")], "mine")
    assert [e.candidates for e in stream] == [("x", "y"), ("u", "v"), ()]
    assert (stream.scenario, stream.name, stream.names) == ("task", "mine", ("a", "b", "c"))


def test_a_class_incremental_stream_offers_the_sorted_union_to_all() -> None:
    stream = class_incremental([made("a", ("y", "x")), made("b", ("v", "x"))])
    assert [e.candidates for e in stream] == [("v", "x", "y")] * 2
    assert [e.labels for e in stream] == [("y", "x"), ("v", "x")]
    assert stream.scenario == "class"
    with pytest.raises(ConfigError, match=r"need labels, which \['c'\] have not"):
        class_incremental([made("a", ("x", "y")), made("c")])


def test_a_domain_incremental_stream_offers_labels_only_where_all_share_them() -> None:
    stream = domain_incremental([made("a", ("x", "y")), made("b", ("y", "x"))])
    assert [e.candidates for e in stream] == [("x", "y")] * 2
    free = [replace(made(name, labels), metric=ExactMatch()) for name, labels in (("a", ("x", "y")), ("b", ("u", "v")))]
    assert [e.candidates for e in domain_incremental(free)] == [(), ()]
    assert domain_incremental([made("a"), made("b")]).scenario == "domain"
    with pytest.raises(ConfigError, match="'a' is judged by choosing, but the domain-incremental scenario"):
        domain_incremental([made("a", ("x", "y")), made("b", ("u", "v"))])


def test_examples_with_choices_of_their_own_are_judged_by_choosing_in_any_scenario() -> None:
    own = tuple(replace(example, choices=("yes", "no")) for example in asked(20))
    chosen = experience("b", own, own, ())
    assert [e.candidates for e in domain_incremental([made("a"), chosen])] == [(), ()]
    with pytest.raises(ConfigError, match="task-incremental scenario offers it no labels"):
        task_incremental([replace(made("a"), metric=Choice())])


def test_classes_are_split_into_experiences_of_their_own_rows() -> None:
    train, test = asked(100, "edcba"), asked(20, "edcba", "t")
    parts = split_by_class(train, test, 2)
    assert [e.labels for e in parts] == [("a", "b"), ("c", "d"), ("e",)]
    assert [e.name for e in parts] == ["classes-1", "classes-2", "classes-3"]
    for e in parts:
        assert {x.response for x in (*e.train, *e.validation)} == set(e.labels) == {x.response for x in e.test}
    assert sum(len(e.train) + len(e.validation) for e in parts) == 100
    assert sum(len(e.test) for e in parts) == 20
    drawn = [split_by_class(train, test, 1, seed)[0].labels for seed in range(20)]
    assert drawn == [split_by_class(train, test, 1, seed)[0].labels for seed in range(20)]
    assert len(set(drawn)) > 2
    named = split_by_class(train, test, [["e", "a"], ["b", "c", "d"]], name="letters")
    assert [e.labels for e in named] == [("e", "a"), ("b", "c", "d")]
    assert class_incremental(named).experiences[0].candidates == ("a", "b", "c", "d", "e")


@pytest.mark.parametrize("groups", [[["a", "b"]], [["a", "b"], ["c", "a"]], [["a", "b"], ["c", "z"]]])
def test_groups_have_to_name_each_class_once(groups: list[list[str]]) -> None:
    with pytest.raises(ConfigError, match=r"name each class of the training rows once; look at \['[acz]'"):
        split_by_class(asked(30, "abc"), asked(6, "abc"), groups)
    with pytest.raises(ConfigError, match="0 classes in an experience"):
        split_by_class(asked(30, "abc"), asked(6, "abc"), 0)


def five() -> Stream:
    return domain_incremental([made(f"e{i}", count=50 + i) for i in range(5)])


def test_orders_are_drawn_by_the_seed() -> None:
    orders = [shuffled(five(), seed).names for seed in range(12)]
    assert orders == [shuffled(five(), seed).names for seed in range(12)]
    assert all(sorted(order) == list(five().names) for order in orders)
    assert len(set(orders)) > 8


def test_an_online_stream_is_the_same_but_for_its_single_pass() -> None:
    stream = five()
    assert online(stream) == replace(stream, online=True)
    assert not stream.online


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1), st.integers(0, 5))
def test_a_blurry_stream_moves_the_fraction_and_loses_and_repeats_no_row(fraction: float, seed: int) -> None:
    stream = five()
    mixed = blurry(stream, fraction, seed)
    before = Counter(e.key for x in stream for e in x.train)
    assert Counter(e.key for x in mixed for e in x.train) == before
    for old, new in zip(stream, mixed, strict=True):
        stayed = [e for e in new.train if e.origin == new.name]
        assert len(stayed) == len(old.train) - round(fraction * len(old.train))
        assert stayed == [e for e in old.train if e in stayed]
        assert (new.test, new.validation, new.candidates) == (old.test, old.validation, old.candidates)
    again = blurry(stream, fraction, seed)
    assert [list(e.train) for e in again] == [list(e.train) for e in mixed]
    assert mixed.blurry is (fraction > 0)


def test_rows_that_move_are_spread_over_all_other_experiences() -> None:
    stream = domain_incremental([made(f"e{i}", count=1000) for i in range(5)])
    mixed = blurry(stream, 0.4)
    moved = {(e.origin, x.name): 0 for x in stream for e in x.train}
    counts = Counter((e.origin, x.name) for x in mixed for e in x.train if e.origin != x.name)
    assert len(moved) == 5
    assert len(counts) == 20
    # 400 rows of each go to four others: 100 each, with a standard deviation of 8.7.
    assert all(60 < count < 140 for count in counts.values())


def test_a_stream_that_cannot_be_blurred_is_refused() -> None:
    stream = five()
    assert all(isinstance(e.train, Joined) for e in blurry(stream, 0.5))
    with pytest.raises(ConfigError, match="fraction in"):
        blurry(stream, 1.5)
    with pytest.raises(ConfigError, match="use two or more"):
        blurry(replace(stream, experiences=stream.experiences[:1]), 0.5)
    with pytest.raises(ConfigError, match="need one objective"):
        blurry(task_incremental([replace(made("a"), objective=NextToken(packed=False)), made("b")]), 0.5)
