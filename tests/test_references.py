"""Reference rows: all together, each alone, and in context; finished ones are read, not learned again."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from everlearn.data.demonstrations import demonstrations
from everlearn.data.streams import class_incremental
from everlearn.errors import ConfigError
from everlearn.evaluate import exams, sit
from everlearn.examples import Example
from everlearn.learner import Learner
from everlearn.metrics.likelihood import Choice, TokenLikelihood
from everlearn.metrics.text import ExactMatch
from everlearn.models.optim import AdamW, Recipe
from everlearn.references import in_context, joint, single
from everlearn.testing.toys import toy_folder, toy_module, toy_stream, toy_tokenizer
from everlearn.types import Stream
from tests.models.lively import stirred


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Learner:
    folder = toy_folder(tmp_path_factory.mktemp("toy"))
    return Learner(str(folder), recipe=Recipe(AdamW(1e-2), batch_size=4, epochs=12, length=64), dtype="float32")


def test_joint_training_is_scored_on_every_experience(learner: Learner, tmp_path: Path) -> None:
    row = joint(learner, toy_stream(), tmp_path)
    assert len(row.scores) == 3
    assert (row.scores[1] or 0) > 0.3
    assert joint(learner, toy_stream(), tmp_path) == row


def test_single_training_learns_each_alone(learner: Learner, tmp_path: Path) -> None:
    row = single(learner, toy_stream(), tmp_path)
    assert (row.scores[1] or 0) > 0.3
    assert [len(row.items(i)) for i in range(3)] == [6, 6, 6]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cats", "digits", "letters"]


def talkative(folder: Path) -> Path:
    """A toy whose answers hang on what it reads, where a learner finds it."""
    module = toy_module(0, torch.float32)
    stirred(module, 0.3)
    module.save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return folder


def shown_before(learner: Learner, stream: Stream, place: int, shots: int) -> tuple[Example, ...]:
    return demonstrations(stream, stream.experiences[place], shots, learner.seed, lambda e: True)


def test_in_context_the_base_model_answers_after_demonstrations(tmp_path: Path) -> None:
    letters, cats, digits = toy_stream().experiences
    stream = Stream((letters, replace(cats, metric=TokenLikelihood()), digits))
    model = talkative(tmp_path / "model")
    learner, before = Learner(str(model), recipe=Recipe(length=512)), (model / "model.safetensors").read_bytes()
    row = in_context(learner, stream, tmp_path, shots=3)
    for place, exam in enumerate(exams(stream)):
        told = replace(exam, shown=(shown_before(learner, stream, place, 3),) * len(exam.examples))
        assert row.items(place) == sit(learner.open(), [told])[0]
        assert [o.key for o in row.items(place)] == [e.key for e in exam.examples]
    assert row.note == "3 demonstrations before each item"
    assert (
        in_context(learner, stream, tmp_path, shots=3)
        == row
        == in_context(learner, stream, tmp_path / "again", shots=3)
    )
    for other in (
        in_context(replace(learner, seed=1), stream, tmp_path, shots=3),
        in_context(learner, stream, tmp_path),
    ):
        assert all(ours != theirs for ours, theirs in zip(row.outcomes, other.outcomes, strict=True))
    # Nothing was learned: no versions, and the model's file is as it was.
    assert {p.name for p in tmp_path.iterdir()} == {"model", "scores", "again"}
    assert (model / "model.safetensors").read_bytes() == before


def test_what_does_not_fit_is_left_out_and_the_note_says_so(learner: Learner, tmp_path: Path) -> None:
    # A letter takes 13 tokens as a demonstration and 21 as an item, a cat 28 as either; 64 hold 3 letters and 1 cat.
    # The digits' items take 8 letters of prompt, 3 marks, a name of 4 or 5, its end, and 8 more.
    learner = replace(learner, model=str(talkative(tmp_path / "model")))
    row = in_context(learner, toy_stream(), tmp_path)
    assert row.note.startswith(
        "8 demonstrations before each item; letters 3, since more do not fit into 64 tokens; "
        "cats 1, since more do not fit into 64 tokens; digits 2, since"
    )
    told = replace(exams(toy_stream())[0], shown=(shown_before(learner, toy_stream(), 0, 3),) * 6)
    assert row.items(0) == sit(learner.open(), [told])[0]


def test_an_experience_that_nothing_can_be_shown_for_is_not_measured(learner: Learner, tmp_path: Path) -> None:
    letters, cats, digits = toy_stream().experiences
    stream = replace(toy_stream(), experiences=(letters, replace(cats, test=digits.test, metric=ExactMatch())))
    row = in_context(replace(learner, recipe=Recipe(length=512)), stream, tmp_path, shots=20)
    assert row.scores[0] is not None
    assert row.scores[1] is None
    assert "letters 12, since it has 12" in row.note
    assert "cats not measured: no training row that fits into 512 tokens can stand before its items" in row.note
    short = in_context(replace(learner, recipe=Recipe(length=30)), stream, tmp_path, shots=1)
    assert short.scores == (None, None)
    assert "letters not measured: no item leaves room for a demonstration in 30 tokens" in short.note


def test_less_than_one_demonstration_is_refused(learner: Learner, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="shots=0"):
        in_context(learner, toy_stream(), tmp_path, shots=0)


def test_class_incremental_items_are_all_shown_the_same(tmp_path: Path) -> None:
    letters, _, digits = toy_stream().experiences
    parts = [
        replace(e, metric=Choice(), labels=tuple({x.response for x in (*e.train, *e.test)})) for e in (letters, digits)
    ]
    stream = class_incremental(parts)
    learner = Learner(str(talkative(tmp_path / "model")), recipe=Recipe(length=512))
    row = in_context(learner, stream, tmp_path, shots=4)
    shown = shown_before(learner, stream, 0, 4)
    told = [replace(exam, shown=(shown,) * 6) for exam in exams(stream)]
    assert [row.items(0), row.items(1)] == sit(learner.open(), told)
    assert set(told[0].candidates) == {label for e in parts for label in e.labels}
