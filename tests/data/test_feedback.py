"""Logs of feedback: what they say, their weights by hand, and what is wrong with a row."""

import json
from pathlib import Path
from typing import Any

import pytest

from everlearn.data.feedback import Log, feedback_pairs, feedback_verdicts, read_feedback
from everlearn.errors import ConfigError, DataError


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
    log = read_feedback(written(tmp_path, LOG))
    assert (log.rejects, log.lines) == ((), 4)
    assert [e.answer for e in log.events] == ["a", "b", "c", "d"]  # by time
    found = [(e.choices, e.metadata["weight"]) for e in feedback_pairs(log.events)]
    assert found == [(("better", "d"), 4.0), (("a", "c"), 4.0)]  # 1 / 0.25, and 1 / (0.5 * 0.5)
    assert [e.metadata["weight"] for e in feedback_pairs(log.events, clip=3.0)] == [3.0, 3.0]


def test_judged_answers_are_weighted_and_clipped(tmp_path: Path) -> None:
    events = read_feedback(written(tmp_path, LOG)).events
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
    found = feedback_verdicts(read_feedback(written(tmp_path, rows)).events)
    liked = [e.metadata["weight"] for e in found if e.metadata["good"]]
    assert sum(liked) == pytest.approx(50)  # 40 / 0.8
    assert sum(e.metadata["weight"] for e in found) == pytest.approx(100)  # and 10 / 0.2


def test_what_was_said_last_of_an_answer_counts(tmp_path: Path) -> None:
    rows = [event(1, "a", "down"), event(2, "a ", "up"), event(3, "b", "up"), event(4, "b", "down")]
    events = read_feedback(written(tmp_path, rows)).events
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
    events = read_feedback(written(tmp_path, rows)).events
    found = [(e.response, e.metadata["good"]) for e in feedback_verdicts(events)]
    assert found == [("a", False), ("b", True), ("c ", True), ("d", False)]
    assert [e.choices for e in feedback_pairs(events)] == [("b", "a"), ("d", "c"), ("c ", "d")]


def test_what_was_read_before_is_passed_over_and_what_came_late_is_not(tmp_path: Path) -> None:
    file = written(tmp_path, [*LOG[:1], "broken", *LOG[1:]])
    first = read_feedback(file)
    assert (len(first.events), [r.source for r in first.rejects], first.lines) == (4, [f"{file}:2"], 5)
    assert read_feedback(file, first.lines) == Log((), (), 5)
    with file.open("a") as log:
        log.write("\n" + json.dumps(event(0, "e", "up")) + "\n[]\n")  # earlier than all that was read
    new = read_feedback(file, first.lines)
    assert ([e.answer for e in new.events], [r.source for r in new.rejects], new.lines) == (["e"], [f"{file}:8"], 8)


def test_a_line_that_is_still_being_written_is_left_for_the_next_time(tmp_path: Path) -> None:
    file, late = written(tmp_path, LOG), json.dumps(event(5, "e", "up"))
    whole = file.read_text()
    file.write_text(whole + late[:20])
    assert read_feedback(file, 4) == Log((), (), 4)
    file.write_text(whole + late)
    assert ([e.answer for e in read_feedback(file, 4).events], read_feedback(file, 4).lines) == (["e"], 5)
    file.write_text(whole + late[:20] + "\n")
    assert [r.source for r in read_feedback(file, 4).rejects] == [f"{file}:5"]


def test_a_log_that_has_become_shorter_or_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 4 lines, and 5 were read before"):
        read_feedback(written(tmp_path, LOG), 5)
    with pytest.raises(DataError, match="there is no such log"):
        read_feedback(tmp_path / "none.jsonl")


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
    log = read_feedback(written(tmp_path, rows))
    assert (log.events, log.lines) == ((), 7)
    assert [r.source.rpartition(":")[2] for r in log.rejects] == [str(i) for i in range(1, 8)]
    for reject, why in zip(
        log.rejects, ("signal 'wave'", "'edit'", "propensity is 0", "no zone", "not ISO", "nothing is asked", "a list"),
        strict=True,
    ):  # fmt: skip
        assert why in reject.reason


def test_a_clip_below_one_is_refused() -> None:
    for of in (feedback_pairs, feedback_verdicts):
        with pytest.raises(ConfigError, match=r"clip is 0.5"):
            of([], 0.5)
