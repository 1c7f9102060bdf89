"""The command moves an adapter, and prints what it was worth before and after."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from everlearn.cli import app
from everlearn.console import OK
from everlearn.errors import ConfigError
from everlearn.rebase_command import rebase
from everlearn.testing.toys import toy_folder
from tests.testing.lawful_recycling import write

STREAM = """
name: task
experiences:
  - name: letters
    train: rows.jsonl
    test: {fraction: 0.3}
"""


def asked(folder: Path) -> list[str]:
    write(folder / "adapter", folder / "old")
    toy_folder(folder / "new", 4)
    rows = [
        {"prompt": f"after {a}?", "response": b} for a, b in zip("abcdefghijklmnop", "bcdefghijklmnopq", strict=True)
    ]
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "stream.yaml").write_text(STREAM)
    words = ["rebase", f"{folder}/adapter", "--onto", f"{folder}/new", "--stream", f"{folder}/stream.yaml"]
    return [*words, "--out", f"{folder}/out", "--dtype", "float32", "--device", "cpu", "--recipe", "Recipe(length=64)"]


def test_a_rebase_from_the_command_line_prints_its_scores(tmp_path: Path) -> None:
    words = asked(tmp_path)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == OK, result.output
    for row in ("old base + adapter", "recycled", "is the new adapter"):
        assert row in result.output
    result = CliRunner().invoke(app, [*words, "--json"])
    assert len(json.loads(result.stdout)["scores"]) == 5
    assert (tmp_path / "out" / "adapter" / "adapter_config.json").is_file()


def test_what_is_no_recipe_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a LoRA"):
        rebase("a", "b", tmp_path, tmp_path, recipe="LoRA()")
