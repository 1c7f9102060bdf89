"""Reservoirs are uniform, balanced buffers fair."""

from collections import Counter

import torch

from everlearn.data.buffers import balanced_keep, grouped_keep, reservoir_keep, rooms, turns

CHI_SQUARE_19_AT_999 = 43.82
"""Upper 0.1 % point of the chi-square distribution with 19 degrees of freedom."""


def test_a_reservoir_keeps_every_example_with_the_same_probability() -> None:
    counts: Counter[int] = Counter()
    trials, capacity = 4000, 5
    for seed in range(trials):
        rng = torch.Generator().manual_seed(seed)
        held = [i for _, i in reservoir_keep(0, 0, 8, capacity, rng)]
        kept = reservoir_keep(len(held), 8, 12, capacity, rng)
        counts.update(held[i] if old else 8 + i for old, i in kept)
    expected = trials * capacity / 20
    statistic = sum((counts[i] - expected) ** 2 / expected for i in range(20))
    # Without replacement the variance is smaller by 1 - capacity / 20.
    assert statistic / (1 - capacity / 20) < CHI_SQUARE_19_AT_999
    assert sum(counts.values()) == trials * capacity


def test_a_reservoir_fills_before_it_replaces() -> None:
    kept = reservoir_keep(2, 2, 3, 10, torch.Generator())
    assert kept == [(True, 0), (True, 1), (False, 0), (False, 1), (False, 2)]


def test_balanced_room_is_shared_and_what_is_left_over_is_used() -> None:
    rng = torch.Generator().manual_seed(0)
    kept = balanced_keep(["a"] * 6 + ["b"] * 2, "c", 100, 12, rng)
    origins = Counter("c" if not old else ("a" if i < 6 else "b") for old, i in kept)
    assert origins == {"a": 5, "b": 2, "c": 5}


def test_a_reservoir_is_algorithm_r_draw_by_draw() -> None:
    for held, seen, offered, capacity in ((0, 0, 30, 4), (4, 9, 30, 4), (2, 2, 1, 4), (4, 4, 0, 4)):
        draws = torch.rand(offered, generator=torch.Generator().manual_seed(7), dtype=torch.float64).tolist()
        slots = [(True, i) for i in range(held)]
        for index, draw in enumerate(draws):
            place = int(draw * (seen + index + 1))
            if len(slots) < capacity:
                slots.append((False, index))
            elif place < capacity:
                slots[place] = (False, index)
        assert reservoir_keep(held, seen, offered, capacity, torch.Generator().manual_seed(7)) == slots


def test_a_new_experience_under_an_old_name_shares_its_room() -> None:
    kept = balanced_keep(["a"] * 3 + ["b"] * 3, "a", 3, 12, torch.Generator())
    assert kept == [(True, 3), (True, 4), (True, 5), (True, 0), (True, 1), (True, 2), *((False, i) for i in range(3))]


def test_rooms_are_equal_but_for_what_small_groups_leave_over() -> None:
    assert rooms({"a": 10, "b": 1, "c": 10}, 8) == {"b": 1, "a": 3, "c": 4}
    assert rooms({"a": 1, "b": 2}, 8) == {"a": 1, "b": 2}
    assert sum(rooms(dict.fromkeys("abcde", 3), 2).values()) == 2
    assert rooms({}, 3) == {}


def test_a_group_without_new_members_keeps_its_first_rows() -> None:
    kept = grouped_keep(["a", "b", "a", "a", "b"], ["b", "c"], 5, lambda members, room: members[-room:])
    # Rooms: c has one and needs it; a and b share four. Of b's two old and one new, the last two are chosen.
    assert kept == [(False, 1), (True, 0), (True, 2), (True, 4), (False, 0)]


def test_stored_rows_are_used_up_before_they_are_used_again() -> None:
    drawn = list(turns(3, 7, torch.Generator().manual_seed(0)))
    assert sorted(drawn[:3]) == sorted(drawn[3:6]) == [0, 1, 2]
    assert len(drawn) == 7
    assert list(turns(3, 0, torch.Generator())) == []
