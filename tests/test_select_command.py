"""The command selects documents, says why, and explains what it cannot do."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from everlearn.cli import app
from everlearn.console import OK
from everlearn.errors import ConfigError
from everlearn.select_command import select
from everlearn.testing.toys import toy_folder


def test_what_is_kept_is_written_with_its_card(tmp_path: Path) -> None:
    model = str(toy_folder(tmp_path / "model"))
    texts = [f"document {number} of a small collection of texts about {number} things" for number in range(8)]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, texts[0] + "!"]))
    words = ["select", str(tmp_path / "all.jsonl"), "--out", str(tmp_path / "kept.jsonl"), "--model", model]
    rules = "Quality(words=(5, 50), stop_words=None)"
    words += ["--by", "Novelty()", "--by", "WordEntropy()", "--share", "0.5", "--quality", rules]
    result = CliRunner().invoke(app, [*words, "--near", "0.95"])
    assert result.exit_code == OK, result.output
    kept = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    assert len(kept) == 4
    assert all(row["text"] in texts and "all.jsonl:" in row["metadata"]["source"] for row in kept)
    card = json.loads((tmp_path / "kept.card.json").read_text())
    assert (card["documents"], card["left"], card["kept"][0]) == (9, {"near duplicates": 1}, 4)
    assert "## Novelty()" in (tmp_path / "kept.card.md").read_text()


def test_without_criteria_nobody_reads_and_all_that_passes_is_kept(tmp_path: Path) -> None:
    (tmp_path / "all.txt").write_text("a text of some words")
    select(str(tmp_path), tmp_path / "kept.jsonl", quality="none", near=0, model="there is none")
    assert json.loads((tmp_path / "kept.jsonl").read_text())["text"] == "a text of some words"


@pytest.mark.parametrize(
    ("by", "quality", "says"),
    [
        (["LoRA()"], "none", "that is no criterion; try 'Novelty"),
        ([], "LoRA()", "that is no rule for texts"),
        (["Noveltyy()"], "none", "Novelty"),
    ],
)
def test_what_is_no_criterion_is_explained(by: list[str], quality: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        select(str(tmp_path), tmp_path / "kept.jsonl", by, quality=quality)
    assert not (tmp_path / "kept.jsonl").exists()
