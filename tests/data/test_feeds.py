"""What is drawn of a mix is what was asked, to the token; steps are full, in order, and follow a ramp."""

import random
from collections.abc import Sequence
from itertools import islice

import pytest

from everlearn.data.feeds import MixFeed, OnePass, account, steps_of
from everlearn.data.mixes import Mix, Phase
from everlearn.data.packing import Row
from everlearn.errors import DataError
from everlearn.examples import Encoded, Example, Message, Plan


def encode(example: Example) -> Encoded:
    """One token a word."""
    if example.messages:
        words = len(example.response.split())
        return Encoded(tuple(range(words)), (False,) + (True,) * (words - 1))
    words = len(example.text.split())
    return Encoded(tuple(range(words)), (True,) * words)


def documents(name: str, lengths: Sequence[int]) -> tuple[Example, ...]:
    return tuple(Example(text=" ".join([name] * n), source=f"{name}:{i}") for i, n in enumerate(lengths))


def drawn(name: str, count: int, longest: int = 300) -> tuple[Example, ...]:
    rng = random.Random(name)
    return documents(name, [rng.randint(1, longest) for _ in range(count)])


def big() -> Mix:
    """Three sources over 100,000 tokens: general data, more of mathematics, and at last what is recent."""
    sources = {"web": drawn("web", 500), "maths": drawn("maths", 60), "news": drawn("news", 200)}
    phases = (
        Phase(50_000, {"web": 0.9, "maths": 0.1}),
        Phase(30_000, {"web": 0.6, "maths": 0.4}),
        Phase(20_000, {"web": 0.2, "maths": 0.1, "news": 0.7}),
    )
    return Mix(sources, phases)


def tokens(rows: Sequence[Row], name: str = "") -> int:
    pairs = [(d, e) for row in rows for d, e in zip(row.documents, row.examples, strict=True)]
    return sum(len(d.tokens) for d, e in pairs if e.text.startswith(name))


def test_a_mix_of_two_documents_by_hand() -> None:
    mix = Mix(
        {"a": documents("a", [5]), "b": documents("b", [4])},
        (Phase(8, {"a": 1, "b": 1}), Phase(4, {"b": 1})),
    )
    feed = MixFeed(encode, mix, None)
    rows = [row for step in steps_of(feed, Plan(batch_size=1, length=6)) for row in step]
    # Phase 1 asks 4 of each: a's first 4 of 5, b's 4 of 4. Phase 2 asks 4 of b, which begins again. A row has room for
    # 6: a's 4, and of b 2 that fill it; the next begins with b's second token as context, and has the 3 that are left,
    # of which 2 are still asked: tokens 1 and 2. Phase 2 goes on with what is left of b: tokens 2 and 3; then 0 and 1.
    pieces = [[d.tokens for d in row.documents] for row in rows]
    assert pieces == [[(0, 1, 2, 3), (0, 1)], [(1, 2), (2, 3), (0, 1)]]
    assert [[d.supervised for d in row.documents] for row in rows][1] == [(False, True), (False, True), (True, True)]
    assert feed.account().tokens == ({"a": 4, "b": 4}, {"a": 0, "b": 4})
    assert feed.account().total == {"a": 4, "b": 8}
    assert feed.account().epochs == {"a": 0.0, "b": 1.0}


@pytest.mark.parametrize("seed", [None, 0, 1])
@pytest.mark.parametrize("packed", [True, False])
def test_tokens_are_those_that_the_schedule_asks_to_a_thousandth(seed: int | None, packed: bool) -> None:
    mix = big()
    found = account(encode, mix, Plan(8, 4096, 128, seed), packed)
    for phase, counts in zip(mix.phases, found.tokens, strict=True):
        for name, count in counts.items():
            assert abs(count - phase.tokens * phase.share(name)) <= 1e-3 * phase.tokens * phase.share(name) + 1
    for name, share in mix.shares.items():
        assert found.total[name] == pytest.approx(share * mix.tokens, rel=1e-3)
    assert found.epochs["maths"] > 1 > found.epochs["news"]


def test_what_is_accounted_for_is_what_stands_in_the_rows() -> None:
    feed = MixFeed(encode, big(), 0)
    steps = list(steps_of(feed, Plan(8, 4096, 128, 0)))
    for name, count in feed.account().total.items():
        assert sum(tokens(step, name) for step in steps) == count
    assert feed.progress() == 1.0
    assert feed.notes()["tokens of web"] == feed.account().total["web"]


