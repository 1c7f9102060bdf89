from dataclasses import replace

import pytest

from everlearn.errors import ConfigError
from everlearn.matrix import Matrix, Row
from everlearn.registry.gates import AllOf, Learn, Reached, Recovered, Retain
from everlearn.types import Outcome


def matrix(*rows: list[float | None], names: str = "abc") -> Matrix:
    return Matrix(tuple(names), tuple(Row(tuple(row)) for row in rows))


STREAM = matrix([0.1, 0.2, 0.0], [0.8, 0.3, 0.0], [0.75, 0.9, 0.0], [0.6, 0.82, 0.5])


def test_a_version_that_kept_enough_is_accepted_with_the_worst_fall():
    verdict = Retain(0.1).judge(STREAM, 2)
    assert verdict.accept
    assert (
        verdict.reason == "Retained: the worst of 1 compared is a from 0.800 in row 1 to 0.750, -0.050 (0.100 allowed)."
    )


def test_a_version_that_forgot_is_rejected_with_the_best_earlier_row_and_the_numbers():
    verdict = Retain(0.1).judge(STREAM, 3)
    assert not verdict.accept
    assert verdict.reason == "Too much was forgotten: a from 0.800 in row 1 to 0.600, -0.200 (0.100 allowed)."


def test_each_fall_is_named():
    assert "; b from 0.900 in row 2 to 0.820" in Retain(0.05).judge(STREAM, 3).reason


def test_a_fall_of_just_what_is_allowed_is_allowed():
    assert Retain(0.1).judge(matrix([0.8, 0.0], [0.8, 0.0], [0.7, 0.0], names="ab"), 2).accept
    assert not Retain(0.1).judge(matrix([0.8, 0.0], [0.8, 0.0], [0.6999, 0.0], names="ab"), 2).accept


def test_what_the_base_model_knew_counts():
    assert not Retain(0.1).judge(matrix([0.9, 0.0], [0.7, 0.0], [0.7, 0.0], names="ab"), 2).accept


def test_experiences_not_yet_learned_and_the_one_just_learned_may_fall():
    assert Retain(0.0).judge(matrix([0.9, 0.9, 0.9], [0.9, 0.9, 0.9], [0.9, 0.1, 0.1]), 2).accept


def test_rows_after_the_version_are_not_looked_at():
    assert Retain(0.1).judge(STREAM, 2) == Retain(0.1).judge(replace(STREAM, rows=STREAM.rows[:3]), 2)


def test_the_first_version_has_nothing_to_forget():
    assert Retain(0.0).judge(STREAM, 1).reason == "Nothing could be forgotten: 0 earlier scores to compare with."
    assert Retain(0.0).judge(STREAM, 1).accept


def test_the_general_suite_is_retained_too_as_a_mean():
    general = matrix([0.5, 0.3], [0.5, 0.3], [0.2, 0.5], [0.2, 0.3], names="xy")
    with_suite = replace(STREAM, general=general)
    assert Retain(0.1).judge(with_suite, 2).accept
    verdict = Retain(0.1).judge(with_suite, 3)
    assert not verdict.accept
    assert "the general suite from 0.400 in row 0 to 0.250, -0.150 (0.100 allowed)" in verdict.reason


def test_the_noise_floor_is_allowed_where_it_is_higher():
    noisy = replace(STREAM, repeat=Row((0.1, 0.45, 0.0)))
    assert Retain(0.1).judge(noisy, 3).accept
    assert "(0.250 allowed)" in Retain(0.1).judge(noisy, 3).reason
    quiet = replace(STREAM, repeat=Row((0.1, 0.21, None)))
    assert Retain(0.1).judge(quiet, 3) == Retain(0.1).judge(STREAM, 3)
    general = matrix([0.5], [0.5], [0.5], [0.35], names="x")
    assert not Retain(0.1).judge(replace(noisy, general=general), 3).accept
    assert Retain(0.1).judge(replace(noisy, general=replace(general, repeat=Row((0.7,)))), 3).accept


def test_percent_and_fractions_are_judged_alike():
    rows = [[s * 100 for s in row.scores] for row in STREAM.rows]
    percent = replace(matrix(*rows), unit="percent", repeat=Row((10.0, 22.0, 0.0)))
    fraction = replace(STREAM, repeat=Row((0.1, 0.22, 0.0)))
    for gate in (Retain(0.1), Learn(0.1)):
        assert [gate.judge(percent, t) for t in (1, 2, 3)] == [gate.judge(fraction, t) for t in (1, 2, 3)]


