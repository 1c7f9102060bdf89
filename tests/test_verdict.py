"""The verdict: one sentence for each of the ways in which a run may end."""

from dataclasses import replace
from pathlib import Path

import pytest

from everlearn import Matrix
from everlearn.errors import DataError
from everlearn.matrix import Row, load_published
from everlearn.measures import summary
from everlearn.verdict import lost, verdict
from everlearn.wording import percent
from tests.synthetic import KEEPING, KNOWING, PLAIN, PROTECTED, matrix

LEARNED = ((0, 0), (80, 0), (80, 80))
FORGOT = ((0, 0), (80, 0), (20, 80))


def test_what_was_lost_what_was_saved_and_at_what_cost() -> None:
    plain, protected = matrix(PLAIN, KNOWING), matrix(PROTECTED, KEEPING)
    measures = {m.name: m for m in summary(plain)}
    forgot, general = (measures[n] for n in ("backward_transfer_lopez_paz", "general_ability_delta_trace"))
    sentence = verdict(plain, protected)
    assert sentence.startswith(
        f"Plain fine-tuning forgot on average {percent(-(forgot.value or 0))} points [43.9, 56.7] of each earlier "
        "experience, most on words (80.0 to 10.0), "
        f"and {percent(-(general.value or 0))} points [8.3, 18.3] of general ability; "
    )
    assert "; protection saved 43.3 points [36.7, 50.6] of that (p < 0.001), at a cost of 2.1 points " in sentence
    assert sentence.endswith(
        "of learning accuracy (p = 0.050) and with 12.2 points [7.2, 17.2] more general ability (p < 0.001)."
    )
    assert sentence.count(". ") == 0


def test_a_saving_without_a_cost() -> None:
    sentence = verdict(matrix(FORGOT, None), matrix(((0, 0), (80, 0), (70, 80)), None))
    assert "; protection saved 50.0 points [" in sentence
    assert sentence.endswith(", at no cost to learning accuracy that can be told from noise.")


def test_a_gain_in_learning_is_told_too() -> None:
    sentence = verdict(matrix(FORGOT, None), matrix(((0, 0), (100, 0), (90, 100)), None))
    assert sentence.endswith("more learning accuracy (p < 0.001).")
    assert "at a cost" not in sentence


def test_nothing_was_lost() -> None:
    assert lost(matrix(LEARNED, None), "it") == (
        "It forgot nothing: on average, earlier experiences score as when they were learned."
    )


def test_earlier_experiences_gained() -> None:
    assert lost(matrix(((0, 0), (20, 0), (80, 80)), None), "it").startswith(
        "It forgot nothing: on average, each earlier experience gained 60.0 points ["
    )


@pytest.mark.parametrize(("last", "side"), [(78, "loss"), (82, "gain")])
def test_a_change_within_its_interval_is_noise(last: float, side: str) -> None:
    sentence = lost(matrix(((0, 0), (80, 0), (last, 80)), None), "it")
    assert sentence.startswith("It forgot nothing that can be told from noise (on average, a ")
    assert f" {side} of 1.7 points [" in sentence


def test_a_change_within_the_noise_floor_is_noise() -> None:
    rates = ((10, 10), (80, 10), (70, 80))
    assert lost(matrix(rates, None), "it").startswith("It forgot on average 10.0 points")
    assert lost(matrix(rates, None, repeat=(30, 15)), "it").startswith("It forgot nothing that can be told from noise")


def test_protection_without_effect_is_not_told_from_noise() -> None:
    sentence = verdict(matrix(FORGOT, None), matrix(((0, 0), (80, 0), (22, 80)), None), ("run a", "run b"))
    assert sentence.startswith("Run a forgot on average 60.0 points")
    assert "; whether run b saved anything cannot be told from noise (+1.7 points [0.0, +5.0], p = 1.00)." in sentence


def test_protection_that_did_harm() -> None:
    assert "; protection did not help: it lost 60.0 points [" in verdict(matrix(LEARNED, None), matrix(FORGOT, None))


def test_protection_where_there_was_no_loss_kept_more() -> None:
    better = matrix(((0, 0), (20, 0), (80, 80)), None)
    assert "; protection kept 60.0 points [" in verdict(matrix(LEARNED, None), better)


def test_more_than_the_loss_is_not_said_to_be_saved_of_it() -> None:
    assert "; protection kept 90.0 points [" in verdict(
        matrix(((0, 0), (80, 0), (50, 80)), None), matrix(((0, 0), (20, 0), (80, 80)), None)
    )


def test_a_stream_that_has_only_begun() -> None:
    base, first = matrix(PLAIN[:1], None), matrix(PLAIN[:2], None)
    assert lost(base, "it") == "It has learned nothing yet."
    assert verdict(first, first) == (
        "Plain fine-tuning has learned one experience, so that nothing could be forgotten yet."
    )


def test_missing_cells_are_named() -> None:
    table = Matrix(("a", "b"), (Row((0.0, 0.0)), Row((None, 0.0)), Row((0.5, 0.8))))
    assert verdict(table, table) == (
        "What plain fine-tuning forgot cannot be told for want of R[1,1]; "
        "what protection saved cannot be told for want of R[1,1]."
    )


def test_scores_without_outcomes_have_no_interval(shared: Path) -> None:
    path = shared / "published" / "olora_accuracy_matrices.json"
    plain, protected = (load_published(path, name) for name in ("long_seqlora", "long_olora"))
    assert verdict(plain, protected) == (
        "Plain fine-tuning forgot on average 48.0 points of each earlier experience, most on RTE (83.4 to 0.0); "
        "no interval is known; protection kept 47.2 points more, with no interval known."
    )
    assert "protection lost 47.2 points more, with no interval known" in verdict(protected, plain)


def test_runs_of_unlike_streams_have_no_verdict() -> None:
    plain = matrix(FORGOT, None)
    with pytest.raises(DataError, match="runs of unlike streams"):
        verdict(plain, replace(plain, names=("x", "y")))
