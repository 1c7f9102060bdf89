"""Two real processes learn what one learns: data parallel and sharded."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from everlearn.errors import ConfigError
from everlearn.examples import Plan, Step
from everlearn.models.parallel import Processes, launched
from everlearn.testing.toys import toy_model, toy_stream
from everlearn.weights import equal
from tests.killing import REPOSITORY
from tests.together import FEW, METHODS, SHARDED, learned, selective, small

Results = dict[str, dict[str, Any]]


def together(out: Path, sharding: str, *tasks: str) -> Results:
    command = [sys.executable, "-W", "error", "-m", "tests.together", str(out), "2", sharding, *tasks]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return {task: pickle.loads((out / f"{task}.pickle").read_bytes()) for task in tasks}


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Results:
    tasks = [*(f"learned:{name}" for name in METHODS), "resumed:plain", "small", "talked"]
    tasks += ["selective:excess", "selective:loss", "few:excess"]
    return together(tmp_path_factory.mktemp("replicated"), "replicated", *tasks)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Results:
    tasks = ["learned:plain", "learned:lora_replay", "learned:ewc", "half:plain", "half:lora_replay"]
    tasks += ["resumed:plain", "small", "talked", "selective:excess", "selective:loss", "few:excess"]
    return together(tmp_path_factory.mktemp("sharded"), "sharded", *tasks)


@pytest.fixture(scope="module")
def alone() -> Results:
    return {name: learned(name) for name in METHODS}


def require_same(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert [sorted(row) for row in one["rows"]] == [sorted(row) for row in two["rows"]]
    flat = [[x for row in done["rows"] for x in row.values()] for done in (one, two)]
    assert flat[0] == pytest.approx(flat[1], rel=1e-11)
    require_same_weights(one["weights"], two["weights"])


def require_same_weights(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert list(one) == list(two)
    for name, weight in one.items():
        torch.testing.assert_close(weight, two[name], rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_take_the_trajectory_of_one(name: str, alone: Results, replicated: Results) -> None:
    require_same(alone[name], replicated[f"learned:{name}"])


def test_the_gradient_method_had_something_to_project(alone: Results, replicated: Results) -> None:
    counts = [done["memory"][0]["projections"] for done in (alone["projected"], replicated["learned:projected"])]
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("name", ["plain", "lora_replay"])
def test_sharded_processes_take_the_trajectory_of_one(name: str, alone: Results, sharded: Results) -> None:
    require_same(alone[name], sharded[f"learned:{name}"])
    assert sharded[f"learned:{name}"]["largest"] == alone[name]["largest"] / 2


@pytest.mark.parametrize("name", ["plain", "lora_replay"])
def test_a_sharded_model_in_half_precision_learns_through_masters(name: str, sharded: Results) -> None:
    found, one = sharded[f"half:{name}"], learned(name, torch.bfloat16)
    assert {weight.dtype for weight in found["weights"].values()} == {torch.float32}
    assert [r["loss"] for r in found["rows"] if "loss" in r] == pytest.approx(
        [r["loss"] for r in one["rows"] if "loss" in r], rel=2e-3
    )


def test_a_method_that_cannot_work_on_shards_says_so(sharded: Results) -> None:
    assert sharded["learned:ewc"]["error"].startswith("EWC(")
    assert "this launch has them sharded" in sharded["learned:ewc"]["error"]


@pytest.mark.parametrize("kind", ["replicated", "sharded"])
def test_work_that_one_process_was_asked_to_stop_goes_on_to_the_same_bits(
    kind: str, request: pytest.FixtureRequest
) -> None:
    found = request.getfixturevalue(kind)["resumed:plain"]
    assert found["left"] == 0
    assert equal(found["straight"], found["resumed"])


@pytest.mark.parametrize("kind", ["replicated", "sharded"])
def test_a_step_of_one_row_is_learned_once(kind: str, request: pytest.FixtureRequest) -> None:
    results: Results = request.getfixturevalue(kind)
    require_same_weights(small()["weights"], results["small"]["weights"])


@pytest.mark.parametrize("kind", ["replicated", "sharded"])
@pytest.mark.parametrize("score", ["excess", "loss"])
def test_tokens_are_chosen_among_those_of_all_processes(
    kind: str, score: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    found = request.getfixturevalue(kind)[f"selective:{score}"]
    require_same_weights(selective(tmp_path, score)["weights"], found["weights"])


@pytest.mark.parametrize("kind", ["replicated", "sharded"])
def test_processes_with_unlike_numbers_of_passes_choose_what_one_does(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    one, two = selective(tmp_path, "excess", **FEW), request.getfixturevalue(kind)["few:excess"]
    assert any(len(step) % 2 for step in one["chosen"])  # of the passes that score, one process makes one more
    assert not all(any(part) for step in one["chosen"] for part in step)  # and some passes learn nothing
    assert one["chosen"] == two["chosen"]
    require_same(one, two)


@pytest.mark.parametrize("kind", ["replicated", "sharded"])
def test_what_processes_tell_each_other(kind: str, request: pytest.FixtureRequest) -> None:
    talked = request.getfixturevalue(kind)["talked"]
    assert len(talked["each"]) == 2
    for found in talked["each"]:
        assert (found["sum"], found["any"], found["main"], found["error"]) == (3.0, [True, False], 0, "no")
        assert "for some processes only" in found["apart"]
        assert found["same"]["number"] == 0
        assert found["same"]["list"][0].tolist() == [0.0, 0.0]
        assert found["whole"]["w"].equal(torch.arange(15.0).view(5, 3))
    assert talked["total"].tolist() == [[2.0, 2.0]] * 3


def test_one_process_gets_back_what_it_gives() -> None:
    here, grads = Processes(), {"w": torch.ones(2)}
    assert here.main
    assert here.total(grads)["w"] is grads["w"]
    assert (here.add(2.0), here.any(True, False), here.gather("x"), here.by_main(len, "ab")) == (
        2.0,
        [True, False],
        ["x"],
        2,
    )
    assert here.same(grads) is grads
    assert here.whole(here.spread(grads))["w"] is grads["w"]


def test_the_shares_of_a_step_weigh_one_and_sharded_ones_are_as_many() -> None:
    experience = toy_stream().experiences[0]
    step: Step = next(iter(experience.objective.steps(toy_model(), experience.train, Plan(batch_size=4))))
    for plugin in (None, object()):
        mine = [Processes(index, 3, None, plugin).share(step) for index in range(3)]  # type: ignore[arg-type]
        assert sum(weight for share in mine for _, weight in share) == pytest.approx(1.0)
        assert plugin is None or len({len(share) for share in mine}) == 1


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true", "WORLD_SIZE": "2"}, "Launch with FSDP2 in its place"),
        ({"ACCELERATE_USE_CPU": "True", "MASTER_PORT": "29500"}, "starts a single process"),
        (SHARDED | {"FSDP_VERSION": "1"}, "fsdp_version: 2"),
        (SHARDED | {"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "activation_checkpointing: false"),
    ],
)
def test_a_launch_that_cannot_be_followed_says_what_can(
    told: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (told | {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=says):
        launched.__wrapped__()


def test_a_process_that_nobody_launched_is_alone() -> None:
    assert launched() == Processes()
