"""Reference rows: all together, and each alone; finished ones are read, not learned again."""

from pathlib import Path

import pytest

from everlearn.learner import Learner
from everlearn.models.optim import AdamW, Recipe
from everlearn.references import joint, single
from everlearn.testing.toys import toy_folder, toy_stream


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