def test_what_was_measured_before_and_is_not_now_counts_as_lost():
    verdict = Retain(1.0).judge(matrix([None, None], [0.8, None], [None, 0.5], names="ab"), 2)
    assert not verdict.accept
    assert verdict.reason == "Too much was forgotten: a, 0.8 in row 1, was not measured in row 2 (1.000 allowed)."


def test_what_was_never_measured_cannot_be_forgotten():
    assert Retain(0.0).judge(matrix([None, None], [None, None], [0.5, 0.5], names="ab"), 2).accept


def test_a_version_has_to_learn():
    assert Learn().judge(STREAM, 3).accept
    assert Learn().judge(STREAM, 3).reason == "Learned: c from 0.000 in row 2 to 0.500, +0.500 (more than 0.000 asked)."
    assert not Learn(0.5).judge(STREAM, 3).accept
    assert Learn(0.6).judge(STREAM, 3).reason.startswith("Not learned: c from 0.000 in row 2 to 0.500, +0.500")


def test_a_gain_counts_from_the_row_before_and_not_from_the_best():
    assert Learn().judge(matrix([0.0, 0.9], [0.5, 0.2], [0.5, 0.4], names="ab"), 2).accept


def test_no_gain_and_noise_are_not_learning():
    still = matrix([0.4], [0.4], names="a")
    assert not Learn(0.0).judge(still, 1).accept
    little = replace(matrix([0.4], [0.45], names="a"), repeat=Row((0.5,)))
    assert not Learn(0.0).judge(little, 1).accept


@pytest.mark.parametrize("rows", [([None], [0.5]), ([0.5], [None])])
def test_it_is_not_guessed_whether_an_unmeasured_experience_was_learned(rows):
    verdict = Learn().judge(matrix(*rows, names="a"), 1)
    assert not verdict.accept
    assert "R[0,1] or R[1,1] was not measured" in verdict.reason


def test_no_gate_keeps_every_version():
    assert AllOf(()).judge(STREAM, 3).accept
    assert AllOf() == AllOf(())


def test_all_gates_have_to_accept():
    both = AllOf((Retain(0.1), Learn()))
    for t in (1, 2, 3):
        parts = [gate.judge(STREAM, t) for gate in both.gates]
        assert both.judge(STREAM, t).accept == all(p.accept for p in parts)
    assert both.judge(STREAM, 2).reason == " ".join(g.judge(STREAM, 2).reason for g in both.gates)
    assert both.judge(STREAM, 3).reason == Retain(0.1).judge(STREAM, 3).reason
    assert AllOf((AllOf(()), AllOf((both,)))).judge(STREAM, 3).accept is False


@pytest.mark.parametrize("gate", [Retain(), Learn()])
def test_only_versions_that_the_matrix_has_are_judged(gate):
    for t in (0, 4):
        with pytest.raises(ConfigError, match=f"version {t} cannot be judged: the matrix has versions 1 to 3"):
            gate.judge(STREAM, t)


@pytest.mark.parametrize(("gate", "name"), [(Retain, "drop"), (Learn, "gain")])
def test_fractions_are_asked_for(gate, name):
    for value in (-0.1, 10, float("nan")):
        with pytest.raises(ConfigError, match=rf"\({name}\) is {value}; give a fraction"):
            gate(value)


def items(*scores: float) -> tuple[Outcome, ...]:
    return tuple(Outcome(str(i), score) for i, score in enumerate(scores))


def asked(*rows: dict[str, tuple[float, ...]], general: bool = False) -> Matrix:
    """A matrix with outcomes, or one whose general suite has them."""
    known = [{name: items(*scores) for name, scores in row.items()} for row in rows]
    names = tuple(rows[0])
    if general:
        return replace(matrix(*[[0.0] * 2] * len(rows), names="ab"), general=Matrix.from_outcomes(names, known))
    return Matrix.from_outcomes(names, known)


