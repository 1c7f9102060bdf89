"""Attempts, from conversations."""

import json
from pathlib import Path

import pytest

from everlearn.errors import DataError
from everlearn.examples import Message
from everlearn.synthesis.trajectories import Action, Trajectory, read_trajectories

TURNS = [
    {"role": "system", "content": "use tools"},
    {"role": "user", "content": "how old?"},
    {"role": "assistant", "content": "search it"},
    {"role": "tool", "content": "born 1912"},
    {"role": "assistant", "content": "24"},
]


def written(folder: Path, *rows: object) -> Path:
    path = folder / "traces.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_the_assistants_turns_are_steps_and_what_comes_back_stands_between(tmp_path: Path) -> None:
    rows = (
        {"messages": TURNS, "success": False},
        {"messages": TURNS[:3], "reward": 1.0},
        {"messages": TURNS, "reward": 0.9},
    )
    first, second, third = read_trajectories(written(tmp_path, *rows))
    actions = (Action("search it", "born 1912"), Action("24"))
    assert first == Trajectory("use tools\n\nhow old?", actions, False, "traces.jsonl:1")
    assert (second.actions, second.success, third.success) == ((Action("search it"),), True, False)
    assert [t.success for t in read_trajectories(tmp_path / "traces.jsonl", success_from=0.5)] == [False, True, True]


def test_attempts_of_one_turn_and_those_without_a_reward_are_left_out(tmp_path: Path) -> None:
    rows = ({"text": "24", "reward": 1.0}, {"messages": TURNS, "reward": None})
    with pytest.raises(DataError, match="holds no trajectory"):
        read_trajectories(written(tmp_path, *rows))
    assert len(read_trajectories(written(tmp_path, *rows, {"messages": TURNS, "reward": 0}))) == 1


def test_a_row_that_is_no_trajectory_is_named(tmp_path: Path) -> None:
    for row, reason in (
        ([], ":1: is a list, not an object; correct"),
        ({"messages": TURNS}, "neither 'success', true or false, nor a number"),
        ({"messages": TURNS, "reward": "1"}, "neither 'success'"),
        ({"messages": TURNS[:2], "success": True}, "no task with an answer"),
        ({"messages": TURNS[2:], "success": True}, "no task with an answer"),
        ({"messages": [{"role": "user"}], "success": True}, "turn 1: lacks the field 'content'"),
    ):
        with pytest.raises(DataError, match=reason):
            read_trajectories(written(tmp_path, row))
    with pytest.raises(DataError, match="a trajectory has no task"):
        Trajectory.of([Message("user", "how?")], True)
