"""Ctrl-C is a request; the second one is an order, unless a launcher repeats the first."""

import signal

import pytest

from everlearn.stopping import stoppable


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
