"""Measures of a whole matrix: the authors' figures, absent cells by name, and intervals over test items."""

import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest

from everlearn.definitions import DEFINITIONS
from everlearn.matrix import Matrix, Row, load_published
from everlearn.measures import cells, routing_accuracy, summary
from everlearn.sampling import Sampling
from everlearn.statistics import wilson
from everlearn.types import Outcome

# Sizes of the test sets: 7600 for the large ones, else the public validation set's.
COUNTS = {"CB": 56, "COPA": 100, "RTE": 277, "SST-2": 872, "MultiRC": 4848, "BoolQA": 3270, "WiC": 638}


@pytest.fixture
def published(shared):
    return shared / "published" / "olora_accuracy_matrices.json"


def values(matrix):
    return {m.name: m.value for m in summary(matrix)}


def test_order_1_of_o_lora_gives_the_authors_figures(published):
    found = values(load_published(published, "order1_olora"))
    assert found["accuracy"] == pytest.approx(78.365, abs=5e-4)
    assert found["backward_transfer_lopez_paz"] == pytest.approx(-1.180, abs=5e-4)


def test_15_tasks_of_o_lora_have_three_backward_transfers(published):
    found = values(load_published(published, "long_olora"))
    assert found["accuracy"] == pytest.approx(72.17, abs=5e-3)
    assert found["backward_transfer_lopez_paz"] == pytest.approx(-0.733, abs=5e-4)
    assert found["backward_transfer_sapt"] == pytest.approx(-0.684, abs=5e-4)
    assert found["backward_transfer_clipped"] == pytest.approx(-1.722, abs=5e-4)


def test_15_tasks_of_sequential_lora_give_the_authors_figures(published):
    found = values(load_published(published, "long_seqlora"))
    assert found["accuracy"] == pytest.approx(32.04, abs=5e-3)
    assert found["backward_transfer_lopez_paz"] == pytest.approx(-47.96, abs=5e-3)


def test_every_figure_that_the_authors_printed_comes_out(published):
    theirs = {
        "AP": "accuracy",
        "learning_acc_LA": "learning_accuracy",
        "BWT": "backward_transfer_lopez_paz",
        "FM": "forgetting_chaudhry",
        "overall_mean_OP": "average_incremental_accuracy",
    }
    for name, entry in json.loads(published.read_text()).items():
        found = values(load_published(published, name))
        for key in theirs.keys() & entry.keys():
            assert found[theirs[key]] == pytest.approx(entry[key], abs=1e-4), (name, key)


def test_micro_accuracy_is_the_authors_where_the_numbers_of_items_are_known(published):
    for name, entry in json.loads(published.read_text()).items():
        matrix = load_published(published, name)
        assert values(matrix)["accuracy_micro"] is None
        counted = replace(matrix, counts=tuple(COUNTS.get(task, 7600) for task in matrix.names))
        assert values(counted)["accuracy_micro"] == pytest.approx(entry["instance_weighted_final"], abs=2e-4)


def test_measures_that_need_missing_cells_are_absent_and_name_them(published):
    found = {m.name: m for m in summary(load_published(published, "order1_seqlora"))}
    assert found["accuracy"].value == pytest.approx(62.875)
    assert found["backward_transfer_lopez_paz"].value is None
    assert found["backward_transfer_lopez_paz"].missing == ("R[3,3]",)
    assert found["learning_accuracy"].missing == ("R[3,3]",)
    assert found["forgetting_chaudhry"].missing == ("R[3,1]", "R[3,2]", "R[3,3]")
    assert found["forward_transfer_lopez_paz"].missing[:3] == ("R[0,2]", "R[0,3]", "R[0,4]")
    assert found["intransigence_joint_chaudhry"].missing == ("R[3,3]", "J[1]", "J[2]", "J[3]", "J[4]")
    assert found["accuracy_micro"].missing == ("n[1]", "n[2]", "n[3]", "n[4]")
    assert found["general_ability_delta_trace"].missing == ("G[0,1]", "G[4,1]")


def test_seals_eight_self_edits_end_below_the_untouched_model(shared):
    matrix = load_published(shared / "published" / "seal_continual_self_edits_matrix.json")
    found = values(matrix)
    assert found["accuracy"] == pytest.approx(0.247, abs=5e-4)
    assert found["accuracy"] < sum(matrix.scores[0]) / 8
    assert found["backward_transfer_lopez_paz"] == pytest.approx(-0.191, abs=5e-4)


def made(size, items, seed=0):
    rng = np.random.default_rng(seed)
    names = [f"e{i}" for i in range(size)]

    def row(chance):
        return {
            name: [Outcome(str(k), float(right)) for k, right in enumerate(rng.random(items) < chance(i))]
            for i, name in enumerate(names)
        }

    rows = [row(lambda i, t=t: 0.2 if i >= t else 0.8 - 0.05 * (t - i)) for t in range(size + 1)]
    general = [row(lambda _, t=t: 0.6 - 0.02 * t) for t in range(size + 1)]
    return Matrix.from_outcomes(names, rows, general)


