"""Pairs: flips by hand, the noise floor, and one run against another on the same items."""

from dataclasses import replace

import numpy as np
import pytest

from everlearn.comparison import Flips, compare, flips, noise_floor
from everlearn.errors import DataError
from everlearn.matrix import Matrix, Row, load_published
from everlearn.measures import summary
from everlearn.statistics import mcnemar
from everlearn.types import Outcome


def outcomes(scores, keys=None):
    keys = keys or [f"item-{i}" for i in range(len(scores))]
    return [Outcome(key, float(score)) for key, score in zip(keys, scores, strict=True)]


def run(last_a, last_b):
    base = {"a": outcomes([0] * len(last_a)), "b": outcomes([0] * len(last_b))}
    first = {"a": outcomes([1] * len(last_a)), "b": outcomes([0] * len(last_b))}
    last = {"a": outcomes(last_a), "b": outcomes(last_b)}
    general = [{"facts": outcomes(s)} for s in ([1, 1, 0], [1, 0, 0], [0, 0, 0])]
    return Matrix.from_outcomes(["a", "b"], [base, first, last], general)


def test_flips_are_counted_apart_where_means_are_equal():
    before = Row.from_outcomes(["a"], {"a": outcomes([1, 1, 0, 0, 1])})
    after = Row.from_outcomes(["a"], {"a": outcomes([0, 1, 1, 0, 1])})
    assert before.scores == after.scores
    assert flips(("a",), before, after) == (Flips("a", 5, lost=1, gained=1, graded=False),)


def test_graded_scores_count_as_fallen_or_risen():
    before = Row.from_outcomes(["a"], {"a": outcomes([0.5, 0.5, 1.0])})
    after = Row.from_outcomes(["a"], {"a": outcomes([0.25, 0.5, 0.0])})
    assert flips(("a",), before, after) == (Flips("a", 3, lost=2, gained=0, graded=True),)


def test_flips_since_it_was_learned_and_since_the_base_model():
    matrix = run([1, 0, 0, 1], [1, 1])
    assert flips(matrix.names, matrix.diagonal, matrix.rows[-1])[0] == Flips("a", 4, 2, 0, False)
    assert flips(matrix.names, matrix.rows[0], matrix.rows[-1])[0] == Flips("a", 4, 0, 2, False)


def test_items_are_matched_by_key_whatever_their_order_and_however_often_they_stand():
    before = Row.from_outcomes(["a"], {"a": outcomes([1, 0, 1], ["x", "y", "x"])})
    after = Row.from_outcomes(["a"], {"a": outcomes([0, 1, 1], ["y", "x", "x"])})
    assert flips(("a",), before, after) == (Flips("a", 3, 0, 0, False),)


def test_unlike_items_cannot_be_paired():
    before = Row.from_outcomes(["a"], {"a": outcomes([1], ["x"])})
    after = Row.from_outcomes(["a"], {"a": outcomes([1], ["y"])})
    with pytest.raises(DataError, match="a: the two were scored on unlike test items"):
        flips(("a",), before, after)


def test_flips_of_what_has_no_outcomes_are_left_out():
    assert flips(("a",), Row((0.5,)), Row((0.6,))) == ()


def test_the_noise_floor_by_hand():
    matrix = run([1, 0, 0, 1], [1, 1])
    again = Row.from_outcomes(matrix.names, {"a": outcomes([1, 0, 0, 0]), "b": outcomes([0, 0])})
    found = noise_floor(replace(matrix, repeat=again))
    assert (found.differences, found.mean, found.maximum) == ((0.25, 0.0), 0.125, 0.25)
    assert found.flips[0] == Flips("a", 4, lost=0, gained=1, graded=False)


def test_a_noise_floor_needs_a_second_measurement():
    with pytest.raises(DataError, match="measure it again"):
        noise_floor(run([1], [1]))
    partly = replace(run([1], [1]), repeat=Row((None, None)))
    assert noise_floor(partly).mean is None