def test_recent_data_come_last() -> None:
    steps = list(steps_of(MixFeed(encode, big(), 0), Plan(8, 4096, 128, 0)))
    first = next(i for i, step in enumerate(steps) if tokens(step, "news"))
    assert sum(tokens(step) for step in steps[:first]) == pytest.approx(80_000, abs=8 * 128)
    assert tokens(steps[-1], "news") == pytest.approx(0.7 * tokens(steps[-1]), abs=130)


def test_rows_are_nearly_full() -> None:
    steps = list(steps_of(MixFeed(encode, big(), 0), Plan(8, 4096, 128, 0)))
    assert all(len(row) <= 128 for step in steps for row in step)
    assert sum(tokens(step) for step in steps) / (len(steps) * 8 * 128) > 0.95


def test_another_epoch_has_another_order_and_another_seed_too() -> None:
    def order(seed: int | None) -> list[str]:
        mix = Mix({"a": documents("a", [4] * 20)}, (Phase(160, {"a": 1}),))
        return [row.examples[0].source for step in steps_of(MixFeed(encode, mix, seed), Plan(1, 64, 4)) for row in step]

    assert order(None) == [f"a:{i}" for i in range(20)] * 2
    assert order(0)[:20] != order(0)[20:]
    assert sorted(order(0)[:20]) == sorted(order(0)[20:]) == sorted(order(1)[:20])
    assert order(0) == order(0) != order(1)


def test_conversations_are_whole_and_alone_and_their_excess_is_made_up_for() -> None:
    talks = tuple(
        Example(messages=(Message("user", "q"), Message("assistant", "w " * 7)), source=f"talk:{i}") for i in range(9)
    )
    mix = Mix(
        {"talk": talks, "text": documents("text", [50])},
        (Phase(40, {"talk": 1, "text": 1}), Phase(40, {"talk": 1, "text": 1})),
    )
    feed = MixFeed(encode, mix, 0)
    rows = [row for step in steps_of(feed, Plan(2, 64, 16)) for row in step]
    assert all(len(row.documents) == 1 and len(row) == 7 for row in rows if row.examples[0].messages)
    # 20 tokens in phase 1 are 3 conversations (21), 40 up to the end of phase 2 are 6 (42), as near as can be.
    assert [counts["talk"] for counts in feed.account().tokens] == [21, 21]
    assert [counts["text"] for counts in feed.account().tokens] == [20, 20]


def test_a_conversation_that_is_longer_than_a_row_is_refused() -> None:
    talk = Example(messages=(Message("user", "q"), Message("assistant", "w " * 9)), source="talk:1")
    feed = MixFeed(encode, Mix({"talk": (talk,)}, (Phase(9, {"talk": 1}),)), 0)
    with pytest.raises(DataError, match="talk:1 has 9 tokens, more than length=8"):
        list(steps_of(feed, Plan(2, 64, 8)))


def test_a_source_without_two_tokens_in_a_row_is_refused() -> None:
    feed = MixFeed(encode, Mix({"a": documents("a", [1, 1])}, (Phase(9, {"a": 1}),)), 0)
    with pytest.raises(DataError, match="'a' has no document of two tokens"):
        feed.next()


def test_one_pass_draws_each_document_once_and_passes_over_single_tokens() -> None:
    feed = OnePass(encode, documents("a", [3, 1, 5, 4, 1]), None)
    pieces = [[d.tokens for d in row.documents] for step in steps_of(feed, Plan(1, 64, 4)) for row in step]
    assert pieces == [[(0, 1, 2)], [(0, 1, 2, 3)], [(3, 4), (0, 1)], [(1, 2, 3)]]
    assert feed.progress() == 1.0


def test_batch_and_length_follow_the_ramp_at_its_boundaries() -> None:
    plan = Plan(2, 4096, 8, None, ramp=((32, 4, 8), (96, 4, 16)))
    # 2 x 8 tokens twice are 32; then 4 x 8 twice are 96; then 4 x 16.
    steps = list(islice(steps_of(OnePass(encode, documents("a", [400]), None), plan), 6))
    assert [(len(step), {len(row) for row in step}) for step in steps] == [
        (2, {8}),
        (2, {8}),
        (4, {8}),
        (4, {8}),
        (4, {16}),
        (4, {16}),
    ]
    assert [plan.at(n) for n in (0, 31, 32, 95, 96)] == [(2, 8), (2, 8), (4, 8), (4, 8), (4, 16)]
