"""Words become a learner, a stream and settings before anything long begins."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from everlearn.asking import Asked, again, prepare
from everlearn.errors import ConfigError
from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.registry.gates import AllOf, Retain


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
