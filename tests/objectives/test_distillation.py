"""On-policy distillation on the toy: each form against plain formulas, and what only the teacher reads."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everlearn.config import dump, restore
from everlearn.errors import ConfigError, DataError, Interrupted, ModelError
from everlearn.examples import Batch, Example, Message, Plan, Step, Teacher
from everlearn.learner import Learner, learn
from everlearn.method import chain
from everlearn.metrics.text import ExactMatch
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.recall import recalled
from everlearn.models.sampling import Sampling
from everlearn.models.schedules import Schedule
from everlearn.objectives.distillation import Distillation
from everlearn.objectives.next_token import NextToken
from everlearn.objectives.rollouts import SingleTurn
from everlearn.testing.toys import question, toy_folder, toy_model
from everlearn.types import Experience
from everlearn.watch import Watch
from everlearn.weights import equal, save_tensors

PROMPTS = [question(f"say {w}", f"{w} it is") for w in "abcdef"]
PLAN = Plan(batch_size=3, tokens=4096, length=64, seed=3)
FORMS: list[dict[str, Any]] = [
    {},
    {"direction": "forward"},
    {"top": 2},
    {"top": 2, "direction": "forward"},
    {"form": "sampled"},
]


def distil(**fields: Any) -> Distillation:
    return Distillation(**({"rollout": SingleTurn(Sampling(limit=5, temperature=0.8)), "group": 2} | fields))


def other(seed: int = 1) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in toy_model(seed).parameters().items()}


def first(objective: Distillation, teacher: Mapping[str, Tensor], model: LanguageModel | None = None) -> Step:
    plan = replace(PLAN, references=dict.fromkeys(objective.references, teacher))
    return next(iter(objective.steps(model or toy_model(), PROMPTS, plan)))


def learned_from(objective: Distillation, model: LanguageModel, step: Step) -> tuple[float, Tensor]:
    total = torch.stack([objective.loss(model, b) * (b.weight / step.weight) for b in step.batches]).sum()
    found = torch.autograd.grad(total, list(model.trainable().values()))
    return float(total.detach()), torch.cat([g.flatten() for g in found])


def scores(model: LanguageModel, batch: Batch, temperature: float = 0.8) -> Tensor:
    """(N, V) log-probabilities over the supervised tokens, by the plain road; rows hold one document."""
    logits = model.module(input_ids=batch.tokens, attention_mask=(batch.segments > 0).long()).logits
    return (logits / temperature).log_softmax(-1)[torch.roll(batch.supervised, -1, dims=1)]


def plain(objective: Distillation, mine: Tensor, theirs: Tensor, tokens: Tensor) -> Tensor:
    """Each token's loss as the formula says."""
    if objective.form == "sampled":
        p, q = (t.gather(-1, tokens[:, None])[:, 0] for t in (mine, theirs))
        return (p - q).detach() * p
    if objective.top is not None:
        kept = theirs.topk(objective.top, -1).indices
        chosen = torch.zeros_like(theirs, dtype=torch.bool).scatter(-1, kept, True)
        mine, theirs = (
            torch.cat([t.gather(-1, kept), t.masked_fill(chosen, -torch.inf).logsumexp(-1, keepdim=True)], -1)
            for t in (mine, theirs)
        )
    one, two = (mine, theirs) if objective.direction == "reverse" else (theirs, mine)
    return (one.exp() * (one - two)).sum(-1)


@pytest.mark.parametrize("fields", FORMS, ids=str)
def test_each_form_is_its_formula(fields: dict[str, Any]) -> None:
    model, objective = toy_model(), distil(shown=True, **fields)  # a shown teacher's rows hold one document
    step, weights = first(objective, other()), other()
    loss, gradient = learned_from(objective, model, step)
    (batch,) = step.batches
    assert batch.teacher is not None
    with recalled(model, weights), torch.no_grad():
        theirs = scores(model, batch.teacher.batch)
    losses = plain(objective, scores(model, batch), theirs, batch.tokens[batch.supervised])
    found = torch.autograd.grad(losses.mean(), list(model.trainable().values()))
    torch.testing.assert_close(gradient, torch.cat([g.flatten() for g in found]), rtol=1e-7, atol=1e-10)
    if objective.form == "exact":
        assert loss == pytest.approx(float(losses.mean().detach()), rel=1e-9)
    else:
        mine = model.token_logprobs(batch, temperature=0.8).detach()
        drawn = theirs.gather(-1, batch.tokens[batch.supervised][:, None])[:, 0]
        assert loss == pytest.approx(float((mine - drawn).mean()), rel=1e-9), "the estimate of the divergence"


