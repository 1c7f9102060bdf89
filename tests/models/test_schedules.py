"""The learning rate at each boundary, by hand."""

import pytest

from everlearn.errors import ConfigError
from everlearn.models.schedules import Schedule, Shape


@pytest.mark.parametrize(
    ("schedule", "at", "factor"),
    [
        (Schedule("cosine", warmup=0.2), 0.1, 0.5),
        (Schedule("cosine", warmup=0.2), 0.2, 1.0),
        (Schedule("cosine", warmup=0.2), 0.6, 0.5),
        (Schedule("cosine", warmup=0.0, floor=0.1), 1.0, 0.1),
        (Schedule("linear", warmup=0.0), 0.25, 0.75),
        (Schedule("constant", warmup=0.5), 0.75, 1.0),
        (Schedule("wsd", warmup=0.1, decay=0.4), 0.5, 1.0),
        (Schedule("wsd", warmup=0.1, decay=0.4), 0.7, 0.5),
        (Schedule("wsd", warmup=0.1, decay=0.4), 1.0, 0.0),
        # Half of the cooldown is half of the cosine; half of the decay from 0.4 to 0.1 is sqrt(0.04).
        (Schedule("infinite", 0.1, 0.2, 0.1, cooldown=0.4, constant=0.4), 0.05, 0.5),
        (Schedule("infinite", 0.1, 0.2, 0.1, cooldown=0.4, constant=0.4), 0.1, 1.0),
        (Schedule("infinite", 0.1, 0.2, 0.1, cooldown=0.4, constant=0.4), 0.3, 0.7),
        (Schedule("infinite", 0.1, 0.2, 0.1, cooldown=0.4, constant=0.4), 0.5, 0.4),
        (Schedule("infinite", 0.1, 0.2, 0.1, cooldown=0.4, constant=0.4), 0.8, 0.4),
        (Schedule("infinite", 0.1, 0.2, 0.1, cooldown=0.4, constant=0.4), 0.9, 0.2),
        (Schedule("infinite", 0.1, 0.2, 0.1, cooldown=0.4, constant=0.4), 1.0, 0.1),
        (Schedule("infinite", 0.0, 0.2, 0.1, cooldown=0.0, constant=0.4), 0.0, 0.4),
    ],
)
def test_the_rate_follows_its_shape(schedule: Schedule, at: float, factor: float) -> None:
    assert schedule.factor(at) == pytest.approx(factor)


def test_a_schedule_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="warmup is in"):
        Schedule(warmup=1.0)


INFINITE = Schedule("infinite", 0.1, 0.2, 0.1, cooldown=0.4, constant=0.4, rewarm=False)


@pytest.mark.parametrize("shape", ["cosine", "linear", "constant", "wsd", "infinite"])
def test_every_experience_is_rewarmed_unless_it_is_told_otherwise(shape: Shape) -> None:
    schedule = Schedule(shape, warmup=0.2, floor=0.1)
    for at in (0.0, 0.1, 0.2, 0.5, 0.9, 1.0):
        assert schedule.factor(at, seen=3) == schedule.factor(at)
    assert (schedule.factor(0.0, seen=3), schedule.factor(0.1, seen=3), schedule.factor(0.2, seen=3)) == (0.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("schedule", "at", "factor"),
    [
        (Schedule("cosine", floor=0.1, rewarm=False), 0.0, 0.1),
        (Schedule("cosine", floor=0.1, rewarm=False), 0.7, 0.1),
        (Schedule("linear", floor=0.2, rewarm=False), 0.05, 0.2),
        (Schedule("constant", rewarm=False), 0.0, 1.0),
        (Schedule("wsd", decay=0.4, rewarm=False), 0.0, 1.0),
        (Schedule("wsd", decay=0.4, rewarm=False), 0.6, 1.0),
        (Schedule("wsd", decay=0.4, rewarm=False), 0.7, 0.5),
        (INFINITE, 0.0, 0.4),
        (INFINITE, 0.3, 0.4),
        (INFINITE, 0.8, 0.4),
        (INFINITE, 1.0, 0.1),
    ],
)
def test_without_rewarming_the_rate_goes_on_where_it_stood(schedule: Schedule, at: float, factor: float) -> None:
    assert schedule.factor(at, seen=1) == pytest.approx(factor)


def test_the_first_experience_is_warmed_up_whatever_comes_after() -> None:
    assert INFINITE.factor(0.05) == pytest.approx(0.5)


@pytest.mark.parametrize("fields", [{"floor": 0.0}, {"floor": 0.6}, {"floor": 0.1, "cooldown": 0.8}])
def test_an_infinite_schedule_that_does_not_fit_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="are parts of 1"):
        Schedule("infinite", **fields)  # type: ignore[arg-type]


def test_going_on_at_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="floor of 0"):
        Schedule("cosine", rewarm=False)
