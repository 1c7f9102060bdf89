"""The preference objective on the toy: its loss by hand, its references, and what it learns."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from everlearn.config import dump, parse, restore
from everlearn.data.preferences import pair, verdict
from everlearn.errors import ConfigError, DataError, Interrupted
from everlearn.evaluate import Exam, sit
from everlearn.examples import Example, Message, Plan, Step
from everlearn.learner import Learner, learn
from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.replay import Replay
from everlearn.metrics.likelihood import Choice
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe
from everlearn.objectives.criteria import DPO, IPO, KTO, Hinge, RobustDPO, SimPO
from everlearn.objectives.preference import Preference
from everlearn.testing.toys import question, toy_folder, toy_model
from everlearn.types import Experience, State
from everlearn.watch import Watch
from everlearn.weights import equal


def asked(prompt: str, chosen: str, rejected: str, weight: float = 1.0) -> Example:
    return pair((Message("user", prompt),), chosen, rejected, {"weight": weight})


PAIRS = [asked("a", "yes", "no"), asked("a longer one", "b", "the cat sat", 3.0), asked("c", "dd", "e")]
OTHER = {name: p.detach() for name, p in toy_model(seed=1).parameters().items()}
PLAN = Plan(batch_size=4, tokens=4096, length=64, references={"start": OTHER, "base": OTHER, "ema": OTHER})
CRITERIA = [DPO(), DPO(smoothing=0.1), RobustDPO(), Hinge(beta=0.01), IPO(), SimPO(), KTO()]


class Alone(LanguageModel):
    """A model that packs nothing."""

    packs = False  # type: ignore[assignment]


def first(objective: Preference, model: LanguageModel, plan: Plan = PLAN, rows: Sequence[Example] = PAIRS) -> Step:
    return next(iter(objective.steps(model, rows, plan)))


def total(objective: Preference, model: LanguageModel, step: Step) -> torch.Tensor:
    return sum((objective.loss(model, b) * (b.weight / step.weight) for b in step.batches), start=torch.zeros(()))


def logprob(model: LanguageModel, prompt: Sequence[Message], answer: str) -> float:
    before, after = model.encode_choice(prompt, answer)
    with torch.no_grad():
        said = model.module(input_ids=torch.tensor([[*before, *after]])).logits.log_softmax(-1)[0]
    return sum(float(said[len(before) + i - 1, token]) for i, token in enumerate(after))


def ratio(prompt: Sequence[Message], answer: str) -> float:
    """log(p / p_ref) of an answer, with the toy as the model and another toy as its reference."""
    return logprob(toy_model(), prompt, answer) - logprob(toy_model(seed=1), prompt, answer)


def test_dpo_by_hand_with_weights() -> None:
    model, objective = toy_model(), Preference(DPO(beta=0.2))
    margins = [0.2 * (ratio(p.prompt, p.choices[0]) - ratio(p.prompt, p.choices[1])) for p in PAIRS]
    losses = [math.log1p(math.exp(-d)) for d in margins]
    expected = (losses[0] + 3 * losses[1] + losses[2]) / 5
    step = first(objective, model)
    assert total(objective, model, step).item() == pytest.approx(expected, abs=1e-10)
    assert step.notes["margin"] == pytest.approx(sum(margins) / 3, abs=1e-10)
    assert step.notes["accuracy"] == sum(d > 0 for d in margins) / 3
    assert step.notes["chosen_reward"] - step.notes["rejected_reward"] == pytest.approx(step.notes["margin"])


def test_kto_by_hand_with_its_baseline() -> None:
    model, objective, seen = toy_model(), Preference(KTO(beta=0.2)), set()
    for good, bad in (("yes", "no"), ("the cat", "b"), ("dd", "e"), ("x1", "qz")):
        rows = [verdict((Message("user", p),), a, a == good, {}) for p, a in (("a", good), ("b", bad))]
        crossed = (ratio(rows[0].prompt, bad) + ratio(rows[1].prompt, good)) / 2
        z = max(0.0, crossed)
        above = 0.2 * (ratio(rows[0].prompt, good) - z), 0.2 * (z - ratio(rows[1].prompt, bad))
        expected = sum(1 - 1 / (1 + math.exp(-x)) for x in above) / 2
        assert total(objective, model, first(objective, model, rows=rows)).item() == pytest.approx(expected, abs=1e-10)
        seen.add(crossed > 0)
    assert seen == {True, False}  # once it was the baseline, and once cut to 0


def test_rpo_adds_the_chosen_answers_likelihood_by_token() -> None:
    model, plain, rpo = toy_model(), Preference(), Preference(nll=0.5)
    nll = [-logprob(model, p.prompt, p.choices[0]) / (len(p.choices[0]) + 1) for p in PAIRS]
    step = first(plain, model)
    expected = total(plain, model, step).item() + 0.5 * (nll[0] + 3 * nll[1] + nll[2]) / 5
    assert total(rpo, model, step).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("criterion", CRITERIA, ids=str)
def test_neither_shared_prompts_nor_the_number_of_passes_change_the_loss_and_its_gradient(criterion: Any) -> None:
    objective, found = Preference(criterion), []
    for model in (toy_model(), Alone(toy_model().module, toy_model().tokenizer, "toy")):
        for tokens in (4096, 1):
            step = first(objective, model, replace(PLAN, tokens=tokens))
            assert len(step.batches) == (1 if tokens > 1 else 6 if criterion == KTO() and not model.packs else 3)
            loss = total(objective, model, step)
            grads = torch.autograd.grad(loss, list(model.trainable().values()))
            found.append(torch.cat([loss.detach()[None], *(g.flatten() for g in grads)]))
    for other in found[1:]:
        assert other[0].item() == pytest.approx(found[0][0].item(), abs=1e-10)
        close = 1e-7 * max(1.0, float(found[0].abs().max()))
        assert torch.allclose(found[0], other, atol=close, rtol=0)  # the toy's norms compute in single precision


def test_at_its_reference_dpo_is_ln_2_and_a_step_widens_the_margin() -> None:
    model, objective = toy_model(), Preference(DPO(beta=0.5))
    plan = replace(PLAN, references={})
    step = first(objective, model, plan)
    loss = total(objective, model, step)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-12)
    assert (step.notes["margin"], step.notes["chosen_reward"]) == (0.0, 0.0)
    parameters = list(model.trainable().values())
    before = [p.detach().clone() for p in parameters]
    grads = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for p, g in zip(parameters, grads, strict=True):
            p -= 0.1 * g
    names = list(model.trainable())
    moved = first(objective, model, replace(plan, references={"start": dict(zip(names, before, strict=True))}))
    assert moved.notes["margin"] > 0
    assert moved.notes["chosen_reward"] > 0 > moved.notes["rejected_reward"]


def test_a_pass_is_cut_into_steps_and_goes_on_where_it_was_left() -> None:
    model, objective, plan = toy_model(), Preference(noted=2), replace(PLAN, batch_size=1, seed=3)
    whole = list(objective.steps(model, PAIRS, plan))
    assert [s.progress for s in whole] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [bool(s.notes) for s in whole] == [True, False, True]
    rest = list(objective.steps(model, PAIRS, replace(plan, start=1)))
    assert [s.batches[0].tokens.tolist() for s in rest] == [s.batches[0].tokens.tolist() for s in whole[1:]]


def test_what_cannot_be_learned_from_is_refused() -> None:
    model = toy_model()
    judged = verdict((Message("user", "a"),), "b", True, {})
    for rows, wrong in (([judged], "take KTO"), ([question("a", "b")], "is no preference")):
        with pytest.raises(DataError, match=wrong):
            first(Preference(), model, rows=rows)
    assert first(Preference(KTO()), model, rows=[judged, PAIRS[0]]).weight == 3
    with pytest.raises(ConfigError, match="knows no pairs"):
        Preference(KTO(), nll=1.0)
    with pytest.raises(ConfigError, match="decay=2"):
        Preference(decay=2)


@pytest.mark.parametrize("criterion", CRITERIA, ids=str)
def test_an_objective_is_its_own_configuration(criterion: Any) -> None:
    assert restore(dump(Preference(criterion))) == Preference(criterion) == parse(f"Preference({criterion})")


def experiences(objective: Preference) -> list[Experience]:
    rows = [
        [asked(f"{name} {w}", chosen, other) for w in "abcdefgh"]
        for name, chosen, other in (("say", "yes", "no"), ("tell", "one", "two"))
    ]
    return [Experience(f"part{i}", tuple(r), tuple(r[:2]), objective, Choice()) for i, r in enumerate(rows)]


RECIPE = Recipe(AdamW(learning_rate=3e-3), batch_size=4, length=64, tokens=256, epochs=2)


def lessons(folder: Path, objective: Preference, method: Any = None) -> tuple[list[list[float]], State, LanguageModel]:
    """The losses of each step of two experiences, and what was learned."""
    learner = Learner(str(toy_folder(folder / "toy")), method or chain(), RECIPE, 0, dtype="float64")
    model = learner.open()
    state, losses = learner.start(model), []
    for experience in experiences(objective):
        rows: list[dict[str, Any]] = []
        state = learn(learner, model, state, experience, Watch(log=rows.append))
        losses.append([row["loss"] for row in rows])
    return losses, state, model


@pytest.mark.parametrize("method", [chain(), chain(LoRA(rank=2))], ids=["plain", "lora"])
def test_the_reference_advances_with_the_experience_or_stays_as_it_is_told(tmp_path: Path, method: Any) -> None:
    start, _, _ = lessons(tmp_path, Preference(reference="start"), method)
    base, _, _ = lessons(tmp_path, Preference(reference="base"), method)
    ema, _, _ = lessons(tmp_path, Preference(reference="ema", decay=0.5), method)
    assert [losses[0] for losses in start] == pytest.approx([math.log(2)] * 2, abs=1e-9)
    assert base[0] == start[0]
    assert base[1][0] != pytest.approx(math.log(2), abs=1e-4)
    assert ema[0][0] == start[0][0]
    assert ema[0][-1] > start[0][-1]  # a reference that follows leaves less of a margin


def test_what_was_preferred_is_likelier_afterwards_with_replay_too(tmp_path: Path) -> None:
    _, _, model = lessons(tmp_path, Preference(DPO(beta=0.5)), chain(Replay(fraction=0.3)))
    tests = [Exam(e.name, e.train, Choice()) for e in experiences(Preference())]
    scores = [sum(o.score for o in outcomes) for outcomes in sit(model, tests)]
    assert scores == [8.0, 8.0]


def test_a_stopped_lesson_ends_in_the_same_bits(tmp_path: Path) -> None:
    objective = Preference(reference="ema", decay=0.5)
    learner = Learner(str(toy_folder(tmp_path / "toy")), chain(), RECIPE, 0, dtype="float64")
    experience, model = experiences(objective)[0], learner.open()
    straight = learn(learner, model, learner.start(model), experience)
    often, model = iter((False, True)), learner.open()
    with pytest.raises(Interrupted):
        learn(
            learner,
            model,
            learner.start(model),
            experience,
            Watch(tmp_path / "at", stop=lambda: next(often, False)),
        )
    fresh = learner.open()
    again = learn(learner, fresh, learner.start(fresh), experience, Watch(tmp_path / "at"))
    assert equal(straight.weights, again.weights)
