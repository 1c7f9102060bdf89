"""Ctrl-C is a request; the second one is an order, unless a launcher repeats the first."""

import signal
from collections.abc import Iterator

import pytest

from everlearn.stopping import stoppable


@pytest.fixture(autouse=True)
def foreground() -> Iterator[None]:
    """Ctrl-C as a terminal's foreground has it: a shell has what it starts in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_asks_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stoppable() as stop:
        assert not stop.is_set()
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_repeated_one_is_still_a_request() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stoppable(patient=True) as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
    assert signal.getsignal(signal.SIGINT) is before