@pytest.mark.parametrize("fields", FORMS, ids=str)
def test_a_teacher_that_is_the_student_teaches_nothing(fields: dict[str, Any]) -> None:
    model, objective = toy_model(), distil(**fields)
    loss, gradient = learned_from(objective, model, first(objective, other(0)))
    assert loss == pytest.approx(0, abs=1e-12)
    assert float(gradient.abs().max()) < 1e-12


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_all_tokens_told_apart_are_the_exact_form(direction: Any) -> None:
    model = toy_model()
    found = []
    for top in (None, toy_model().module.config.vocab_size, 1000):
        objective = distil(top=top, direction=direction)
        found.append(learned_from(objective, model, first(objective, other())))
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-9)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-8, atol=1e-12)


def test_the_rest_as_one_is_never_farther_than_all_apart() -> None:
    model = toy_model()
    objectives = [distil(top=top) for top in (1, 5, None)]
    one, five, whole = (learned_from(o, model, first(o, other()))[0] for o in objectives)
    assert 0 < one < five < whole


def test_sampled_and_exact_agree_on_average() -> None:
    model = toy_model()
    means = []
    for form in ("exact", "sampled"):
        objective = distil(form=form, group=64)
        means.append(learned_from(objective, model, first(objective, other()))[0])
    assert means[1] == pytest.approx(means[0], rel=0.1)


def test_what_only_the_teacher_reads_gets_no_loss_and_the_same_tokens_do() -> None:
    objective, model = distil(shown=True), toy_model()
    (batch,) = first(objective, other()).batches
    assert batch.teacher is not None
    theirs = batch.teacher.batch
    assert theirs.tokens[theirs.supervised].tolist() == batch.tokens[batch.supervised].tolist()
    for row in range(len(batch.tokens)):
        seen = model.tokenizer.decode(theirs.tokens[row][theirs.segments[row] > 0])
        before = seen[: len(seen) - int(batch.supervised[row].sum())]
        assert "it is" in before
        assert "it is" not in model.tokenizer.decode(batch.tokens[row][~batch.supervised[row]])
    assert int(batch.supervised.sum()) == sum(int(t["length"]) for t in first(objective, other()).traces)


def test_a_demonstration_changes_what_the_teacher_says_and_not_what_is_drawn() -> None:
    model = toy_model()
    objective = distil(shown=True)
    (batch,) = first(objective, other(0)).batches
    changed = replace(objective, template="{demonstration} {question}")
    (else_,) = first(changed, other(0)).batches
    assert batch.tokens.equal(else_.tokens)
    one, two = (objective.loss(model, b).item() for b in (batch, else_))
    assert one > 0, "the same weights, and another context"
    assert one != two


def test_marks_inside_a_demonstration_are_text() -> None:
    objective = distil(shown=True)
    example = question("what is {demonstration}?", "{question}")
    (message,) = objective._prompt(example)
    assert message.content.startswith("what is {demonstration}?")
    assert "response to the question:\n{question}\n" in message.content


def test_groups_share_their_prompt_and_lose_nothing_by_it() -> None:
    model, objective = toy_model(), distil(group=3)
    (batch,) = first(objective, other()).batches
    assert batch.shared
    alone = distil(group=3, shown=True, template="{question}{demonstration}")
    (apart,) = first(alone, other()).batches
    same = replace(apart, teacher=Teacher(apart, other()))
    assert objective.loss(model, batch).item() == pytest.approx(objective.loss(model, same).item(), rel=1e-9)


RECIPE = Recipe(AdamW(2e-3), Schedule("constant", warmup=0.0), batch_size=6, epochs=4, length=64, tokens=512)


def experience(name: str, objective: Any) -> Experience:
    return Experience(name, PROMPTS, PROMPTS, objective, ExactMatch(), PROMPTS)


def gap(model: LanguageModel, teacher: Mapping[str, Tensor]) -> float:
    """How far the model is from a version on prompts of its own kind."""
    objective = distil(group=8)
    total = 0.0
    step = first(objective, teacher, model)
    with torch.no_grad():
        for batch in step.batches:
            total += float(objective.loss(model, batch)) * batch.weight / step.weight
    return total


