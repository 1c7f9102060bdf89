import sys
import time

import pytest

from everlearn.agents.calls import limited, tried


def fails() -> None:
    raise ValueError("no such day")


def stops() -> None:
    raise KeyboardInterrupt


def test_what_a_call_returns_and_what_it_raises_are_told() -> None:
    for made in (tried, lambda work: limited(work, 5.0)):
        assert made(lambda: 3).value == 3
        assert made(lambda: 3).error == ""
        assert made(fails).error == "ValueError: no such day"
        assert made(lambda: {}["a"]).error == "KeyError: 'a'"


def test_what_stops_the_program_stops_it() -> None:
    with pytest.raises(KeyboardInterrupt):
        tried(stops)


def test_what_would_end_the_program_is_told_where_it_ends_a_thread() -> None:
    assert limited(lambda: sys.exit("no such flag"), 5.0).error == "SystemExit: no such flag"


def test_a_call_that_takes_too_long_is_not_waited_for() -> None:
    begun = time.monotonic()
    assert limited(lambda: time.sleep(5), 0.1).error == "TimeoutError: no result in 0.1 seconds"
    assert time.monotonic() - begun < 3