def test_a_score_is_reached_or_not_on_the_experience_itself():
    grid = asked({"a": (0, 1), "b": (0, 0)}, {"a": (1, 1), "b": (0, 0)}, {"a": (0, 0), "b": (1, 0)})
    assert Reached().judge(grid, 1).accept
    assert Reached().judge(grid, 1).reason == "Reached: 1.000 on a, of 2 items (1.000 asked)."
    assert Reached().judge(grid, 2).reason == "Not reached: 0.500 on b, of 2 items (1.000 asked)."
    assert not Reached().judge(grid, 2).accept
    assert Reached(0.5).judge(grid, 2).accept
    assert Reached(on=("a",)).judge(grid, 2).reason == "No score has to be reached on b."
    assert not Reached().judge(matrix([0.0], [None], names="a"), 1).accept


def test_a_fall_within_chance_is_recovery_and_a_larger_one_is_not():
    # changes 0, 0, 0, -1: mean -0.25, standard error sqrt(0.25 / 4) = 0.25, times 1.645 is 0.411
    base = {"x": (1.0, 1.0, 1.0, 1.0)}
    verdict = Recovered().judge(asked(base, {"x": (1, 1, 1, 0)}, general=True), 1)
    assert verdict.accept
    assert verdict.reason == "Recovered: the general suite -0.250 since row 0 (0.411 is noise)."
    # changes -1, -1, -1, 0: mean -0.75, the same standard error
    verdict = Recovered().judge(asked(base, {"x": (0, 0, 0, 1)}, general=True), 1)
    assert not verdict.accept
    assert verdict.reason == "Not recovered: the general suite -0.750 since row 0 (0.411 is noise)."
    assert Recovered(drop=0.75).judge(asked(base, {"x": (0, 0, 0, 1)}, general=True), 1).accept
    assert not Recovered(level=0.5).judge(asked(base, {"x": (1, 1, 1, 0)}, general=True), 1).accept


def test_each_ability_adds_its_share_of_chance():
    # two abilities with standard error 0.25 each: the mean's is sqrt(2 * 0.0625) / 2 = 0.1768, times 1.645 is 0.291
    rows = [{"x": (1.0,) * 4, "y": (1.0,) * 4}, {"x": (1, 1, 1, 0), "y": (0, 1, 1, 1)}]
    assert "-0.250 since row 0 (0.291 is noise)" in Recovered().judge(asked(*rows, general=True), 1).reason


def test_recovery_is_from_the_version_before_and_on_the_experiences_that_are_named():
    rows = [{"a": (1, 1, 1, 1), "b": (0,)}, {"a": (0, 0, 0, 0), "b": (1,)}, {"a": (0, 0, 0, 0), "b": (1,)}]
    fell = asked(*rows)
    assert not Recovered(on=("a",)).judge(fell, 1).accept  # all fell alike: no chance in that
    assert Recovered(on=("a",)).judge(fell, 2).accept
    noisy = replace(fell, repeat=Row((0.0, 0.0), ()))
    assert Recovered(on=("a",)).judge(noisy, 1).accept  # two measurements of the base model lie 1 apart
    with pytest.raises(ConfigError, match="no experiences"):
        Recovered(on=("c",)).judge(fell, 1)


def test_what_was_not_measured_has_not_recovered():
    assert not Recovered().judge(STREAM, 1).accept
    assert not Recovered(on=("a", "b")).judge(matrix([0.1, 0.2], [0.1, None], names="ab"), 1).accept
    assert Recovered(on=("a", "b")).judge(matrix([0.1, 0.2], [0.1, 0.2], names="ab"), 1).accept


def test_percent_recovers_as_fractions_do():
    given = asked({"x": (1.0,) * 4}, {"x": (1, 1, 1, 0)})
    rows = tuple(replace(row, scores=tuple(100 * (s or 0) for s in row.scores)) for row in given.rows)
    percent = replace(given, rows=rows, unit="percent")
    assert Recovered(on=("x",)).judge(percent, 1).reason == Recovered(on=("x",)).judge(given, 1).reason
    assert not Reached(0.9).judge(percent, 1).accept


def test_a_level_or_a_score_without_a_meaning_is_refused():
    for wrong in (lambda: Recovered(level=1.0), lambda: Recovered(level=0.4), lambda: Recovered(drop=2)):
        with pytest.raises(ConfigError):
            wrong()
    with pytest.raises(ConfigError):
        Reached(100)
