"""Logs of feedback: what they say, their weights by hand, and what is wrong with a row."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from everlearn.data.feedback import feedback_pairs, feedback_verdicts, read_feedback
from everlearn.errors import ConfigError


def event(minute: int, answer: str, signal: str, **more: Any) -> dict[str, Any]:
    return {"time": f"2026-01-31T12:{minute:02}:00+00:00", "prompt": "p", "answer": answer, "signal": signal} | more


def written(folder: Path, rows: list[Any]) -> Path:
    file = folder / "log.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


LOG = [
    event(3, "c", "down", propensity=0.5),
    event(1, "a", "up", propensity=0.5),
    event(2, "b", "skip", propensity=0.01),
    event(4, "d", "edit", edit="better", propensity=0.25),
]


def test_good_answers_are_paired_with_the_latest_bad_ones_by_inverse_propensity(tmp_path: Path) -> None:
    events, rejects = read_feedback(written(tmp_path, LOG))
    assert rejects == ()
    assert [e.answer for e in events] == ["a", "b", "c", "d"]  # by time
    found = [(e.choices, e.metadata["weight"]) for e in feedback_pairs(events)]
    assert found == [(("better", "d"), 4.0), (("a", "c"), 4.0)]  # 1 / 0.25, and 1 / (0.5 * 0.5)
    assert [e.metadata["weight"] for e in feedback_pairs(events, clip=3.0)] == [3.0, 3.0]


def test_judged_answers_are_weighted_and_clipped(tmp_path: Path) -> None:
    events, _ = read_feedback(written(tmp_path, LOG))
    found = [(e.response, e.metadata["good"], e.metadata["weight"]) for e in feedback_verdicts(events)]
    assert found == [
        ("a", True, 2.0),
        ("b", False, 10.0),  # 1 / 0.01, cut
        ("c", False, 2.0),
        ("d", False, 4.0),
        ("better", True, 4.0),
    ]


def test_inverse_propensities_undo_what_was_shown_more_often(tmp_path: Path) -> None:
    """Half of a hundred users like their answers; those who do were shown them four times as often, 40 of 50 to 10."""
    shown = [("up", 0.8)] * 40 + [("down", 0.2)] * 10
    rows = [event(1, f"{i}", signal, propensity=chance) for i, (signal, chance) in enumerate(shown)]
    found = feedback_verdicts(read_feedback(written(tmp_path, rows))[0])
    liked = [e.metadata["weight"] for e in found if e.metadata["good"]]
    assert sum(liked) == pytest.approx(50)  # 40 / 0.8
    assert sum(e.metadata["weight"] for e in found) == pytest.approx(100)  # and 10 / 0.2


def test_what_was_said_last_of_an_answer_counts(tmp_path: Path) -> None:
    rows = [event(1, "a", "down"), event(2, "a ", "up"), event(3, "b", "up"), event(4, "b", "down")]
    events, _ = read_feedback(written(tmp_path, rows))
    assert [e.choices for e in feedback_pairs(events)] == [("a ", "b")]


def test_an_edit_is_the_last_word_until_the_next_and_says_nothing_where_it_changes_nothing(tmp_path: Path) -> None:
    rows = [
        event(1, "a", "up"),
        event(2, "a", "edit", edit="b"),  # no longer good
        event(3, "c", "edit", edit="d"),
        event(4, "c ", "up"),  # good again
        event(5, "d", "down"),  # what an edit had called good
        event(6, "e", "edit", edit=" e"),
    ]
    events, _ = read_feedback(written(tmp_path, rows))
    found = [(e.response, e.metadata["good"]) for e in feedback_verdicts(events)]
    assert found == [("a", False), ("b", True), ("c ", True), ("d", False)]
    assert [e.choices for e in feedback_pairs(events)] == [("b", "a"), ("d", "c"), ("c ", "d")]


def test_a_later_round_reads_what_came_after(tmp_path: Path) -> None:
    events, _ = read_feedback(written(tmp_path, LOG), after=datetime(2026, 1, 31, 12, 2, tzinfo=UTC))
    assert [e.answer for e in events] == ["c", "d"]


def test_bad_rows_are_named(tmp_path: Path) -> None:
    rows = [
        event(1, "a", "wave"),
        event(1, "a", "edit"),
        event(1, "a", "up", propensity=0),
        event(1, "a", "up") | {"time": "2026-01-31T12:00:00"},
        event(1, "a", "up") | {"time": "yesterday"},
        event(1, "a", "up") | {"prompt": [{"role": "system", "content": "s"}]},
        ["no object"],
    ]
    events, rejects = read_feedback(written(tmp_path, rows))
    assert events == ()
    assert [r.source.rpartition(":")[2] for r in rejects] == [str(i) for i in range(1, 8)]
    for reject, why in zip(
        rejects, ("signal 'wave'", "'edit'", "propensity is 0", "no zone", "not ISO", "nothing is asked", "a list"),
        strict=True,
    ):  # fmt: skip
        assert why in reject.reason


def test_a_clip_below_one_is_refused() -> None:
    for of in (feedback_pairs, feedback_verdicts):
        with pytest.raises(ConfigError, match=r"clip is 0.5"):
            of([], 0.5)
