"""The matrix as a value: built from outcomes row by row, kept as JSON, imported from what authors printed."""

import json
from dataclasses import replace

import pytest

from everlearn.errors import ConfigError, DataError
from everlearn.matrix import Matrix, Row, load_published
from everlearn.types import Outcome


def outcomes(*scores):
    return tuple(Outcome(f"item-{i}", float(score), f"reply {i}") for i, score in enumerate(scores))


ROWS = [
    {"a": outcomes(0, 0), "b": outcomes(1, 0, 0, 0)},
    {"a": outcomes(1, 1), "b": outcomes(1, 1, 0, 0)},
    {"a": outcomes(1, 0), "b": outcomes(1, 1, 1, 0)},
]
GENERAL = [{"facts": outcomes(1, 1)}, {}, {"facts": outcomes(0, 1)}]


def test_scores_are_the_means_of_outcomes():
    matrix = Matrix.from_outcomes(["a", "b"], ROWS, GENERAL)
    assert matrix.scores == ((0.0, 0.25), (1.0, 0.5), (0.5, 0.75))
    assert matrix.general.names == ("facts",)
    assert matrix.general.scores == ((1.0,), (None,), (0.5,))
    assert (matrix.learned, matrix.count(0), matrix.count(1)) == (2, 2, 4)


def test_a_matrix_grows_row_by_row():
    begun = Matrix.from_outcomes(["a", "b"], ROWS[:2])
    assert begun.learned == 1
    assert begun.diagonal == Row((1.0, None), (outcomes(1, 1), ()))
    assert Matrix.from_outcomes(["a", "b"], ROWS[:1]).diagonal == Row((None, None))
    assert Matrix.from_outcomes(["a", "b"], ROWS).diagonal.scores == (1.0, 0.75)


def test_a_cell_that_was_not_measured_is_none():
    matrix = Matrix.from_outcomes(["a", "b"], [ROWS[0], {"a": ROWS[1]["a"]}])
    assert matrix.scores[1] == (1.0, None)


def test_a_matrix_survives_json():
    matrix = Matrix.from_outcomes(["a", "b"], ROWS, GENERAL)
    extra = Row.from_outcomes(matrix.names, ROWS[2])
    noted = replace(extra, note="3 demonstrations before each item")
    full = replace(matrix, single=extra, joint=Row((0.5, None)), in_context=noted, repeat=extra, counts=(2, 4))
    for whole in (matrix, full):
        assert Matrix.from_dict(json.loads(json.dumps(whole.to_dict()))) == whole


def test_versions_scored_on_unlike_items_are_refused():
    with pytest.raises(DataError, match="b: versions were scored on unlike test items"):
        Matrix.from_outcomes(["a", "b"], [ROWS[0], {"b": outcomes(1, 1, 1)}])
    with pytest.raises(DataError, match="b: versions were scored on unlike test items"):
        replace(Matrix.from_outcomes(["a", "b"], ROWS), in_context=Row((None, 1.0), ((), outcomes(1, 1))))


def test_outcomes_of_an_unknown_experience_are_refused():
    with pytest.raises(DataError, match=r"unknown experiences \['c'\]"):
        Matrix.from_outcomes(["a", "b"], [{"c": outcomes(1)}])


def test_rows_of_unlike_length_are_refused():
    with pytest.raises(DataError, match="2 experiences"):
        Matrix(("a", "b"), (Row((1.0,)),))
    with pytest.raises(DataError, match="base model's row first"):
        Matrix(("a", "b"), ())
    with pytest.raises(DataError, match="one tuple of outcomes for each score"):
        Row((1.0, None), ((),))
    with pytest.raises(DataError, match="a row for each version"):
        Matrix.from_outcomes(["a", "b"], ROWS, GENERAL[:1])


TABLE = {"tasks": ["x", "y"], "matrix": [[90.0, None], [80.0, 70.0]]}


def test_a_published_table_has_no_base_row(tmp_path):
    path = tmp_path / "one.json"
    path.write_text(json.dumps(TABLE))
    matrix = load_published(path)
    assert matrix.scores == ((None, None), (90.0, None), (80.0, 70.0))
    assert (matrix.names, matrix.unit, matrix.count(0)) == (("x", "y"), "percent", None)


def test_a_published_table_may_bring_base_single_and_counts(tmp_path):
    path = tmp_path / "one.json"
    more = {"base": [0.1, 0.2], "single": [0.9, 0.8], "counts": [10, 20], "matrix": [[0.9, None], [0.8, 0.7]]}
    path.write_text(json.dumps(TABLE | more))
    matrix = load_published(path)
    assert matrix.scores[0] == (0.1, 0.2)
    assert (matrix.single, matrix.count(1), matrix.unit) == (Row((0.9, 0.8)), 20, "fraction")


def test_one_of_several_published_tables_is_chosen_by_name(tmp_path):
    path = tmp_path / "many.json"
    path.write_text(json.dumps({"first_run": TABLE, "second_run": TABLE | {"tasks": ["v", "w"]}}))
    assert load_published(path, "second_run").names == ("v", "w")
    with pytest.raises(ConfigError, match="Did you mean 'second_run'"):
        load_published(path, "second_rnu")
    with pytest.raises(ConfigError, match=r"name one of \['first_run', 'second_run'\]"):
        load_published(path)


def test_seals_layout_begins_with_the_base_model_and_pads_with_zeros(tmp_path):
    path = tmp_path / "seal.json"
    path.write_text(json.dumps({"mean_over_sequences": [[0.3, 0.0], [0.4, 0.0], [0.0, 0.5]]}))
    assert load_published(path).scores == ((0.3, 0.0), (0.4, None), (0.0, 0.5))


def test_csv_says_which_row_is_which(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("t,x,y\n0,10,20\n2,80,70\n")
    assert load_published(path).scores == ((10.0, 20.0), (None, None), (80.0, 70.0))
    path.write_text("t,x,y\n1,90,\n2,80,70\n")
    assert load_published(path).scores == ((None, None), (90.0, None), (80.0, 70.0))


@pytest.mark.parametrize("text", ["", "{", '{"tasks": ["x"], "matrix": [["much"]]}', "[1]", '{"a": 3}'])
def test_a_file_that_is_no_matrix_is_refused(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"bad\.json is not a matrix"):
        load_published(path, "a")


@pytest.mark.parametrize("text", ["", "t,x\n", "t,x\n1,much\n", "t,x\n1,1\n1,2\n", "t,x\n-1,1\n"])
def test_a_csv_that_is_no_matrix_is_refused(tmp_path, text):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"bad\.csv is not a matrix"):
        load_published(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.json cannot be read"):
        load_published(tmp_path / "none.json")