def test_what_was_lost_is_recovered_from_the_base(tmp_path: Path) -> None:
    # the toy learns to answer otherwise, and is then distilled from what it was on prompts of that kind
    learner = Learner(str(toy_folder(tmp_path / "toy")), chain(), replace(RECIPE, epochs=8))
    model = learner.open()
    base = {n: p.detach().clone() for n, p in model.parameters().items()}
    drifted = learn(learner, model, learner.start(model), experience("new", NextToken()))
    lost, rows = gap(model, base), list[Any]()
    again = replace(learner, recipe=replace(RECIPE, epochs=15))
    learn(again, model, drifted, experience("old", distil(group=8)), Watch(log=rows.append))
    assert gap(model, base) < 0.5 * lost
    assert rows[0]["loss"] > 0.05, "the base is far from where the second experience starts"
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert set(rows[0]["notes"]) == {"attempts", "truncated", "drawn", "entropy"}


def test_the_start_moves_with_the_experiences_and_the_base_does_not(tmp_path: Path) -> None:
    learner = Learner(str(toy_folder(tmp_path / "toy")), chain(), replace(RECIPE, epochs=1))
    model = learner.open()
    drifted = learn(learner, model, learner.start(model), experience("new", NextToken()))
    first_losses = []
    for teacher in ("start", "ema", "base"):
        rows = list[Any]()
        live = learner.restore(learner.open(), drifted)
        learn(learner, live, drifted, experience("next", distil(teacher=teacher)), Watch(log=rows.append))
        first_losses.append(rows[0]["loss"])
    assert first_losses[:2] == pytest.approx([0, 0], abs=1e-5)
    assert first_losses[2] > 1e-3


def test_a_file_of_weights_teaches_as_the_version_it_holds(tmp_path: Path) -> None:
    file, model = tmp_path / "version.safetensors", toy_model()
    save_tensors(file, other())
    objective = distil(teacher=str(file))
    assert objective.references == {"base": 1.0}
    found = learned_from(objective, model, first(objective, {}))
    named = learned_from(distil(), model, first(distil(), other()))
    assert found[0] == pytest.approx(named[0], rel=1e-12)
    assert found[1].equal(named[1])
    with pytest.raises(ModelError, match="no readable safetensors file"):
        first(distil(teacher=str(tmp_path / "none.safetensors")), {})


def test_each_teacher_is_the_reference_it_is_named_by() -> None:
    assert distil().references == {"base": 1.0}
    assert distil(teacher="start").references == {"start": 1.0}
    assert distil(teacher="ema", decay=0.9).references == {"ema": 0.9}


def test_stopped_work_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    learner = Learner("toy", chain(), replace(RECIPE, batch_size=2, epochs=1))
    lesson = experience("ema", distil(teacher="ema", shown=True, decay=0.5))

    def run(watch: Watch | None = None) -> Any:
        model = toy_model()
        return learn(learner, model, learner.start(model), lesson, watch).weights

    asked = iter((False, True))
    with pytest.raises(Interrupted):
        run(Watch(tmp_path / "c", stop=lambda: next(asked)))
    assert equal(run(), run(Watch(tmp_path / "c")))
    assert not equal(run(), {n: p.detach() for n, p in toy_model().parameters().items()})


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"teacher": "aunt"}, "give base, start, ema"),
        ({"form": "sampled", "top": 3}, "has one token"),
        ({"form": "sampled", "direction": "forward"}, "has one token"),
        ({"form": "exakt"}, "exact or sampled"),
        ({"direction": "backward"}, "reverse or forward"),
        ({"group": 0}, "group and top"),
        ({"top": 0}, "group and top"),
        ({"shown": True, "template": "{question}"}, "has to hold"),
    ],
)
def test_what_has_no_meaning_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        distil(**fields)


def test_rows_that_cannot_be_completed_are_named() -> None:
    document = Example(text="a cat", source="cats:1")
    with pytest.raises(DataError, match="cats:1 is a document"):
        next(iter(distil().steps(toy_model(), [document], PLAN)))
    with pytest.raises(DataError, match="toy has no answer to show"):
        next(iter(distil(shown=True).steps(toy_model(), [question("say a", "")], PLAN)))
    asking = Example(messages=(Message("user", "say a"),), source="rows:3")
    with pytest.raises(DataError, match="rows:3 has no answer to show"):
        next(iter(distil(shown=True).steps(toy_model(), [asking], PLAN)))
    with pytest.raises(ModelError, match="its own steps' batches"):
        distil().loss(toy_model(), next(iter(NextToken().steps(toy_model(), PROMPTS, PLAN))).batches[0])


def test_it_is_its_own_config() -> None:
    objective = distil(shown=True, top=5, teacher="ema")
    assert restore(dump(objective)) == objective
