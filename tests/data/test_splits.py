import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.data.sequences import View
from everlearn.data.sources import read
from everlearn.data.splits import hold_out, sample, split_validation
from everlearn.errors import ConfigError
from everlearn.examples import Example, Message


def asked(prompt: str, response: str = "r") -> Example:
    return Example(messages=(Message("user", prompt), Message("assistant", response)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=40), st.floats(0, 0.9), st.integers(0, 9))
def test_a_row_stands_on_the_same_side_whatever_stands_around_it(rows: list[int], fraction: float, seed: int) -> None:
    whole = [asked(f"p{row}") for row in range(41)]
    alone = {e.key for e in hold_out(whole, fraction, "test")[1]}
    examples = tuple(whole[row] for row in random.Random(seed).sample(rows, len(rows)))
    stay, held = hold_out(examples, fraction, "test")
    assert [e.key in alone for e in examples] == [e in held for e in examples]
    assert list(stay) == [e for e in examples if e.key not in alone]
    assert len(stay) + len(held) == len(examples)


def test_about_the_fraction_is_held_out_and_purposes_are_independent() -> None:
    examples = [asked(f"p{i}") for i in range(4000)]
    train, test = hold_out(examples, 0.1, "test")
    rest, validation = hold_out(train, 0.1, "validation")
    assert 340 < len(test) < 460
    assert 300 < len(validation) < 420
    assert not {e.key for e in test} & {e.key for e in validation}
    assert len(rest) + len(validation) + len(test) == 4000


def test_rows_with_one_prompt_stand_on_one_side_and_documents_go_by_their_text() -> None:
    train, held = split_validation([asked(f"p{i % 50}", str(i)) for i in range(400)], 0.2)
    assert held
    assert not {e.prompt for e in train} & {e.prompt for e in held}
    train, held = split_validation([Example(text=f"t{i % 100}") for i in range(300)], 0.2)
    assert held
    assert not {e.text for e in train} & {e.text for e in held}


def test_answers_without_a_prompt_do_not_all_stand_on_one_side() -> None:
    said = [Example(messages=(Message("assistant", f"r{i}"),)) for i in range(200)]
    train, held = split_validation(said, 0.3)
    assert train
    assert held


def test_too_few_validation_rows_are_none() -> None:
    examples = tuple(asked(f"p{i}") for i in range(60))
    train, held = split_validation(examples, 0.1)
    assert (train, held) == (examples, ())
    assert 0 < len(split_validation(examples, 0.1, least=1)[1]) < 10
    assert split_validation(examples, 0.0, least=0) == (examples, ())
    with pytest.raises(ConfigError, match="fraction 1 of the rows cannot be held out"):
        hold_out(examples, 1, "test")


def test_a_lazy_sequence_is_split_into_lazy_parts(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("".join(f"paragraph {i}\n\n" for i in range(400)))
    lazy = read(path, chunk=16, in_memory=0).examples
    whole = read(path, chunk=16).examples
    parts = split_validation(lazy)
    assert all(isinstance(part, View) for part in parts)
    assert [list(part) for part in parts] == [list(part) for part in split_validation(whole)]
    assert isinstance(sample(lazy, 10), View)


def test_a_sample_is_of_the_size_asked_for_and_independent_of_order() -> None:
    examples = tuple(asked(f"p{i}") for i in range(100))
    chosen = sample(examples, 30)
    assert len(chosen) == 30
    assert {e.key for e in sample(examples[::-1], 30)} == {e.key for e in chosen}
    assert [examples.index(e) for e in chosen] == sorted(examples.index(e) for e in chosen)
    assert {e.key for e in sample(examples, 10)} < {e.key for e in chosen}
    assert sample(examples, 100) is examples
