"""Dark experience replay keeps what the model answered, and asks for nothing where it still does."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from everlearn.errors import ConfigError
from everlearn.examples import Batch, Plan
from everlearn.learner import Learner, learn
from everlearn.method import Context, chain
from everlearn.methods.dark_replay import DER, DERPP
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.top_logits import top_of
from everlearn.testing.toys import toy_model, toy_stream

RECIPE = Recipe(AdamW(learning_rate=1e-2), batch_size=4, length=64, tokens=128)


def contexts() -> list[Context]:
    model = toy_model()
    return [Context(model, e, Plan(4, 128, 64), seen=i) for i, e in enumerate(toy_stream())]


def batch_of(ctx: Context) -> Batch:
    return next(ctx.batches(ctx.experience.train))


def moved(ctx: Context) -> None:
    with torch.no_grad():
        for p in ctx.trainable().values():
            p.mul_(1.3)


@pytest.mark.parametrize("distance", ["kl", "mse", "mse-raw"])
def test_the_term_is_zero_while_the_answers_are_the_stored_ones(distance: Any) -> None:
    first, second, _ = contexts()
    method = DER(strength=1.0, top=5, distance=distance)
    memory = method.end(method.init(first.model), first)
    with torch.no_grad():
        assert float(method.loss(memory, batch_of(second), second)) < 1e-5  # the stored values are rounded to fp16
        moved(second)
        assert float(method.loss(memory, batch_of(second), second)) > 1e-3


def test_the_term_by_hand() -> None:
    first, second, _ = contexts()
    method = DER(strength=2.0, top=3, rows=99)
    memory = method.end(method.init(first.model), first)
    moved(second)
    total, count = 0.0, 0
    for kept in memory["kept"]:
        example = next(e for e in first.experience.train if e.row()["messages"] == kept["row"]["messages"])
        tokens, supervised = second.model.encode(example).tokens, torch.tensor(second.model.encode(example).supervised)
        with torch.no_grad():
            q = second.model.module(input_ids=torch.tensor([tokens])).logits[0].softmax(-1)[:-1][supervised[1:]]
        p = kept["values"][:, :4].double().exp()
        for pi, qi, ids in zip(p / p.sum(-1, keepdim=True), q, kept["ids"].long(), strict=True):
            now = torch.cat([qi[ids], 1 - qi[ids].sum()[None]])
            total, count = total + float((pi * (pi / now).log()).sum()), count + 1
    with torch.no_grad():
        assert float(method.loss(memory, batch_of(second), second)) == pytest.approx(2 * total / count, rel=1e-6)


def test_what_is_stored_takes_the_bytes_that_it_says() -> None:
    first, *_ = contexts()
    method = DER(top=7)
    for kept in method.end(method.init(first.model), first)["kept"]:
        size = sum(kept[name].numel() * kept[name].element_size() for name in ("ids", "values"))
        assert size == len(kept["ids"]) * (6 * 7 + 4)


def test_nothing_is_asked_for_in_the_first_step() -> None:
    first, *_ = contexts()
    assert DER().loss(DER().init(first.model), batch_of(first), first) == 0.0
    assert DERPP().loss(DERPP().init(first.model), batch_of(first), first) == 0.0


def test_answers_are_stored_step_by_step_as_they_are_then() -> None:
    first, *_ = contexts()
    method = DER(top=60)
    memory = method.step(method.init(first.model), {}, {}, first)
    assert memory["seen"] == len(memory["kept"]) == 4
    before = memory["kept"]
    moved(first)
    memory = method.step(memory, {}, {}, replace(first, step=1))
    assert memory["kept"][:4] == before
    kept = memory["kept"][4]
    example = next(e for e in first.experience.train if e.row()["messages"] == kept["row"]["messages"])
    encoded = first.model.encode(example)
    with torch.no_grad():
        logits = first.model.module(input_ids=torch.tensor([encoded.tokens])).logits[0, :-1]
    expected = top_of(logits[torch.tensor(encoded.supervised[1:])], 60)
    assert torch.equal(kept["ids"], expected.ids)
    torch.testing.assert_close(kept["values"][:, :-3], expected.values[:, :-3].half(), rtol=1e-3, atol=1e-3)
    memory = method.end(memory, replace(first, step=2))
    assert memory["seen"] == len({str(k["row"]["messages"]) for k in memory["kept"]}) == 12


def test_the_reservoir_stays_within_its_bound() -> None:
    method = DERPP(capacity=5)
    learner, model = Learner("toy", method, RECIPE), toy_model()
    state = learner.start(model)
    for number in range(3):
        for experience in toy_stream():
            state = learn(learner, model, state, replace(experience, name=f"{experience.name}{number}"))
    (memory,) = state.memory
    assert memory["seen"] == 9 * 12
    assert len(memory["kept"]) == 5


def test_the_second_batch_is_another_one_and_its_loss_is_the_objectives() -> None:
    first, second, _ = contexts()
    both, distilled, replayed = (DERPP(d, r, rows=12) for d, r in ((0.5, 2.0), (0.5, 0.0), (0.0, 2.0)))
    memory = both.end(both.init(first.model), first)
    moved(second)
    batch = batch_of(second)
    with torch.no_grad():
        terms = [float(m.loss(memory, batch, second)) for m in (both, distilled, replayed)]
        whole = [(first.loss(b), b.weight) for b in first.batches(first.experience.train)]
    assert terms[0] == pytest.approx(terms[1] + terms[2])
    assert terms[1] == pytest.approx(float(DER(0.5, rows=12).loss(memory, batch, second).detach()))  # type: ignore[union-attr]
    mean = sum(float(loss) * w for loss, w in whole) / sum(w for _, w in whole)
    assert terms[2] == pytest.approx(2 * mean)


def test_it_forgets_less_than_plain_fine_tuning() -> None:
    first, second, _ = toy_stream()
    losses = []
    for method in (chain(), DERPP(distilled=2.0, replayed=2.0, rows=12)):
        learner, model = Learner("toy", method, replace(RECIPE, epochs=20)), toy_model()
        state = learner.start(model)
        for experience in (first, second):
            state = learn(learner, model, state, experience)
        ctx = Context(model, first)
        with torch.no_grad():
            losses.append(float(torch.stack([ctx.loss(b) for b in ctx.batches(first.train)]).mean()))
    assert losses[1] < 0.5 * losses[0]


def test_numbers_without_a_meaning_are_refused() -> None:
    with pytest.raises(ConfigError, match="weights are 0 or more"):
        DER(strength=-1.0)
    with pytest.raises(ConfigError, match="capacity 1 or more"):
        DERPP(top=0)
    with pytest.raises(ConfigError, match="kl, mse or mse-raw"):
        replace(DER(), distance="cosine")  # type: ignore[arg-type]
