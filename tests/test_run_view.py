"""What a report reads off one run."""

from dataclasses import replace
from pathlib import Path

import pytest

from everlearn import LoRA, Replay, chain
from everlearn.comparison import Comparison
from everlearn.files import read_json, write_json
from everlearn.run_view import Cost, RunView, expression
from tests.synthetic import NAMES, PROTECTED, matrix, question, write_run


@pytest.fixture(scope="module", name="view")
def _view(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    made = matrix(PROTECTED, repeat=(5, 2, 10, 2))
    method = chain(LoRA(rank=8), Replay(fraction=0.2))
    return RunView("b", 1, write_run(tmp_path_factory.mktemp("run"), made, method), matrix())


def test_objects_are_shown_as_expressions(view: RunView) -> None:
    assert view.method == "LoRA(rank=8), Replay(fraction=0.2)"
    assert view.learner == (
        "Learner(method=chain(LoRA(rank=8), Replay(fraction=0.2)), recipe=Recipe(batch_size=8), seed=3)"
    )
    assert view.model == "embedded"


def test_the_empty_chain_is_plain_fine_tuning(tmp_path: Path) -> None:
    assert RunView("a", 0, write_run(tmp_path, matrix(), chain())).method == "plain fine-tuning of all weights"


def test_what_cannot_be_restored_is_shown_as_it_stands() -> None:
    assert expression({"nowhere.to_be:Found": {"x": 1}}) == '{"nowhere.to_be:Found": {"x": 1}}'


def test_costs_are_summed_by_experience(view: RunView) -> None:
    assert list(view.costs) == list(NAMES)
    assert view.costs["sums"] == Cost(40, 20_000, 10.0)
    assert view.cost == Cost(160, 80_000, 40.0)


def test_a_run_is_compared_with_the_first(view: RunView) -> None:
    assert isinstance(view.comparison, Comparison)
    assert view.differences["accuracy"].before == pytest.approx(0.3375)
    assert view.differences["accuracy"].after == view.measures["accuracy"].value


def test_runs_that_cannot_be_compared_say_why(view: RunView) -> None:
    other = RunView("c", 1, view.run, replace(matrix(), names=("w", "x", "y", "z")))
    assert "runs of unlike streams" in str(other.comparison)
    assert other.differences == {}
    assert RunView("a", 0, view.run).comparison is None


def test_items_lost_and_gained_are_counted_from_two_starts(view: RunView) -> None:
    assert (view.since_learned["words"].lost, view.since_learned["words"].gained) == (4, 0)
    assert (view.since_base["words"].lost, view.since_base["words"].gained) == (0, 40)


def test_the_noise_floor_is_known_where_the_base_model_was_measured_twice(view: RunView, tmp_path: Path) -> None:
    assert view.noise is not None
    assert view.noise.maximum == pytest.approx(1 / 60)
    assert RunView("a", 0, write_run(tmp_path, matrix(), chain())).noise is None


def test_the_general_suite_has_a_mean_for_each_version_where_all_of_it_was_measured(view: RunView) -> None:
    general = view.matrix.general
    assert general is not None
    assert view.general == [pytest.approx(sum(s or 0 for s in row) / 3) for row in general.scores]
    plain = view.matrix.to_dict()
    plain["general"]["rows"][2] = {"scores": [None, 0.5, 0.5]}
    folder = view.run.folder.parent / "holed"
    write_run(folder, matrix(), chain())
    write_json(folder / "matrix.json", plain)
    holed = RunView("a", 0, replace(view.run, folder=folder))
    assert [mean is None for mean in holed.general] == [False, False, True, False, False]


def test_test_items_are_found_where_they_were_kept(view: RunView, tmp_path: Path) -> None:
    asked = question("words", 3)
    assert view.tests[asked.key].prompt == asked.prompt
    assert RunView("a", 0, write_run(tmp_path, matrix(), chain(), tests=False)).tests == {}


def test_the_environment_is_the_one_written_down(view: RunView) -> None:
    assert view.environment == read_json(view.run.folder / "env.json")
    assert view.environment["device"] == "cpu float32"
