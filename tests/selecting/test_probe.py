"""What documents are worth, by annealing runs on the toy."""

from dataclasses import replace
from pathlib import Path

import pytest

from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example
from everlearn.learner import Learner
from everlearn.models.optim import AdamW, Recipe
from everlearn.selecting.probe import AnnealingProbe, Worth
from everlearn.testing.toys import toy_folder

CATS = [Example(text=f"the cat number {i} sat on the mat") for i in range(10, 40)]
SUMS = [Example(text=f"{i} + {i} = {2 * i}, {i} - {i} = 0") for i in range(10, 40)]


def learner(folder: Path) -> Learner:
    recipe = Recipe(AdamW(learning_rate=3e-3), batch_size=4, length=64)
    return Learner(str(toy_folder(folder / "toy")), recipe=recipe, dtype="float32", device="cpu")


def test_documents_of_the_domain_are_worth_more_than_others(tmp_path: Path) -> None:
    who, probe = learner(tmp_path), AnnealingProbe(tokens=3000)
    cats = probe.worth(who, None, CATS[:20], SUMS, CATS[20:])
    sums = probe.worth(who, None, SUMS[:10], SUMS[10:], CATS[20:])
    assert cats.gain > 0.05
    assert cats.interval[0] > 0
    assert cats.gain > sums.gain + 0.05
    assert cats.before == sums.before
    # 900 of 3000 tokens, of which each document has about 33, are 27 documents of 20.
    assert 1.2 < cats.epochs < 1.5
    assert "nats per token below the control, 10 documents" in str(cats)


def test_the_gain_by_hand() -> None:
    worth = Worth(before=(9.0, 9.0), control=(2.0, 3.0), candidate=(1.5, 2.0), epochs=1.0)
    assert worth.gain == 0.75


def test_what_cannot_be_valued_is_refused(tmp_path: Path) -> None:
    who, probe = learner(tmp_path), AnnealingProbe()
    with pytest.raises(DataError, match="candidates: there are no documents"):
        probe.worth(who, None, [], SUMS, CATS)
    with pytest.raises(DataError, match="is held out and learned from"):
        probe.worth(who, None, CATS, SUMS, CATS[:1])
    for change in ({"tokens": 0}, {"share": 0.0}):
        with pytest.raises(ConfigError, match="AnnealingProbe"):
            replace(probe, **change)
