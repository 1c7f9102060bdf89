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


def test_there_is_an_exam_for_each_experience_and_ability() -> None:
    found = exams(toy_stream(), general_suite(per_ability=2))
    assert [e.name for e in found][:3] == ["letters", "cats", "digits"]
    assert all(e.general and len(e.examples) == 2 and e.metric == Choice() for e in found[3:])
    assert not any(e.general for e in found[:3])


def test_the_name_of_outcomes_depends_on_all_that_decides_them() -> None:
    exam = exams(toy_stream())[0]
    others = [
        replace(exam, examples=exam.examples[:-1]),
        replace(exam, metric=ExactMatch(ignore_case=True)),
        replace(exam, metric=TokenAccuracy()),
        replace(exam, candidates=("a", "b")),
        exam.again(),
    ]
    names = {exam.key("v1"), exam.key("v2"), *(o.key("v1") for o in others)}
    assert len(names) == 7
    assert exam.key("v1") == exams(toy_stream())[0].key("v1")


def scored(model: LanguageModel, exam: Exam, folder: Path) -> tuple[Outcome, ...]:
    found = {}
    for part in rounds(model, "v", [exam], folder, Silent(), Processes()):
        found |= part
    return found[exam.name]


def test_an_exam_is_sat_once(tmp_path: Path) -> None:
    exam = replace(exams(toy_stream())[1], metric=TokenLikelihood())
    first = scored(toy_model(0), exam, tmp_path)
    assert first == sit(toy_model(0), exam)
    assert scored(toy_model(1), exam, tmp_path) == first
    assert sit(toy_model(1), exam) != first


def test_a_second_measurement_agrees_up_to_rounding() -> None:
    exam = replace(exams(toy_stream())[1], metric=TokenLikelihood())
    first, second = sit(toy_model(), exam), sit(toy_model(), exam.again())
    assert [o.score for o in first] == pytest.approx([o.score for o in second], abs=1e-6)