def test_a_run_compared_with_itself_differs_in_nothing():
    matrix = run([1, 0, 1, 1], [0.5, 1])
    found = compare(matrix, matrix)
    for difference in (*found.experiences, *found.measures):
        if not difference.missing:
            assert (difference.value, difference.low, difference.high, difference.p) == (0, 0, 0, 1), difference


def test_experiences_scored_right_or_wrong_are_tested_by_mcnemar():
    plain = run([0] * 10 + [1] * 2, [1] * 8)
    protected = run([1] * 9 + [0] + [0] + [1], [1] * 8)
    first, second = compare(plain, protected).experiences
    assert (first.name, first.before, first.after, first.n) == ("a", 2 / 12, 10 / 12, 12)
    assert first.value == pytest.approx(8 / 12)
    assert first.p == mcnemar(1, 9)
    assert first.low < 8 / 12 < first.high
    assert (second.value, second.p) == (0, 1)


def test_graded_experiences_are_tested_by_permutation():
    rng = np.random.default_rng(0)
    scores = rng.random(200) / 2
    better = compare(run(scores, [1]), run(scores + 0.1 * rng.random(200), [1])).experiences[0]
    assert better.p == pytest.approx(1 / 1001)
    assert 0.04 < better.low < better.value < better.high < 0.06
    other = compare(run(scores, [1]), run(rng.permutation(scores), [1])).experiences[0]
    assert other.p > 0.05


def test_definitions_are_compared_with_interval_and_p():
    rng = np.random.default_rng(1)
    plain, protected = (run(rng.random(200) < share, rng.random(100) < 0.5) for share in (0.3, 0.9))
    found = {d.name: d for d in compare(plain, protected).measures}
    values = [{m.name: m.value for m in summary(m_)} for m_ in (plain, protected)]
    transfer = found["backward_transfer_lopez_paz"]
    assert (transfer.before, transfer.after) == tuple(v["backward_transfer_lopez_paz"] for v in values)
    assert transfer.low < transfer.value < transfer.high
    assert transfer.p < 0.01
    assert found["learning_accuracy"].n == 300
    assert found["general_ability_delta_trace[facts]"].value == 0
    assert found["forward_transfer_sapt"].missing == ("S[1]", "S[2]")


def test_runs_with_items_in_another_order_are_paired_by_key():
    matrix = run([1, 0, 0, 1], [1, 0])
    turned = Matrix.from_outcomes(
        matrix.names, [{n: row.items(i)[::-1] for i, n in enumerate(matrix.names)} for row in matrix.rows]
    )
    found = compare(replace(matrix, general=None), turned)
    assert [(d.value, d.low, d.high) for d in found.experiences] == [(0, 0, 0), (0, 0, 0)]


def test_published_tables_are_compared_without_interval(shared):
    path = shared / "published" / "olora_accuracy_matrices.json"
    found = compare(load_published(path, "order1_seqft"), load_published(path, "order1_olora"))
    accuracy = found.measures[0]
    assert accuracy.value == pytest.approx(78.3651 - 67.7665, abs=2e-4)
    assert (accuracy.low, accuracy.high, accuracy.p, accuracy.n) == (None, None, None, 0)
    gap = compare(load_published(path, "order1_seqlora"), load_published(path, "order1_olora")).measures[3]
    assert (gap.name, gap.before, gap.after) == ("learning_accuracy", None, pytest.approx(79.25, abs=1e-4))
    assert (gap.value, gap.missing) == (None, ("R[3,3]",))


def test_runs_that_cannot_be_paired_are_refused():
    matrix = run([1, 0], [1, 0])
    with pytest.raises(DataError, match="runs of unlike streams"):
        compare(matrix, replace(matrix, names=("b", "a")))
    with pytest.raises(DataError, match="same general suite"):
        compare(matrix, replace(matrix, general=None))
    with pytest.raises(DataError, match="a: the two were scored on unlike test items"):
        compare(matrix, run([1, 0, 1], [1, 0]))
    base = Matrix(matrix.names, matrix.rows[:1])
    with pytest.raises(DataError, match="nothing to compare yet"):
        compare(base, base)
