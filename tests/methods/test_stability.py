"""What is looked at while something new is learned."""

from pathlib import Path

import pytest
import torch

from everlearn.errors import ConfigError
from everlearn.fold import Run, Settings, run
from everlearn.learner import Learner, learn
from everlearn.method import chain
from everlearn.methods.stability import LOSS_ON, StabilityGap
from everlearn.models.optim import AdamW, Recipe
from everlearn.report import write_report
from everlearn.run_view import RunView
from everlearn.testing.toys import toy_folder, toy_stream
from everlearn.weights import equal

RECIPE = Recipe(AdamW(learning_rate=1e-2), batch_size=3)


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three experiences that is looked at every two steps."""
    folder = tmp_path_factory.mktemp("gap")
    learner = Learner(
        str(toy_folder(folder / "toy")), StabilityGap(every=2, items=3), RECIPE, dtype="float32", device="cpu"
    )
    run(learner, toy_stream(), folder / "run", Settings(suite=()))
    return folder


def test_losses_are_noted_at_the_beginning_every_few_steps_and_at_the_end(folder: Path) -> None:
    done = Run(folder / "run")
    names = done.matrix.names
    looks = RunView("gap", 0, done, None).looks
    assert list(looks) == list(names[:2])
    steps = {name: cost.steps for name, cost in RunView("gap", 0, done, None).costs.items()}
    first, second, third = (steps[name] for name in names)
    within = {n: [0, *range(2, n, 2), n] for n in (second, third)}
    expected = [first + i for i in within[second]] + [first + second + i for i in within[third]]
    assert [step for step, _ in looks[names[0]]] == expected
    assert [step for step, _ in looks[names[1]]] == [first + second + i for i in within[third]]


def test_the_numbers_are_the_model_s_own(folder: Path) -> None:
    done, stream = Run(folder / "run"), toy_stream()
    learner = Learner(str(folder / "toy"), StabilityGap(), dtype="float32", device="cpu")
    last = [event.version for event in done.events if event.version][-1]
    model = learner.restore(learner.open(), done.files.versions.get(last))
    losses = []
    for example in next(iter(stream)).validation[:3]:
        encoded = model.encode(example)
        with torch.no_grad():
            said = model.module(torch.tensor([encoded.tokens])).logits[0].log_softmax(-1)
        losses += [
            -float(said[i - 1, t])
            for i, (t, asked) in enumerate(zip(encoded.tokens, encoded.supervised, strict=True))
            if asked
        ]
    found = RunView("gap", 0, done, None).looks[next(iter(stream)).name][-1][1]
    assert found == pytest.approx(sum(losses) / len(losses), abs=1e-4)


def test_nothing_that_is_learned_is_changed(folder: Path) -> None:
    states = []
    for method in (chain(), StabilityGap(every=1, items=2)):
        learner = Learner(str(folder / "toy"), method, RECIPE, dtype="float32", device="cpu")
        model = learner.open()
        state = learner.start(model)
        for experience in list(toy_stream())[:2]:
            state = learn(learner, model, state, experience)
        states.append(state.weights)
    assert equal(*states)


def test_the_report_draws_them(folder: Path) -> None:
    page = write_report({"gap": Run(folder / "run")}, folder / "report.html").read_text()
    assert "Loss on earlier experiences while later ones were learned, run gap" in page
    assert "the stability gap" in page
    assert LOSS_ON.strip() in page


@pytest.mark.parametrize("wrong", [{"every": 0}, {"items": 0}])
def test_counts_below_one_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="StabilityGap"):
        StabilityGap(**wrong)
