"""A mix's plan: phases, shares, what is replayed, and the ratio by shift strength."""

from collections.abc import Callable
from typing import Any

import pytest

from everlearn.data.buffers import mixed
from everlearn.data.mixes import Mix, Phase, replay_share
from everlearn.data.sequences import Joined, each, select, with_origin
from everlearn.data.splits import split_validation
from everlearn.data.streams import blurry, domain_incremental, experience
from everlearn.errors import ConfigError
from everlearn.examples import Example
from everlearn.randomness import generator


def texts(name: str, count: int) -> tuple[Example, ...]:
    return tuple(Example(text=f"{name} {i}") for i in range(count))


def two(web: int = 30, news: int = 20) -> Mix:
    """600 tokens of web, then 400 in which there are three of news for one of web."""
    phases = (Phase(600, {"web": 1.0}), Phase(400, {"web": 1, "news": 3}))
    return Mix({"web": texts("web", web), "news": texts("news", news)}, phases)


def test_shares_are_those_of_the_tokens() -> None:
    # 600 of 600 and 1/4 of 400 are 700 of web; 3/4 of 400 are 300 of news.
    assert two().shares == pytest.approx({"web": 0.7, "news": 0.3})
    assert two().tokens == 1000


def test_a_mix_is_the_sequence_of_its_documents() -> None:
    mix = two(3, 2)
    plain = [*texts("web", 3), *texts("news", 2)]
    assert (len(mix), list(mix), mix[-1], list(mix[1:4])) == (5, plain, plain[-1], plain[1:4])
    assert list(each(mix, [4, 0])) == [plain[4], plain[0]]
    assert not isinstance(mix[1:4], Mix)


def test_parts_of_a_mix_keep_its_plan() -> None:
    mix = two(3, 2)
    part = select(mix, [0, 2, 4])
    assert isinstance(part, Mix)
    assert [[e.text for e in rows] for rows in part.sources.values()] == [["web 0", "web 2"], ["news 1"]]
    assert part.phases == mix.phases
    owned = with_origin(mix, "x")
    assert isinstance(owned, Mix)
    assert {e.origin for e in owned} == {"x"}


def test_what_is_held_out_of_a_mix_follows_no_plan() -> None:
    train, held = split_validation(two(100, 100))
    assert isinstance(train, Mix)
    assert not isinstance(held, Mix)
    assert len(train) + len(held) == 200
    assert isinstance(experience("a", two(100, 100), texts("test", 3)).train, Mix)


def test_replayed_data_get_their_share_of_a_longer_phase() -> None:
    mix = two().replaying(0.2, texts("old", 5))
    # 600 / 0.8 and 400 / 0.8 tokens, of which a fifth is old; as much new data as before.
    assert [phase.tokens for phase in mix.phases] == [750, 500]
    assert [phase.share("replay") for phase in mix.phases] == pytest.approx([0.2, 0.2])
    assert mix.phases[1].share("news") * 500 == pytest.approx(300)
    assert two().replaying(0.0, texts("old", 5)).phases == two().phases


def test_a_replayed_mix_keeps_the_shares_that_it_had() -> None:
    new = Mix({"law": texts("law", 5)}, (Phase(100, {"law": 1}),))
    mix = new.replaying(0.5, two(), "old")
    assert mix.shares == pytest.approx({"law": 0.5, "old web": 0.35, "old news": 0.15})


def test_a_buffer_is_replayed_as_a_source_of_the_mix() -> None:
    rows = [e.row() for e in texts("old", 4)]
    found = mixed(two(), rows, 50, generator(0))  # 50 of 50 + 50 documents
    assert isinstance(found, Mix)
    assert found.shares["stored"] == pytest.approx(0.5)
    assert {e.text for e in found.sources["stored"]} == {e.text for e in texts("old", 4)}
    assert mixed(two(), rows, 0, generator(0)).phases == two().phases  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("old", "new", "share"),
    [
        (2.0, 1.5, 0.05),  # the new data are easier than the old
        (2.0, 2.25, 0.05),  # weak
        (2.0, 2.625, 0.15),  # half way from 0.25 to 1 nat, and from 5 % to 25 %
        (2.0, 3.0, 0.25),  # strong
        (2.0, 9.0, 0.5),  # no more was tried
    ],
)
def test_the_stronger_the_shift_the_more_is_replayed(old: float, new: float, share: float) -> None:
    assert replay_share(old, new) == pytest.approx(share)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Phase(0, {"a": 1}), "1 token or more"),
        (lambda: Phase(5, {"a": 0}), "one of them above 0"),
        (lambda: Phase(5, {"a": float("nan")}), "one of them above 0"),
        (lambda: Mix({"a": texts("a", 1)}, ()), "give phases"),
        (lambda: Mix({"a": texts("a", 1)}, (Phase(5, {"a": 1, "b": 1}),)), r"name \['b'\]"),
        (lambda: Mix({"a": texts("a", 1), "b": texts("b", 1)}, (Phase(5, {"a": 1}),)), r"nothing from \['b'\]"),
        (lambda: Mix({"a": ()}, (Phase(5, {"a": 1}),)), "have no rows"),
        (lambda: two().replaying(1.0, texts("old", 1)), "less than 1"),
        (lambda: two().replaying(0.1, texts("old", 1), "web"), "another name"),
        (lambda: replay_share(-1.0, 2.0), "nats per token"),
        (lambda: blurry(mixes(), 0.1), "do not survive"),
    ],
)
def test_a_mix_that_means_nothing_is_refused(make: Callable[[], Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        make()


def mixes() -> Any:
    return domain_incremental([experience(name, two(), texts("test", 3)) for name in "ab"])


def test_joined_mixes_are_their_documents() -> None:
    assert len(list(Joined((two(3, 2), two(3, 2))))) == 10