def test_every_measure_has_its_n_and_an_interval_around_it():
    matrix = made(3, 60)
    row = matrix.diagonal
    for measure in summary(replace(matrix, single=row, joint=row)):
        ability = measure.name.startswith("general_ability_delta_trace[")
        assert measure.n == (60 if ability else 180), measure
        assert (measure.missing, measure.note) == ((), ""), measure
        assert measure.low <= measure.value <= measure.high, measure


def test_references_are_read_from_their_own_rows():
    matrix = made(2, 30)
    found = values(replace(matrix, single=Row((0.25, 0.5)), joint=Row((0.75, 1.0))))
    learned = found["learning_accuracy"]
    assert found["intransigence_single"] == pytest.approx(0.375 - learned)
    assert found["intransigence_joint_chaudhry"] == pytest.approx(0.875 - learned)
    without = {m.name: m for m in summary(replace(matrix, single=Row((0.25, 0.5))))}["intransigence_single"]
    assert (without.low, without.high, without.note) == (None, None, "no interval: outcomes are not known")


def test_the_interval_of_accuracy_is_as_wide_as_its_standard_error_says():
    matrix = made(4, 300)
    found = next(m for m in summary(matrix, Sampling(resamples=4000)) if m.name == "accuracy")
    error = math.sqrt(sum(p * (1 - p) / 300 for p in matrix.scores[-1])) / 4
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    narrow = next(m for m in summary(matrix, Sampling(level=0.5, resamples=4000)) if m.name == "accuracy")
    assert narrow.high - narrow.low == pytest.approx(2 * 0.6745 * error, rel=0.08)


def test_backward_transfer_of_a_version_that_forgot_nothing_is_certain():
    names, rows = ["a", "b"], made(2, 40).rows
    stays = Row(tuple(rows[2].scores[i] for i in (0, 1)), rows[2].outcomes)
    matrix = Matrix(tuple(names), (rows[0], Row((stays.scores[0], None), (stays.items(0), ())), stays))
    found = next(m for m in summary(matrix) if m.name == "backward_transfer_lopez_paz")
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_the_same_seed_gives_the_same_intervals_and_another_does_not():
    matrix = made(2, 50)
    assert summary(matrix) == summary(matrix)
    assert summary(matrix) != summary(matrix, Sampling(seed=1))


def test_a_run_under_way_is_measured_on_what_it_has_learned():
    matrix = made(3, 20)
    begun = replace(matrix, rows=matrix.rows[:2], general=replace(matrix.general, rows=matrix.general.rows[:2]))
    found = {m.name: m for m in summary(begun)}
    assert found["accuracy"].value == matrix.scores[1][0]
    assert (found["accuracy"].n, found["general_ability_delta_trace"].n) == (20, 60)
    assert found["backward_transfer_lopez_paz"].value is None
    assert found["backward_transfer_lopez_paz"].note == "needs 2 learned experiences, there are 1"


def test_the_base_model_alone_has_every_measure_absent():
    matrix = made(2, 5)
    found = summary(Matrix(matrix.names, matrix.rows[:1]))
    assert [m.name for m in found] == [d.__name__ for d in DEFINITIONS]
    assert all(m.value is None and m.note for m in found)


def test_cells_have_wilson_intervals_and_absent_ones_say_so():
    matrix = Matrix.from_outcomes(["a", "b"], [{"a": [Outcome("x", 1.0), Outcome("y", 0.0)]}, {}])
    base = cells(matrix)[0]
    assert (base[0].name, base[0].value, base[0].n) == ("R[0,1]", 0.5, 2)
    assert (base[0].low, base[0].high) == wilson(1, 2)
    assert (base[1].value, base[1].missing) == (None, ("R[0,2]",))


def test_fifteen_tasks_of_500_items_are_summed_up_in_two_seconds():
    matrix = made(15, 500)
    start = time.process_time()
    summary(matrix)
    assert time.process_time() - start < 2


def routed(*names):
    return tuple(Outcome(str(place), 1.0, "", name, 0.5 if name else 0.0) for place, name in enumerate(names))


def test_routing_accuracy_is_how_many_prompts_are_taken_for_their_own_experience_by_the_last_version():
    names, wrong = ("a", "b", "c"), {"a": routed("b", "b", "b", "b"), "b": routed("b"), "c": routed("b")}
    last = {"a": routed("a", "b", "a", "a"), "b": routed("b"), "c": routed("a")}
    plain = {name: routed(*[""] * len(found)) for name, found in last.items()}
    found = routing_accuracy(Matrix.from_outcomes(names, [plain, wrong, last]))
    assert [m.name for m in found] == [f"routing_accuracy[{name}]" for name in names]
    assert [m.value for m in found] == [0.75, 1.0, None]
    assert (found[0].low, found[0].high) == pytest.approx(wilson(3, 4))
    assert [m.n for m in found] == [4, 1, 0]
    assert found[2].note == "it was not learned"
    assert routing_accuracy(Matrix.from_outcomes(names, [wrong, plain])) == ()


def test_what_prompts_were_taken_for_is_kept_with_the_matrix():
    made = Matrix.from_outcomes(("a",), [{"a": routed("")}, {"a": routed("a")}])
    assert Matrix.from_dict(json.loads(json.dumps(made.to_dict()))) == made
