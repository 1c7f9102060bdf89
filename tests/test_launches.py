"""`everlearn run` under `accelerate launch`: the matrix of one process, stopped and resumed on the way."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from everlearn.fold import Run
from everlearn.testing.toys import toy_folder
from tests.killing import REPOSITORY
from tests.test_stories import progress_of, run_app

LAUNCH = [str(Path(sys.executable).with_name("accelerate")), "launch"]
TWO = ("--multi_gpu", "--num_processes", "2")
COMMAND = "from everlearn.cli import main; main()"
FSDP = """compute_environment: LOCAL_MACHINE
distributed_type: FSDP
num_machines: 1
num_processes: 2
mixed_precision: 'no'
fsdp_config: {fsdp_version: 2, fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy model, a stream of two experiences, and a script that is the command."""
    folder = tmp_path_factory.mktemp("launches")
    toy_folder(folder / "toy")
    (folder / "command.py").write_text(COMMAND)
    for name, answer in (("first", "x"), ("second", "y")):
        rows = [json.dumps({"prompt": f"{name} {a}{b}?", "response": answer}) for a in "abcdefgh" for b in "pqrstu"]
        (folder / f"{name}-train.jsonl").write_text("\n".join(rows[::2]))
        (folder / f"{name}-test.jsonl").write_text("\n".join(rows[1::2]))
    parts = [f"  - {{name: {n}, train: {n}-train.jsonl, test: {n}-test.jsonl}}\n" for n in ("first", "second")]
    (folder / "stream.yaml").write_text("name: answers\nexperiences:\n" + "".join(parts))
    return folder


def words(folder: Path, out: str) -> list[str]:
    """What is asked of the command; in fp64, so that no outcome hangs on the order of a sum."""
    asked = ["run", str(folder / "stream.yaml"), "--model", str(folder / "toy"), "--suite", "none", "--json"]
    asked += ["--recipe", "Recipe(AdamW(learning_rate=2e-2), batch_size=6, length=64, epochs=3)"]
    asked += ["--method", "LoRA(rank=4), Replay(fraction=0.4)", "--dtype", "float64"]
    return [*asked, "--out", str(folder / out)]


def started(folder: Path, out: str, *options: str) -> "subprocess.Popen[str]":
    command = [*LAUNCH, *options, str(folder / "command.py"), *words(folder, out)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(folder: Path, out: str, *options: str) -> tuple[Run, str]:
    process = started(folder, out, *options)
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return Run(folder / out), printed


def require_same(one: Run, two: Run) -> None:
    assert one.matrix == two.matrix
    assert [row["step"] for row in one.files.metrics()] == [row["step"] for row in two.files.metrics()]
    assert [(e.kind, e.experience) for e in one.events] == [(e.kind, e.experience) for e in two.events]


@pytest.fixture(scope="module")
def alone(folder: Path) -> Run:
    code, _ = run_app(*words(folder, "alone"))
    made = Run(folder / "alone")
    assert code == 0
    assert min(score or 0 for score in made.matrix.scores[2]) > 0.5
    return made


def test_two_processes_make_the_matrix_of_one(folder: Path, alone: Run) -> None:
    made, printed = finished(folder, "two", *TWO)
    require_same(made, alone)
    assert json.loads(printed)["matrix"] == made.matrix.to_dict()


@pytest.mark.slow
def test_two_processes_stopped_on_the_way_go_on_to_the_same_matrix(folder: Path, alone: Run) -> None:
    process, deadline = started(folder, "stopped", *TWO), time.monotonic() + 120
    while progress_of(folder / "stopped") < 10 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "To go on:" in errors
    assert len(Run(folder / "stopped").events) < 3
    made, _ = finished(folder, "stopped", *TWO)
    require_same(made, alone)


@pytest.mark.slow
def test_sharded_processes_make_the_matrix_of_one(folder: Path, alone: Run) -> None:
    (folder / "fsdp.yaml").write_text(FSDP)
    made, _ = finished(folder, "sharded", "--config_file", str(folder / "fsdp.yaml"))
    require_same(made, alone)
