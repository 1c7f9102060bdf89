"""End to end: killed and resumed; from the command line; on the real embedded model."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.big_stream import big_stream
from everlearn.cli import app
from everlearn.console import FAILED, NO
from everlearn.errors import EverlearnError
from everlearn.fold import Run
from everlearn.testing.toys import toy_folder

STORY = Path(__file__).with_name("story.py")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_folder(tmp_path_factory.mktemp("toy"))


def started(toy: Path, out: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-W", "ignore", str(STORY), str(toy), str(out)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finished(toy: Path, out: Path) -> Run:
    process = started(toy, out)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return Run(out)


def progress_of(out: Path) -> int:
    """Steps logged and exams scored: grows through the whole run."""
    metrics = out / "metrics.jsonl"
    return (metrics.read_bytes().count(b"\n") if metrics.exists() else 0) + len(list((out / "scores").glob("*.json")))


def killed(toy: Path, out: Path, moment: int, delay: float) -> None:
    """Start the run and kill -9 it a little after its progress has reached a moment."""
    process = started(toy, out)
    deadline = time.monotonic() + 300
    while progress_of(out) < moment and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(delay)
    process.kill()
    process.communicate()


def test_a_run_killed_again_and_again_ends_with_the_same_matrix(toy: Path, tmp_path: Path) -> None:
    straight = finished(toy, tmp_path / "straight")
    whole = progress_of(tmp_path / "straight")
    rng = random.Random(7)
    for moment in sorted(rng.sample(range(2, whole - 1), 4)):
        killed(toy, tmp_path / "killed", moment, rng.uniform(0, 0.05))
    resumed = finished(toy, tmp_path / "killed")
    assert resumed.matrix == straight.matrix
    assert [e.version for e in resumed.events] == [e.version for e in straight.events]
    assert max(s or 0 for row in straight.matrix.scores for s in row) > 0


def run_app(*words: object) -> tuple[int, str]:
    """The command's exit code and what it prints; an error that `main` would print is raised."""
    result = CliRunner().invoke(app, [str(w) for w in words])
    if isinstance(result.exception, EverlearnError):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def stream_file(tmp_path: Path) -> Path:
    letters = "abcdefghijklmnopqrstuvwxyz"
    for name, shift in (("next", 1), ("same", 0)):
        rows = [
            {"prompt": f"{name} {a}{b}?", "response": letters[(i + shift) % 26]}
            for i, a in enumerate(letters)
            for b in "xyz"
        ]
        for split, part in (("train", rows[:50]), ("test", rows[50:])):
            (tmp_path / f"{name}-{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part))
    text = "name: letters\nexperiences:\n" + "".join(
        f"  - {{name: {n}, train: {n}-train.jsonl, test: {n}-test.jsonl}}\n" for n in ("next", "same")
    )
    (tmp_path / "stream.yaml").write_text(text)
    return tmp_path / "stream.yaml"


def test_a_run_from_the_command_line(toy: Path, stream_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["run", stream_file, "--model", toy, "--method", "LoRA(rank=2), Replay(fraction=0.1)", "--suite", "none"]
    code, _ = run_app(*words, "--recipe", "Recipe(batch_size=8, length=64)", "--out", out)
    assert code == 0
    code, text = run_app("matrix", out, "--json")
    figures = json.loads(text)
    assert figures["matrix"]["names"] == ["next", "same"]
    assert {"accuracy", "backward_transfer_lopez_paz"} <= {m["name"] for m in figures["measures"]}
    code, text = run_app("log", out, "--json")
    assert [e["kind"] for e in json.loads(text)] == ["commit"] * 3
    code, text = run_app("report", out)
    page = (out / "report.html").read_text()
    assert "<svg" in page
    assert "next" in page
    again, _ = run_app("run", out / "run.json", "--out", tmp_path / "other", "--seed", 1)
    assert again == 0
    assert Run(tmp_path / "other").files.asked()["source"]["seed"] == 1
    repeated, _ = run_app("run", out / "run.json", "--out", tmp_path / "again")
    assert repeated == 0
    assert Run(tmp_path / "again").matrix == Run(out).matrix


def test_rows_set_aside_are_said_beside_the_results(toy: Path, stream_file: Path, tmp_path: Path) -> None:
    long = json.dumps({"prompt": "x" * 70, "response": "y"})
    with (stream_file.parent / "next-train.jsonl").open("a") as rows:
        rows.write(f"broken\n{long}\n")
    words = ["run", stream_file, "--model", toy, "--method", "LoRA(rank=2)", "--suite", "none", "--json"]
    result = CliRunner().invoke(
        app, [*map(str, words), "--recipe", "Recipe(length=64)", "--out", str(tmp_path / "run")]
    )
    assert json.loads(result.stdout)["matrix"]["names"] == ["next", "same"]
    assert "1 rows set aside" in result.stderr
    assert "next-train.jsonl:51: broken JSON" in result.stderr
    assert "2 rows set aside" in result.stderr
    assert "more than length=64" in result.stderr


def test_a_gate_that_refuses_shows_in_the_exit_code(toy: Path, stream_file: Path, tmp_path: Path) -> None:
    words = [
        "run",
        stream_file,
        "--model",
        toy,
        "--method",
        "LoRA(rank=2)",
        "--suite",
        "none",
        "--out",
        tmp_path / "run",
    ]
    code, _ = run_app(*words, "--gate", "Learn(gain=0.9)", "--recipe", "Recipe(length=64)")
    assert code == NO
    code, text = run_app("log", tmp_path / "run")
    assert "reject" in text


def test_a_wrong_expression_names_the_right_one(toy: Path, stream_file: Path, tmp_path: Path) -> None:
    with pytest.raises(EverlearnError, match="LoRA"):
        run_app("run", stream_file, "--model", toy, "--method", "LORa(rank=2)", "--out", tmp_path / "run")
    with pytest.raises(EverlearnError, match="rank"):
        run_app("run", stream_file, "--model", toy, "--method", "LoRA(ranks=2)", "--out", tmp_path / "run")


def test_the_command_prints_errors_without_a_trace(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from everlearn.cli import main; main()", "matrix", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == FAILED
    assert "holds no run" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_audit_with_a_defect_answers_no(stream_file: Path) -> None:
    folder = stream_file.parent
    (folder / "next-test.jsonl").write_text((folder / "next-train.jsonl").read_text())
    code, text = run_app("audit", stream_file, "--json")
    assert code == NO
    assert json.loads(text)["spoils"]


def test_methods_are_listed() -> None:
    code, text = run_app("methods", "--json")
    assert code == 0
    assert {"LoRA", "Replay", "EWC", "L2SP"} <= {row["method"] for row in json.loads(text)}


@pytest.mark.slow
def test_two_gigabytes_of_text_are_learned_from_in_less_than_one_of_memory() -> None:
    found = big_stream(2 * 10**9)
    assert found["big_documents"] > 800_000
    assert found["big_steps"] == found["small_steps"] == 20
    assert found["extra_bytes"] < 10**9


def test_an_audit_goes_on_where_too_many_rows_are_bad_and_answers_no(stream_file: Path) -> None:
    file = stream_file.parent / "next-train.jsonl"
    file.write_text(file.read_text() + '{"prompt": "and?", "response": ""}\n' * 20)
    code, text = run_app("audit", stream_file, "--json")
    assert code == NO
    found = json.loads(text)
    assert len(found["rejected"]) == 20
    assert "20 of 70 rows are bad" in found["excess"][0]
    code, text = run_app("audit", stream_file)
    assert code == NO
    assert "20 of 70 rows are bad" in text
