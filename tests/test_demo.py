"""The demo on a toy: both runs, the tables, the verdict and the page; what was done is not done again."""

from pathlib import Path

import pytest

from everlearn.demo import METHODS, run_demo
from everlearn.fold import Run
from everlearn.testing.toys import toy_folder


def test_it_runs_both_methods_says_what_came_of_it_and_writes_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(toy_folder(tmp_path / "toy"))
    page = run_demo(tmp_path / "out", model=model, rows=8)
    told = capsys.readouterr().out
    runs = {name: Run(tmp_path / "out" / name) for name in METHODS}
    assert all([e.kind for e in made.events] == ["commit"] * 5 for made in runs.values())
    assert "BWT (Lopez-Paz)" in told
    assert "plain fine-tuning" in told.lower()
    assert str(page) in told.replace("\n", "")
    assert page.read_text(encoding="utf-8").count("<svg") >= 4
    assert "Which desk?" in page.read_text(encoding="utf-8"), "what was asked is shown beside the replies"
    matrices = {name: made.matrix for name, made in runs.items()}
    run_demo(tmp_path / "out", model=model, rows=8)
    assert {name: Run(tmp_path / "out" / name).matrix for name in METHODS} == matrices
    assert all(len(Run(tmp_path / "out" / name).events) == 5 for name in METHODS)
