"""Means over seeds and paired differences, by hand."""

from dataclasses import replace

import pytest

from everlearn.comparison import compare
from everlearn.grid.standings import Cost, against_in_context, averaged, contrasts, standing, values
from everlearn.matrix import Matrix, Row
from everlearn.statistics import mean_over_seeds, paired_t
from everlearn.types import Outcome


def outcomes(scores: list[float]) -> list[Outcome]:
    return [Outcome(f"item-{i}", float(score)) for i, score in enumerate(scores)]


def run(last_a: list[float], last_b: list[float]) -> Matrix:
    """A run on two experiences: `a` was learned to all right, and ends as given."""
    rows = [{"a": outcomes([0] * len(last_a)), "b": outcomes([0] * len(last_b))} for _ in range(3)]
    rows[1]["a"], rows[2]["a"], rows[2]["b"] = outcomes([1] * len(last_a)), outcomes(last_a), outcomes(last_b)
    general = [{"facts": outcomes(s)} for s in ([1, 1], [1, 1], [1, 0])]
    return Matrix.from_outcomes(["a", "b"], rows, general)


FIRST = {0: run([0, 0, 0, 1], [1, 1]), 1: run([0, 0, 1, 1], [1, 1])}
OTHER = {0: run([1, 1, 0, 1], [1, 1]), 1: run([1, 1, 1, 1], [1, 0]), 2: run([1, 1, 1, 1], [1, 1])}


def test_the_values_of_a_run() -> None:
    assert values(FIRST[0]) == {
        "accuracy": (0.25 + 1) / 2,
        "learning_accuracy": 1.0,
        "backward_transfer_lopez_paz": -0.75,
        "forward_transfer_lopez_paz": 0.0,
        "forgetting_chaudhry": 0.75,
        "general_ability_delta_trace": -0.5,
    }


def test_a_run_of_one_experience_has_no_transfer() -> None:
    one = Matrix.from_outcomes(["a"], [{"a": outcomes([0, 1])}, {"a": outcomes([1, 1])}])
    assert values(one) == {"accuracy": 1.0, "learning_accuracy": 1.0}


def test_a_method_stands_by_its_mean_over_seeds() -> None:
    found = standing("plain", "LoRA()", FIRST, [Cost(1.0, 100.0), Cost(3.0, 300.0)])
    assert found.seeds == (0, 1)
    assert found.values["accuracy"] == (0.625, 0.75)
    assert found.measures["accuracy"] == mean_over_seeds([0.625, 0.75])
    assert (found.minutes, found.kept) == (mean_over_seeds([1.0, 3.0]), mean_over_seeds([100.0, 300.0]))


def test_a_method_without_a_finished_run_stands_without_numbers() -> None:
    found = standing("plain", "LoRA()", {}, [])
    assert (found.seeds, found.measures, found.minutes) == ((), {}, None)


def test_differences_are_paired_by_seed_and_by_item() -> None:
    found = {c.measure: c for c in contrasts("other", FIRST, OTHER)}
    accuracy = found["accuracy"]
    assert accuracy.seeds == (0, 1)  # the third seed has no partner
    assert [d.value for d in accuracy.each] == pytest.approx([0.25, 0.0])
    assert accuracy.change == mean_over_seeds([d.value or 0.0 for d in accuracy.each])
    assert accuracy.p_seeds == paired_t(accuracy.change)
    assert accuracy.p_seeds == pytest.approx(0.5)  # t = 1 with one degree of freedom
    assert accuracy.n == 6
    means = compare(averaged([FIRST[0], FIRST[1]]), averaged([OTHER[0], OTHER[1]]))
    assert accuracy.p_items == next(d.p for d in means.measures if d.name == "accuracy")
    transfer = found["backward_transfer_lopez_paz"]
    assert transfer.change.mean == pytest.approx(0.5)
    assert transfer.p_seeds is None  # both seeds differ by the same: a t-test says nothing


def test_methods_without_a_common_seed_are_not_compared() -> None:
    assert contrasts("other", {0: FIRST[0]}, {1: OTHER[1]}) == ()


def test_items_are_averaged_over_seeds() -> None:
    found = averaged([OTHER[0], OTHER[1]])
    assert [o.score for o in found.rows[2].items(0)] == [1, 1, 0.5, 1]
    assert [o.score for o in found.rows[2].items(1)] == [1, 0.5]
    assert found.rows[2].scores == (0.875, 0.75)
    assert found.general is not None
    assert found.general.rows[2].scores == (0.5,)
    assert averaged([FIRST[0]]) == FIRST[0]


def test_references_are_averaged_where_every_seed_has_them() -> None:
    def upper(scores: list[float]) -> Row:
        return Row.from_outcomes(["a", "b"], {"a": outcomes([1, 1, 1, 1]), "b": outcomes(scores)})

    with_joint = [
        Matrix(m.names, m.rows, joint=upper(s)) for m, s in zip(FIRST.values(), ([1, 1], [0, 1]), strict=True)
    ]
    joint = averaged(with_joint).joint
    assert joint is not None
    assert joint.scores == (1.0, 0.75)
    found = {c.measure for c in contrasts("same", dict(enumerate(with_joint)), dict(enumerate(with_joint)))}
    assert "intransigence_joint_chaudhry" in found
    assert "intransigence_single" not in found
    assert averaged([with_joint[0], FIRST[1]]).joint is None


def test_the_first_method_is_held_against_the_base_model_in_context() -> None:
    def asked(a: list[float], b: list[float]) -> Row:
        return Row.from_outcomes(["a", "b"], {"a": outcomes(a), "b": outcomes(b)})

    rows = {0: asked([1, 1, 1, 1], [1, 1]), 1: asked([0, 0, 0, 0], [1, 1])}
    first = {seed: replace(m, in_context=rows[seed]) for seed, m in FIRST.items()}
    (found,) = against_in_context(first)
    assert (found.name, found.measure, found.seeds, found.n) == ("in_context", "accuracy", (0, 1), 6)
    # (1 + 1) / 2 - (1/4 + 1) / 2, and (0 + 1) / 2 - (2/4 + 1) / 2
    assert [d.value for d in found.each] == pytest.approx([0.375, -0.25])
    assert found.p_items is not None
    (one,) = against_in_context({0: first[0], 1: FIRST[1]})
    assert one.seeds == (0,)
    assert against_in_context(FIRST) == ()
    partly = {0: replace(FIRST[0], in_context=Row.from_outcomes(["a", "b"], {"a": outcomes([1, 1, 1, 1])}))}
    assert against_in_context(partly) == ()
