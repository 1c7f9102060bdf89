"""The command writes the page, and explains what it cannot do."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from everlearn.cli import app
from everlearn.console import OK
from everlearn.errors import ConfigError
from everlearn.testing.toys import toy_folder
from everlearn.tokens_command import tokens


def test_the_page_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERLEARN_CACHE", str(tmp_path / "cache"))
    for seed, name in enumerate(("model", "reference")):
        toy_folder(tmp_path / name, seed)
    (tmp_path / "cat.txt").write_text("the cat sat on the mat.")
    objective = f'Selective("{tmp_path / "reference"}", share=0.5)'
    words = ["tokens", str(tmp_path / "cat.txt"), "--objective", objective, "--model", str(tmp_path / "model")]
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "page.html")])
    assert result.exit_code == OK, result.output
    assert "12 of 23 chosen" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("objective", "rows"), [("NextToken()", 4), ('Selective("a")', 0)])
def test_what_chooses_nothing_is_explained(objective: str, rows: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give one such as Selective"):
        tokens("texts", objective, tmp_path / "page.html", rows=rows)
