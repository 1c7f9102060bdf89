"""A whole grid: run, resumed, extended, shared, and set side by side."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from everlearn.cli import app
from everlearn.console import FAILED, STOPPED
from everlearn.errors import ConfigError, EverlearnError
from everlearn.grid.compare import Compared, Grid, compare, standing_in
from everlearn.learner import Learner
from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.run_folder import RunFolder
from tests.grid.toy_grid import Heard, toy_grid


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("grid")


@pytest.fixture(scope="module")
def found(folder: Path) -> Compared:
    return compare(replace(toy_grid(folder / "model"), references=("joint",)), folder / "out")


def test_every_cell_is_a_run_folder_of_its_own(found: Compared, folder: Path) -> None:
    assert found.failures == {}
    assert {name: list(seeds) for name, seeds in found.matrices.items()} == {"plain": [0, 1], "replay": [0, 1]}
    for name, seeds in found.matrices.items():
        for seed, matrix in seeds.items():
            assert RunFolder(folder / "out" / f"{name}-{seed}").read_matrix() == replace(matrix, joint=None)
            assert matrix.joint is not None
    assert all(cost.minutes > 0 and cost.kept > 1000 for costs in found.costs.values() for cost in costs)


def test_the_cells_share_the_base_model_s_outcomes(found: Compared, folder: Path) -> None:
    files = list((folder / "out" / "scores").glob("*.json"))
    versions = 1 + 2 * 2 * 2  # the base model, and two of each of four runs
    again = 2  # the base model's second measurement, of two exams
    assert len(files) == 2 * versions + again


def test_the_page_and_the_json_say_the_same(found: Compared, folder: Path) -> None:
    page = (folder / "out" / "comparison.md").read_text()
    kept = json.loads((folder / "out" / "comparison.json").read_text())
    assert page == found.page
    assert kept == json.loads(json.dumps(found.to_dict()))
    assert [s["name"] for s in kept["standings"]] == ["plain", "replay"]
    assert {c["measure"] for c in kept["contrasts"]} >= {"accuracy", "backward_transfer_lopez_paz"}
    assert "| replay | ACC |" in page
    assert "intransigence, joint" in page
    assert "seeds 0, 1; test items: letters 6, cats 6" in page
    matrix = found.matrices["plain"][0]
    base = sum(score or 0 for score in matrix.rows[0].scores) / 2
    assert f"- untouched base model: ACC {100 * base:.1f}\n" in page
    assert "- joint: ACC " in page
    assert "- single: ACC" not in page


def test_all_references_stand_beside_the_methods(found: Compared, folder: Path) -> None:
    grid = replace(toy_grid(folder / "model"), references=("joint", "single", "in_context"), seeds=(0,), shots=2)
    both = compare(grid, folder / "out")
    assert both.failures == {}
    matrix = both.matrices["plain"][0]
    assert matrix == replace(found.matrices["plain"][0], single=matrix.single, in_context=matrix.in_context)
    assert matrix.single is not None
    assert matrix.in_context is not None
    # 28 tokens of one cat stand before the 28 of another, 64 in all
    assert "- in_context: ACC " in both.page
    assert "; 2 demonstrations before each item; cats 1, since more do not fit into 64 tokens\n" in both.page
    assert "- single: ACC " in both.page
    held = [(c.name, c.measure, c.n) for c in both.contrasts if c.name == "in_context"]
    assert held == [("in_context", "accuracy", 12)]
    assert "| in_context | ACC |" in both.page
    compare(replace(toy_grid(folder / "model"), references=("joint",)), folder / "out")  # the others' page again


def test_a_second_call_does_only_what_is_missing(found: Compared, folder: Path) -> None:
    heard = Heard([])
    grid = replace(toy_grid(folder / "model"), references=("joint",))
    assert compare(grid, folder / "out", progress=heard).matrices == found.matrices
    assert heard.told == [("cells", 6, 6, "")]
    more = replace(grid, methods=dict(grid.methods) | {"small": chain(LoRA(rank=1))}, seeds=(0,))
    both = compare(more, folder / "out", progress=heard)
    assert list(both.matrices["small"]) == [0]
    lines = [(stage, note) for stage, done, total, note in heard.told if done == total and stage != "cells"]
    assert [stage for stage, _ in lines] == ["small, seed 0"]
    assert lines[0][1].endswith("; 4 of 4")


def test_a_cell_that_fails_is_reported_and_the_others_go_on(folder: Path, tmp_path: Path) -> None:
    grid = toy_grid(folder / "model", seeds=(0,))
    nothing = replace(grid, learner=replace(grid.learner, recipe=replace(grid.learner.recipe, length=4)))
    found = compare(nothing, tmp_path)
    assert set(found.failures) == {"plain, seed 0", "replay, seed 0"}
    assert "rejected.jsonl" in found.failures["plain, seed 0"] or "rows are bad" in found.failures["plain, seed 0"]
    assert "failed: plain, seed 0" in found.page
    assert found.contrasts == ()


def test_grids_that_cannot_be_run_are_refused(folder: Path, tmp_path: Path) -> None:
    grid = toy_grid(folder / "model")
    for wrong in ({"methods": {}}, {"seeds": ()}, {"seeds": (0, 0)}, {"shots": 0}, {"references": ("double",)}):
        with pytest.raises(ConfigError):
            replace(grid, **wrong)
    for name in ("", "a/b", "joint", "in_context", "scores"):
        with pytest.raises(ConfigError, match="a method is named"):
            Grid(grid.stream, {name: chain()}, learner=Learner())


@pytest.fixture
def words(folder: Path, tmp_path: Path) -> list[str]:
    """A comparison on the command line, of demonstrations in files."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    for name in ("next", "same"):
        rows = [{"prompt": f"{name} {a}{b}?", "response": a} for a in letters for b in "xyz"]
        for split, part in (("train", rows[:50]), ("test", rows[50:])):
            (tmp_path / f"{name}-{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part))
    names = "".join(f"  - {{name: {n}, train: {n}-train.jsonl, test: {n}-test.jsonl}}\n" for n in ("next", "same"))
    (tmp_path / "stream.yaml").write_text(f"name: letters\nexperiences:\n{names}")
    given = ["compare", tmp_path / "stream.yaml", "--model", folder / "model", "--suite", "none", "--seeds", "0,1"]
    given += ["--recipe", "Recipe(batch_size=8, length=64, epochs=3)", "--out", tmp_path / "out"]
    return [*map(str, given), "--methods", "plain=LoRA(rank=2)", "--methods", "replay=LoRA(rank=2), Replay()"]


def test_a_comparison_from_the_command_line_stopped_and_gone_on_with(
    words: list[str], found: Compared, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", "from everlearn.cli import main; main()", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out/*/metrics.jsonl")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == STOPPED, errors
    assert "stopped after 0 of 4 cells" in errors
    assert " compare " in errors.split("To go on:")[1]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    assert "comparison on letters" in result.output
    assert "against plain" in result.output
    page, repeated = tmp_path / "page.html", tmp_path / "repeated"
    cells = [str(tmp_path / "out" / name) for name in ("plain-0", "replay-0")]
    assert CliRunner().invoke(app, ["report", *cells, "--out", str(page)]).exit_code == 0
    assert CliRunner().invoke(app, ["run", f"{cells[1]}/run.json", "--out", str(repeated)]).exit_code == 0
    assert RunFolder(repeated).read_matrix() == RunFolder(Path(cells[1])).read_matrix()
    result = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(result.stdout)["seeds"] == [0, 1]


def test_demonstrations_from_the_command_line(words: list[str], tmp_path: Path) -> None:
    asked = [*words, "--seeds", "0", "--in-context", "--shots", "2"]
    result = CliRunner().invoke(app, asked, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "2 demonstrations before each item" in result.output
    assert (tmp_path / "out" / "in_context-0" / "row.json").exists()
    result = CliRunner().invoke(app, [*asked, "--shots", "0"])
    assert isinstance(result.exception, EverlearnError)
    assert "0 shots" in str(result.exception)


def test_words_that_make_no_grid_are_answered_with_what_to_do(words: list[str]) -> None:
    for wrong, says in (
        (["--methods", "LoRA(rank=2)"], "has no name"),
        (["--methods", "plain=EWC()"], "stand twice"),
        (["--seeds", "0;1"], "whole numbers"),
    ):
        result = CliRunner().invoke(app, [*words, *wrong])
        assert isinstance(result.exception, EverlearnError)
        assert says in str(result.exception)


def test_failures_show_in_the_exit_code(words: list[str]) -> None:
    short = [w.replace("length=64", "length=4") for w in words]
    result = CliRunner().invoke(app, short)
    assert result.exit_code == FAILED
    assert "failed: plain, seed 0" in result.output


def test_each_method_may_have_a_recipe_of_its_own(folder: Path) -> None:
    grid = toy_grid(folder / "model")
    own = replace(grid.learner.recipe, epochs=7)
    cells = replace(grid, recipes={"replay": own}).cells(folder)
    assert {cell.name: cell.learner.recipe.epochs for cell in cells} == {
        "plain": grid.learner.recipe.epochs,
        "replay": 7,
    }
    with pytest.raises(ConfigError, match=r"recipes for .'nobody'."):
        replace(grid, recipes={"nobody": own})


def test_grids_may_share_outcomes_and_their_cells_are_the_same(folder: Path) -> None:
    grid = toy_grid(folder / "model")
    named = replace(grid, settings=replace(grid.settings, scores=folder / "kept")).cells(folder / "grid")
    own = grid.cells(folder / "grid")
    assert {cell.settings.scores for cell in named} == {folder / "kept"}
    assert {cell.settings.scores for cell in own} == {folder / "grid" / "scores"}
    assert [cell.asked for cell in named] == [cell.asked for cell in own]


def test_what_is_there_is_set_side_by_side_before_all_is_done(found: Compared, folder: Path) -> None:
    more = replace(toy_grid(folder / "model"), references=("joint",), seeds=(0, 1, 2))
    partly = standing_in(more, folder / "out")
    assert [s.seeds for s in partly.standings] == [(0, 1), (0, 1)]
    assert partly.matrices == found.matrices
    nothing = standing_in(more, folder / "nowhere")
    assert [s.seeds for s in nothing.standings] == [(), ()]
    assert nothing.contrasts == ()
    assert not (folder / "nowhere").exists()
