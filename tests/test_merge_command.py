"""The command merges what is on disk, and explains what it cannot do."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from everlearn.cli import app
from everlearn.console import OK
from everlearn.errors import ConfigError
from everlearn.learner import Learner
from everlearn.merge_command import merge
from everlearn.testing.toys import toy_folder


def test_a_merge_from_the_command_line_is_a_model(tmp_path: Path) -> None:
    for seed, name in enumerate(("base", "a", "b")):
        toy_folder(tmp_path / name, seed)
    models = [word for name in ("a", "b") for word in ("--of", str(tmp_path / name))]
    words = ["merge", str(tmp_path / "out"), "--base", str(tmp_path / "base"), *models]
    result = CliRunner().invoke(app, [*words, "--method", "TIES(density=0.5)", "--weights", "0.5,1", "--memory", "1"])
    assert result.exit_code == OK, result.output
    assert "2 of" in result.output
    Learner(model=str(tmp_path / "out")).open()


@pytest.mark.parametrize(
    ("method", "weights", "says"),
    [
        ("EWC()", "", "is no rule for merging files"),
        ("Soup(), Soup()", "", "is no rule for merging files"),
        ("Soup()", "a,b", "give numbers between commas"),
    ],
)
def test_what_is_no_merge_is_explained(method: str, weights: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        merge(tmp_path / "out", [str(tmp_path)], method, "embedded", weights)
    assert not (tmp_path / "out").exists()
