"""Code is right if its tests pass in the sandbox, and however else it ends it is wrong."""

import pytest

from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example, Message
from everlearn.rewards.reward import Answer
from everlearn.rewards.sandbox import Limits
from everlearn.rewards.unit_tests import UnitTests, code_of

RIGHT = "def add(a, b):\n    return a + b\n"


def asked(tests):
    return Example(messages=(Message("user", "Write add."),), metadata={"tests": tests}, source="rows:3")


def score(tests, text, **fields):
    return UnitTests(**fields).score(asked(tests), [Answer(text)])[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RIGHT, 1),
        (f"Here:\n```python\n{RIGHT}```\nDone.", 1),
        ("def add(a, b):\n    return a - b\n", 0),
        (f"{RIGHT}raise SystemExit(0)", 0),
        (f"{RIGHT}import os; os._exit(0)", 0),
        (f'{RIGHT}"""', 0),
        (f"{RIGHT}if __name__ == '__main__': input()", 1),
        (f"from __future__ import annotations\n{RIGHT}", 1),
        ("", 0),
        ("I cannot do that.", 0),
    ],
)
def test_tests_below_the_code(text, expected):
    assert score("assert add(3, 4) == 7", text) == expected


def test_a_code_that_never_ends_is_wrong():
    assert score("assert add(3, 4) == 7", "while True: pass", limits=Limits(seconds=0.5)) == 0


def test_a_fraction_of_tests_counts_only_where_asked_for():
    tests = ["assert add(3, 4) == 7", "assert add(3, 4) == 8", "assert add(0, 0) == 0", "assert add('a', 1)"]
    assert score(tests, RIGHT) == 0
    assert score(tests, RIGHT, fraction=True) == 0.5
    assert score(tests[::2], RIGHT) == 1


def test_a_program_is_judged_by_what_it_prints():
    tests = [{"stdin": "3 4\n", "stdout": "7\n"}, {"stdin": "1 1\n", "stdout": "2"}]
    assert score(tests, "print(sum(map(int, input().split())), ' ')") == 1
    assert score(tests, "print(7)", fraction=True) == 0.5
    assert score(tests, "print(7)\nraise SystemExit", fraction=True) == 0.5
    assert score(tests, "print(sum(map(int, input().split())))\n1 / 0") == 0


def test_a_single_test_needs_no_list():
    adds = {"stdin": "3 4\n", "stdout": "7\n"}
    assert score(adds, "print(sum(map(int, input().split())))") == 1
    assert score(adds, "print(8)") == 0
    assert [r.status for r in UnitTests().results(asked(adds), Answer("print(7)"))] == ["passed"]


def test_without_tests_nothing_can_be_scored():
    for none in ([], (), "", None):
        assert score(none, RIGHT) is None
    assert UnitTests().score(Example(text="A document."), [Answer(RIGHT)]) == [None]


def test_several_workers_score_the_same():
    group = [Answer(RIGHT), Answer("def add(a, b): return 7"), Answer("")]
    tests = asked(["assert add(3, 4) == 7", "assert add(1, 1) == 2"])
    assert UnitTests(workers=2, fraction=True).score(tests, group) == [1, 0.5, 0]


def test_people_can_see_how_each_test_ended():
    results = UnitTests().results(asked(["assert add(1, 1) == 2", "assert add(1, 1) == 3", "x"]), Answer(RIGHT))
    assert [r.status for r in results] == ["passed", "failed", "error"]
    assert "NameError: name 'x' is not defined" in results[-1].stderr
    assert UnitTests().results(asked(["x"]), Answer(" ")) == ()


def test_a_test_that_is_none_is_refused():
    for wrong in ([7], [{"stdin": "3"}], {"stdin": "3"}, 7, [" "], " \n"):
        with pytest.raises(DataError, match=r"rows:3: the test .* is neither"):
            score(wrong, RIGHT)
    with pytest.raises(ConfigError, match="workers is 0"):
        UnitTests(workers=0)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x = 1", "x = 1"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1\n```\nbetter:\n```py\nx = 2\n```", "x = 2\n"),
        ("```python\nx = 1\n", "x = 1\n"),
        ("text\n```\n```", None),
        ("  ", None),
    ],
)
def test_code_is_found_between_fences(text, code):
    assert code_of(text) == code
