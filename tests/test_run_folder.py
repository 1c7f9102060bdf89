"""A run's folder knows what was asked, and says so when there is nothing in it."""

from dataclasses import replace
from pathlib import Path

import pytest

from everlearn.data.mixes import Mix, Phase
from everlearn.errors import ConfigError, RegistryError
from everlearn.run_folder import RunFolder, describe_stream, environment, fingerprint
from everlearn.testing.toys import question, toy_stream


def test_an_empty_folder_says_that_it_holds_no_run(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="holds no run"):
        RunFolder(tmp_path).read_matrix()
    RunFolder(tmp_path).describe({"learner": 1}, "identity", "cpu")
    with pytest.raises(RegistryError, match="no version was scored yet"):
        RunFolder(tmp_path).read_matrix()


def test_a_second_start_has_to_ask_for_the_same(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.describe({"learner": {"seed": 0}, "source": "a"}, "identity", "cpu")
    folder.describe({"learner": {"seed": 0}, "source": "b"}, "identity", "cpu")
    folder.ledger.append("commit", "v", None, "", {}, "the base model")
    folder.describe({"learner": {"seed": 0}, "source": "c"}, "identity", "cpu")
    assert folder.asked()["source"] == "b", "what was asked last before the work began"
    with pytest.raises(ConfigError, match="another learner"):
        folder.describe({"learner": {"seed": 1}}, "identity", "cpu")


def test_a_start_that_was_refused_leaves_its_folder_to_a_corrected_one(tmp_path: Path) -> None:
    folder, stream = RunFolder(tmp_path), toy_stream()
    for asked, tested in ((1, stream), (2, stream.ordered(["cats", "digits", "letters"]))):
        folder.describe({"learner": asked}, "identity", "cpu")
        folder.keep_tests(tested)
    assert folder.asked() == {"learner": 2}
    assert "the" in (tmp_path / "tests.jsonl").read_text().splitlines()[0], "the cats come first"


def test_of_a_step_done_again_the_last_row_counts(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.metrics() == []
    for loss in (1.0, 2.0):
        folder.log({"experience": "a", "step": 1, "loss": loss})
    folder.log({"experience": "a", "step": 1, "validation": 3.0})
    assert [r.get("loss") for r in folder.metrics()] == [2.0, None]


def test_of_what_methods_note_each_one_keeps_its_own_row(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for notes in ({"rate": 0.1}, {"rate": 0.2}, {"other": 1.0}):
        folder.log({"experience": "a", "step": 0, "notes": notes})
    assert [r["notes"] for r in folder.metrics()] == [{"rate": 0.2}, {"other": 1.0}]


def test_a_fingerprint_tells_experiences_apart() -> None:
    experience = toy_stream().experiences[0]
    others = [
        replace(experience, test=experience.test[:-1]),
        replace(experience, train=[*experience.train, question("new", "row")]),
        replace(experience, train=[question("new", "row"), *experience.train[1:]]),
        replace(experience, candidates=("a",)),
        replace(experience, metric=toy_stream().experiences[1].metric),
    ]
    prints = [str(fingerprint(e)) for e in (experience, *others)]
    assert len(set(prints)) == len(prints)
    assert describe_stream(toy_stream()) == describe_stream(toy_stream())


def test_the_environment_names_versions_and_device() -> None:
    found = environment("identity", "cpu float32")
    assert found["packages"]["torch"]
    assert found["device"] == "cpu float32"


def test_another_plan_over_the_same_rows_is_another_experience() -> None:
    cats = toy_stream().experiences[1]
    one, other = (replace(cats, train=Mix({"cats": cats.train}, (Phase(n, {"cats": 1}),))) for n in (100, 200))
    assert fingerprint(one)["rows"] == fingerprint(other)["rows"] == fingerprint(cats)["rows"]
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one)["mix"] == {"sources": {"cats": 12}, "phases": [{"tokens": 100, "weights": {"cats": 1}}]}
    assert "mix" not in fingerprint(cats)
