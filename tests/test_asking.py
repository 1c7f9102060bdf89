"""Words become a learner, a stream and settings before anything long begins."""

import json
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path

import pytest

from everlearn.asking import Asked, again, prepare
from everlearn.data.rejects import Reject, write_rejects
from everlearn.errors import ConfigError
from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.registry.gates import AllOf, Learn, Retain
from everlearn.run_folder import RunFolder


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    rows = "".join(json.dumps({"prompt": f"{i}?", "response": str(i)}) + "\n" for i in range(30))
    (tmp_path / "rows.jsonl").write_text(rows)
    (tmp_path / "s.yaml").write_text("name: s\nexperiences: [{name: a, train: rows.jsonl, test: {fraction: 0.3}}]\n")
    return Asked(str(tmp_path / "s.yaml"))


def test_defaults_are_understood(asked: Asked, tmp_path: Path) -> None:
    learner, stream, settings = prepare(asked, tmp_path)
    assert stream.names == ("a",)
    assert settings.gate == AllOf(())
    assert settings.suite is None
    assert learner.seed == 0


def test_expressions_become_objects(asked: Asked, tmp_path: Path) -> None:
    words = replace(asked, method="LoRA(rank=4)", gate="Retain(drop=0.2)", suite="none", recipe="Recipe(epochs=3)")
    learner, _, settings = prepare(words, tmp_path)
    assert learner.method == chain(LoRA(rank=4))
    assert learner.recipe.epochs == 3
    assert settings.gate == Retain(drop=0.2)
    assert settings.suite == ()


def test_a_run_can_be_asked_for_again(asked: Asked, tmp_path: Path) -> None:
    _, stream, settings = prepare(asked, tmp_path)
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"source": settings.source}))
    assert asdict(again(file)) == settings.source
    assert prepare(replace(asked, stream=str(file)), tmp_path)[1].names == stream.names
    file.write_text("{}")
    with pytest.raises(ConfigError, match="cannot be repeated"):
        again(file)


def test_the_wrong_kind_of_object_is_named(asked: Asked, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a LoRA; give a Recipe"):
        prepare(replace(asked, recipe="LoRA()"), tmp_path)


def test_an_earlier_run_is_asked_for_again_with_what_is_given_in_place_of_its_words(
    asked: Asked, tmp_path: Path
) -> None:
    _, _, settings = prepare(replace(asked, method="LoRA(rank=4)", seed=3), tmp_path)
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"source": settings.source}))
    words = Asked(str(file), seed=9, recipe="Recipe(epochs=7)")
    learner, _, _ = prepare(words, tmp_path, ["seed"])
    assert (learner.seed, learner.method, learner.recipe.epochs) == (9, chain(LoRA(rank=4)), 1)


def test_files_and_folders_are_found_from_anywhere_when_a_run_is_repeated(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "suite.jsonl").write_text((resources.files("everlearn.data") / "general_suite.jsonl").read_text())
    words = replace(asked, stream="s.yaml", model="model", suite="suite.jsonl")
    source = prepare(words, tmp_path)[2].source
    assert [source[name] for name in ("stream", "model", "suite")] == [
        str(tmp_path / name) for name in ("s.yaml", "model", "suite.jsonl")
    ]
    assert prepare(asked, tmp_path)[2].source["model"] == "embedded"


def test_several_gates_are_listed_like_methods(asked: Asked, tmp_path: Path) -> None:
    gate = prepare(replace(asked, gate="Retain(drop=0.2), Learn"), tmp_path)[2].gate
    assert gate == AllOf((Retain(drop=0.2), Learn()))


def test_what_is_no_gate_is_refused_before_anything_is_learned(asked: Asked, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"LoRA.*does not fit; give .*Gate"):
        prepare(replace(asked, gate="LoRA(rank=2)"), tmp_path)


def test_the_limit_on_bad_rows_holds_for_rows_that_are_too_long(asked: Asked, tmp_path: Path) -> None:
    text = (tmp_path / "s.yaml").read_text()
    (tmp_path / "s.yaml").write_text(f"bad_rows: 0.8\n{text}")
    assert prepare(asked, tmp_path)[2].bad_rows == 0.8


def test_rows_set_aside_by_a_run_stay_when_another_stream_is_asked_for(asked: Asked, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    write_rejects(folder.root / "rejected.jsonl", [Reject("old.jsonl:1", "broken")])
    folder.ledger.append("commit", "v", None, "", {}, "the base model")
    prepare(asked, folder.root)
    assert folder.rejects() == [Reject("old.jsonl:1", "broken")]
    prepare(asked, tmp_path / "fresh")
    assert RunFolder(tmp_path / "fresh").rejects() == []
