"""Exams are sat once, named by all that decides an outcome, and again with other rounding."""

from dataclasses import replace
from pathlib import Path

import pytest

from everlearn.evaluate import Exam, exams, rounds, sit
from everlearn.metrics.likelihood import Choice, TokenAccuracy, TokenLikelihood
from everlearn.metrics.suites import general_suite
from everlearn.metrics.text import ExactMatch
from everlearn.models.language_model import LanguageModel
from everlearn.models.parallel import Processes
from everlearn.testing.toys import toy_model, toy_stream
from everlearn.types import Outcome, Silent
from tests.models.forked import forked_model


def test_there_is_an_exam_for_each_experience_and_ability() -> None:
    found = exams(toy_stream(), general_suite(per_ability=2))
    assert [e.name for e in found][:3] == ["letters", "cats", "digits"]
    assert all(e.general and len(e.examples) == 2 and e.metric == Choice() for e in found[3:])
    assert not any(e.general for e in found[:3])


def test_a_task_incremental_stream_alone_tells_what_is_asked_about() -> None:
    told = exams(replace(toy_stream(), scenario="task"), general_suite(per_ability=1))
    assert [e.task for e in told[:3]] == ["letters", "cats", "digits"]
    assert all(e.task.startswith("general ability: ") for e in told[3:])
    others = [replace(toy_stream(), scenario="domain"), replace(toy_stream(), scenario="class")]
    assert {e.task for stream in others for e in exams(stream, general_suite(per_ability=1))} == {""}


def test_what_a_model_takes_each_prompt_for_is_kept_beside_the_outcome_unless_it_is_told(tmp_path: Path) -> None:
    exam = exams(toy_stream())[0]
    for task, general, expected in (("", False, {0.5}), ("letters", False, {0.0}), ("", True, {0.0})):
        asked = replace(exam, task="1" if task else "", general=general)
        folder = tmp_path / f"{task}{general}"
        found = scored(forked_model("weights"), asked, folder)
        assert {o.confidence for o in found} == expected
        assert {bool(o.routed) for o in found} == {expected == {0.5}}
        assert scored(forked_model("weights"), asked, folder) == found


def test_the_name_of_outcomes_depends_on_all_that_decides_them() -> None:
    exam = exams(toy_stream())[0]
    others = [
        replace(exam, examples=exam.examples[:-1]),
        replace(exam, metric=ExactMatch(ignore_case=True)),
        replace(exam, metric=TokenAccuracy()),
        replace(exam, candidates=("a", "b")),
        exam.again(),
        replace(exam, task="letters"),
        replace(exam, shown=((exam.examples[1],),) * 6),
        replace(exam, shown=((exam.examples[2],),) * 6),
    ]
    names = {exam.key("v1"), exam.key("v2"), *(o.key("v1") for o in others)}
    assert len(names) == 10
    assert exam.key("v1") == exams(toy_stream())[0].key("v1")


def scored(model: LanguageModel, exam: Exam, folder: Path) -> tuple[Outcome, ...]:
    found = {}
    for part in rounds(model, "v", [exam], folder, Silent(), Processes()):
        found |= part
    return found[exam.name]


def test_an_exam_is_sat_once(tmp_path: Path) -> None:
    exam = replace(exams(toy_stream())[1], metric=TokenLikelihood())
    first = scored(toy_model(0), exam, tmp_path)
    assert [first] == sit(toy_model(0), [exam])
    assert scored(toy_model(1), exam, tmp_path) == first
    assert sit(toy_model(1), [exam]) != [first]


def test_a_second_measurement_agrees_up_to_rounding() -> None:
    exam = replace(exams(toy_stream())[1], metric=TokenLikelihood())
    (first,), (second,) = sit(toy_model(), [exam]), sit(toy_model(), [exam.again()])
    assert [o.score for o in first] == pytest.approx([o.score for o in second], abs=1e-6)


def test_the_exams_of_a_row_are_asked_together_and_answered_as_alone(tmp_path: Path) -> None:
    model, calls = toy_model(), list[int]()
    model.module.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    asked = exams(toy_stream(), general_suite(per_ability=2))
    assert model.packs
    alone, calls[:] = {exam.name: sit(model, [exam])[0] for exam in asked}, []
    together = {}
    for part in rounds(model, "v", asked, tmp_path, Silent(), Processes()):
        together |= part
    assert {name: [(o.key, o.score) for o in found] for name, found in together.items()} == {
        name: [(o.key, pytest.approx(o.score, abs=1e-9)) for o in found] for name, found in alone.items()
    }
    assert len(calls) < len(asked) + 20, "seven abilities share their passes"
    assert len(list(tmp_path.glob("*.json"))) == len(asked)


def test_what_is_known_is_kept_and_what_is_missing_is_asked_among_the_same_items(tmp_path: Path) -> None:
    asked = [exam for exam in exams(toy_stream()) if exam.metric.question == "generate"]
    straight, again = tmp_path / "straight", tmp_path / "again"
    for folder in (straight, again):
        for _ in rounds(toy_model(), "v", asked, folder, Silent(), Processes()):
            pass
    kept, gone = (again / f"{exam.key('v')}.json" for exam in asked)
    kept.write_text(kept.read_text().replace('"v"', '"v" '))
    gone.unlink()
    for _ in rounds(toy_model(), "v", asked, again, Silent(), Processes()):
        pass
    assert gone.read_bytes() == (straight / gone.name).read_bytes()
    assert kept.read_bytes() != (straight / kept.name).read_bytes()
