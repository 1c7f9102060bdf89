"""Stages with gates: one that must be kept is kept with its length, one that must be refused is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from everlearn.fold import Run, Settings, run
from everlearn.learner import Learner
from everlearn.method import chain
from everlearn.methods.context import YaRN
from everlearn.metrics.likelihood import TokenAccuracy
from everlearn.metrics.needles import Found, Needles
from everlearn.models.load import load_tokenizer
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.rope import context
from everlearn.registry.gates import AllOf, Reached, Recovered
from everlearn.report import write_report
from everlearn.testing.toys import toy_folder, toy_stream
from everlearn.types import Experience, Silent, Stream
from recipes.long_context import LONGER, Size, cut_back, staged, stages, written

SMALL = Size(short=360, doublings=1, tokens=800, depths=(0.0, 1.0), answer=64, per_ability=0)


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("toy")
    return cut_back(str(toy_folder(folder / "long")), 64, folder / "cut")


def learnt(length: int) -> Experience:
    """What the toy learns in no time: half of the tokens of its answers are their end."""
    letters = toy_stream().experiences[0]
    return replace(letters, name=f"to-{length}", test=letters.train, metric=TokenAccuracy(), length=length)


def lost(cut: str) -> Experience:
    """Needles that the toy cannot find."""
    items = Needles((300,), (0.0, 1.0)).items(load_tokenizer(cut))
    letters = toy_stream().experiences[0]
    return Experience("to-320", letters.train, items, letters.objective, Found(), length=320)


@pytest.fixture(scope="module")
def done(cut: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    recipe = Recipe(AdamW(learning_rate=1e-2), batch_size=4, epochs=8)
    gate = AllOf((Recovered(on=("to-64",)), Reached(0.5)))
    stream = Stream((learnt(64), learnt(128), lost(cut), learnt(256)))
    return run(Learner(cut, YaRN(), recipe), stream, tmp_path_factory.mktemp("staged"), Settings(gate, suite=()))


def test_a_stage_that_reaches_its_score_is_kept_and_one_that_does_not_is_refused(done: Run) -> None:
    kinds = [event.kind for event in done.events]
    assert kinds == ["commit", "commit", "commit", "reject", "commit"]
    assert "Not reached: 0.000 on to-320, of 2 items (0.500 asked)." in done.events[3].reason
    assert "Recovered: to-64" in done.events[2].reason
    assert done.matrix.scores[3] == done.matrix.scores[2]


def test_a_refused_stage_takes_its_length_with_it(done: Run) -> None:
    versions = [done.files.versions.get(e.version) for e in done.events if e.kind == "commit"]
    assert [state.memory for state in versions] == [[{"length": n}] for n in (0, 64, 128, 256)]
    refused = done.files.versions.get(done.events[3].version)
    assert refused.memory == [{"length": 320}]


def test_the_page_draws_where_needles_were_found(done: Run, tmp_path: Path) -> None:
    page = write_report({"staged": done}, tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("needles found, in percent, by length and depth") == 3
    assert "Needles found of to-320, just learned, run staged" in page


def test_the_recipe_refuses_a_toy_and_goes_on(cut: str, tmp_path: Path) -> None:
    first = staged(cut, LONGER["yarn"], SMALL, tmp_path / "yarn", Silent())
    assert [e.kind for e in first.events] == ["commit", "reject", "reject"]
    again = staged(cut, LONGER["yarn"], SMALL, tmp_path / "yarn", Silent())
    assert again.events == first.events
    text = written({"yarn": again}, SMALL, "toy")
    assert "| after to-720 | 0 | 0 | 0 | 0 |" in text
    assert "- to-360: **reject**. Not reached: 0.000 on to-360" in text


def test_a_stage_learns_from_no_item_that_it_is_asked(cut: str) -> None:
    tokenizer = load_tokenizer(cut)
    for experience in stages(tokenizer, SMALL):
        assert not {e.key for e in experience.train} & {e.key for e in experience.test}
    assert [e.length for e in stages(tokenizer, SMALL)] == [360, 720]
    few = stages(tokenizer, replace(SMALL, tokens=16000), 0.1).experiences
    assert len(few[0].train) > 5 * len(few[1].train)


def test_a_model_is_cut_back_once(cut: str) -> None:
    assert cut_back("nowhere", 64, Path(cut)) == cut
    assert context(Learner(cut, chain()).open().module) == 64
