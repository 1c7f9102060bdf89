"""The demo's stream: true answers, no row of a test among the training rows, and the same in every run."""

import re
from datetime import datetime

import pytest

from everlearn.demo_stream import COMPOSED, FACTS, ISLANDS, RELATIONS, TICKETS, demo_stream
from everlearn.errors import ConfigError
from everlearn.objectives.next_token import NextToken
from everlearn.types import Experience

STREAM = demo_stream()
ATLAS, STAMPS, DESKS, KIN = STREAM


def sentences(passage: str) -> list[str]:
    return re.findall(r"[^.]+\.", passage)


def phrase(question: str) -> str:
    """The known phrase that a ticket is made around."""
    (found,) = [p for block in TICKETS.values() for p in re.split(r" \| |\n", block.strip()) if p in question]
    return found


def content(experience: Experience, part: str) -> set[str]:
    rows = experience.train if part == "train" else experience.test
    return {row.text or row.prompt[-1].content for row in rows}


def test_it_has_one_experience_of_raw_text_and_three_with_answers_that_can_be_checked():
    assert STREAM.names == ("atlas", "stamps", "tickets", "kin")
    assert [bool(e.train[0].text) for e in STREAM] == [True, False, False, False]
    assert [e.metric.question for e in STREAM] == ["predict", "generate", "choose", "generate"]


def test_each_experience_has_as_many_rows_as_asked_for_and_enough_to_test():
    assert [len(e.train) for e in STREAM] == [200] * 4
    assert [len(e.test) for e in STREAM] == [64] * 4
    assert [len(e.train) for e in demo_stream(size=10)] == [10] * 4


@pytest.mark.parametrize("seed", range(3))
def test_no_row_stands_twice_nor_in_both_train_and_test(seed):
    for experience in demo_stream(seed=seed):
        train, test = content(experience, "train"), content(experience, "test")
        assert (len(train), len(test)) == (len(experience.train), len(experience.test))
        assert train & test == set()


@pytest.mark.parametrize("size", [200, 600])
def test_no_sentence_of_the_atlas_is_both_told_and_asked(size):
    atlas = demo_stream(size).experiences[0]
    told = {s.strip() for passage in content(atlas, "train") for s in sentences(passage)}
    assert len(told) > 200
    assert told & content(atlas, "test") == set()


def test_every_fact_that_the_atlas_test_asks_for_is_told_in_training():
    values = {v for block in FACTS.strip().split("\n\n") for v in block.split("\n")[0].split(" | ")}
    trained = [s for passage in content(ATLAS, "train") for s in sentences(passage)]
    for asked in content(ATLAS, "test"):
        (island,) = [i for i in ISLANDS.split() if i in asked]
        (value,) = [v for v in values if v in asked[0].lower() + asked[1:] or v in asked]
        assert any(island in s and value[1:] in s for s in trained), asked


def test_the_atlas_gives_each_document_a_row_of_its_own():
    assert ATLAS.objective == NextToken(packed=False)


def test_stamps_are_the_dates_that_they_stand_for():
    for row in (*STAMPS.train, *STAMPS.test):
        date = datetime.strptime(row.prompt[-1].content, "Write %B %d, %Y as a log stamp.")
        assert row.response == date.strftime("%d.%m.%y")


def test_no_phrase_of_a_ticket_is_both_learned_and_tested():
    train = {phrase(text) for text in content(DESKS, "train")}
    test = [phrase(text) for text in content(DESKS, "test")]
    assert train & set(test) == set()
    assert len(test) == len(set(test))


def test_a_ticket_goes_to_the_desk_that_its_phrase_belongs_to():
    for row in (*DESKS.train, *DESKS.test):
        assert phrase(row.prompt[-1].content) in TICKETS[row.response]
    assert DESKS.candidates == DESKS.labels == tuple(TICKETS)


def test_a_kinship_follows_from_the_two_that_are_told():
    kind = {word: (relation, sex) for relation, words in RELATIONS.items() for sex, word in enumerate(words)}
    told = {(first, second): answer for first, second, answer in COMPOSED}
    for row in (*KIN.train, *KIN.test):
        x, to_y, y, again, to_z, z, who, whom = re.fullmatch(
            r"(\w+) is the (\S+) of (\w+)\. (\w+) is the (\S+) of (\w+)\. What is (\w+) to (\w+)\?",
            row.prompt[-1].content,
        ).groups()
        assert (again, who, whom) == (y, x, z)
        assert len({x, y, z}) == 3
        assert kind[row.response] == (told[kind[to_y][0], kind[to_z][0]], kind[to_y][1])


def test_a_name_is_always_of_one_sex():
    female = {word: sex == 0 for words in RELATIONS.values() for sex, word in enumerate(words)}
    seen: dict[str, bool] = {}
    for question in content(KIN, "train"):
        for name, word in re.findall(r"(\w+) is the (\S+) of", question):
            assert seen.setdefault(name, female[word]) == female[word]
    assert len(seen) == 30


def test_the_same_seed_gives_the_same_stream_and_another_seed_another():
    def keys(seed: int) -> list[str]:
        return [row.key for e in demo_stream(size=30, seed=seed) for row in (*e.train, *e.test)]

    assert keys(1) == keys(1)
    assert keys(1) != keys(2)


def test_more_rows_than_there_are_is_refused():
    with pytest.raises(ConfigError, match="no 5000 different rows for 'tickets'"):
        demo_stream(size=5000)
