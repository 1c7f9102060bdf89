"""The command answers a mistake with a message and its exit code, never with a trace."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from everlearn.console import FAILED, STOPPED
from everlearn.testing.toys import toy_folder


def said(*words: object, folder: Path | None = None) -> tuple[int, str]:
    """Exit code of the real command, started in a folder, and what it printed."""
    # -P: the folder is no place for modules of its own accord, as it is for an installed script
    command = [sys.executable, "-P", "-c", "from everlearn.cli import main; main()", *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    return result.returncode, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["runn"], "No such command 'runn'"),
        (["run"], "Missing argument"),
        (["run", "s.yaml"], "Missing option"),
        (["matrix", "--jsn", "x"], "No such option"),
        (["demo", "--seed", "one"], "--seed"),
        ([], "Usage"),
    ],
)
def test_words_that_are_no_command_are_explained(words: list[str], expected: str) -> None:
    code, text = said(*words)
    assert code == FAILED
    assert expected in text
    assert "Traceback" not in text


def test_a_folder_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1?", "response": "1"}\n' * 3)
    (tmp_path / "s.yaml").write_text("experiences: [{name: a, train: rows.jsonl, test: rows.jsonl}]\n")
    code, text = said("run", tmp_path / "s.yaml", "--out", tmp_path / "rows.jsonl")
    assert code == FAILED
    assert "rows.jsonl" in text
    assert "Traceback" not in text


def test_a_method_in_a_file_of_the_working_folder_has_a_name(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom everlearn import Method\n"
        "@dataclass(frozen=True)\nclass Mine(Method):\n    fraction: float = 0.5\n"
    )
    (tmp_path / "s.yaml").write_text("experiences: [{name: a, train: nothing.jsonl, test: nothing.jsonl}]\n")
    for method, expected in (("mine:Mine(fraction=0.7)", "nothing.jsonl"), ("mine:Mine(part=1)", "fraction=0.5")):
        words = ["run", "s.yaml", "--out", "run", "--method", method]
        code, text = said(*words, folder=tmp_path)
        assert code == FAILED
        assert expected in text


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_says_how_to_go_on(presses: int, tmp_path: Path) -> None:
    toy_folder(tmp_path / "toy")
    rows = "".join(f'{{"prompt": "{i}?", "response": "{i}"}}\n' for i in range(400))
    (tmp_path / "rows.jsonl").write_text(rows)
    (tmp_path / "s.yaml").write_text("experiences: [{name: a, train: rows.jsonl, test: {fraction: 0.1}}]\n")
    words = ["run", "s.yaml", "--model", "toy", "--suite", "none", "--out", "run", "--recipe", "Recipe(epochs=999)"]
    started = [sys.executable, "-c", "from everlearn.cli import main; main()", *words]
    process = subprocess.Popen(started, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    while not (tmp_path / "run" / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.01)
    for _ in range(presses):
        process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == STOPPED, said
    assert "What is done is kept in run. To go on:\n  " in said
    assert f"run s.yaml --model toy --suite none --out run --recipe '{words[-1]}'" in said
    assert "Traceback" not in said
