"""Interference by hand, on a model of two weights whose loss on an example is half the square of its distance."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from everlearn.errors import ConfigError
from everlearn.examples import Batch, Encoded, Example, Plan
from everlearn.method import Context
from everlearn.methods.interference import GSS, MIR, _losses, _replaced
from everlearn.testing.toys import question, toy_model, toy_stream
from everlearn.types import Memory


class Plane:
    """Two weights w, standing where a language model stands; the loss on the example "x y" is |w - (x, y)|^2 / 2."""

    name, packs = "plane", False

    def __init__(self) -> None:
        self.module = nn.Module()
        self.module.w = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.places: list[Tensor] = []

    def parameters(self) -> dict[str, Tensor]:
        return dict(self.module.named_parameters())

    def trainable(self) -> dict[str, Tensor]:
        return {"w": self.module.get_parameter("w")}

    def encode(self, example: Example) -> Encoded:
        self.places.append(torch.tensor([float(x) for x in example.response.split()], dtype=torch.float64))
        return Encoded((0, len(self.places) - 1), (False, True))

    def token_logprobs(self, batch: Batch) -> Tensor:
        centres = torch.stack([self.places[i] for i in batch.tokens[batch.supervised].tolist()])
        return -((self.module.w - centres) ** 2).sum(-1) / 2


def place(x: float, y: float) -> Example:
    return question("where?", f"{x} {y}", "old")


def plane(*new: Example) -> Context:
    model = Plane()
    return Context(model, replace(toy_stream().experiences[0], train=new, name="new"), seen=1)  # type: ignore[arg-type]


def buffer(*old: Example) -> Memory:
    return {"rows": [e.row() for e in old], "groups": ["old"] * len(old), "seen": len(old)}


def gradient(x: float, y: float) -> dict[str, Tensor]:
    return {"w": torch.tensor([x, y], dtype=torch.float64)}


def test_the_example_that_the_step_would_harm_most_is_replayed() -> None:
    # At w = (0, 0), g = (-2, 0) and a rate of 1/2, the step goes to (1, 0). Losses of (3, 0), (-1, 0), (0, 4) are
    # 4.5, 0.5, 8 before and 2, 2, 8.5 after: they rise by -2.5, 1.5 and 0.5. The second has the gradient (1, 0).
    memory, ctx = buffer(place(3, 0), place(-1, 0), place(0, 4)), plane()
    found = MIR(strength=0.5, rows=1, rate=0.5).grad(memory, gradient(-2, 0), ctx)
    assert found["w"].tolist() == [-1.5, 0.0]
    # The two worst have the gradients (1, 0) and (0, -4): their mean loss has (0.5, -2).
    found = MIR(rows=2, rate=0.5).grad(memory, gradient(-2, 0), ctx)
    assert found["w"].tolist() == [-1.5, -2.0]
    assert ctx.trainable()["w"].tolist() == [0.0, 0.0]


def test_a_step_to_the_other_side_harms_another_example() -> None:
    memory, ctx = buffer(place(3, 0), place(-1, 0), place(0, 4)), plane()
    found = MIR(rows=1, rate=0.5).grad(memory, gradient(2, 0), ctx)  # to (-1, 0): the first rises by 3.5
    assert found["w"].tolist() == [-1.0, 0.0]


def test_candidates_are_drawn_anew_in_each_step() -> None:
    memory, ctx = buffer(*(place(x, 0) for x in range(1, 9))), plane()
    method = MIR(rows=1, candidates=1)
    found = [method.grad(memory, gradient(0, 0), replace(ctx, step=s))["w"].tolist() for s in (0, 1, 2, 3, 0)]
    assert found[0] == found[4]
    assert len({x for x, _ in found}) > 1


def test_nothing_is_added_in_the_first_experience() -> None:
    grads = gradient(1, 2)
    assert MIR().grad(buffer(), grads, plane()) is grads


def test_losses_are_the_objectives_own_one_by_one() -> None:
    examples = [*toy_stream().experiences[0].train[:3], *toy_stream().experiences[1].train[:2]]
    ctx = Context(toy_model(), toy_stream().experiences[0], Plan(tokens=80))
    with torch.no_grad():
        alone = [float(ctx.loss(next(ctx.batches([e])))) for e in examples]
    assert _losses(examples, ctx).tolist() == pytest.approx(alone)


def test_what_interferes_is_bounded_and_of_the_experiences_seen() -> None:
    method, memory = MIR(capacity=5, selection="balanced"), buffer()
    for number in range(6):
        ctx = plane(*(place(i, number) for i in range(8)))
        ctx = replace(ctx, experience=replace(ctx.experience, name=f"e{number}"))
        memory = method.end(memory, ctx)
    assert len(memory["rows"]) == 5


def test_a_gradient_in_the_same_direction_is_not_taken_and_an_opposite_one_is() -> None:
    # At w = (0, 0) the gradient of (x, y) is (-x, -y). The first is stored with a score of 1.
    method = GSS(capacity=1, compared=5)
    memory = method.end({"rows": [], "scores": []}, plane(place(1, 0)))
    assert memory["scores"] == [1.0]
    for same in (place(2, 0), place(1, 0.5), place(0, 3)):  # cosines 1, 0.89 and 0
        assert method.end(memory, plane(same)) == memory
    # The cosine of (-1, 0) is -1, its score 0: it replaces with probability 1 / (1 + 0).
    opposite = method.end(memory, plane(place(-1, 0)))
    assert opposite["scores"] == pytest.approx([0.0])
    assert Example.from_row(opposite["rows"][0]).response == "-1 0"


def test_a_score_is_one_more_than_the_largest_cosine() -> None:
    method = GSS(capacity=3, compared=9)
    memory = method.end({"rows": [], "scores": []}, plane(place(1, 0)))
    memory = method.end(memory, plane(place(0, 2)))
    memory = method.end(memory, plane(place(3, 3)))  # cosines with (1, 0) and (0, 2): both sqrt 1/2
    assert memory["scores"] == pytest.approx([1.0, 1.0, 1 + 0.5**0.5])


def test_replacement_follows_the_papers_probabilities() -> None:
    # Of scores 1 and 3 the second is drawn with 3/4; against a new score of 1/2 it goes with 3 / 3.5.
    rng = torch.Generator().manual_seed(0)
    found = [_replaced([1.0, 3.0], 0.5, rng) for _ in range(4000)]
    expected = {0: 1 / 4 * 1 / 1.5, 1: 3 / 4 * 3 / 3.5}
    for which, probability in expected.items():
        spread = (probability * (1 - probability) / 4000) ** 0.5
        assert found.count(which) / 4000 == pytest.approx(probability, abs=4 * spread)
    assert _replaced([0.0], 0.0, rng) is None


def test_a_diverse_buffer_is_bounded_and_nothing_is_replayed_in_the_first_experience() -> None:
    method, memory = GSS(fraction=0.5, capacity=3, compared=2, candidates=4, admitted=1.0), {"rows": [], "scores": []}
    first = plane(place(1, 1))
    assert method.data(memory, first.experience.train, first) is first.experience.train
    for number in range(5):
        memory = method.end(memory, plane(*(place(i - 3, number - 2) for i in range(7))))
        assert len(memory["rows"]) == len(memory["scores"]) == 3
    mixed = method.data(memory, first.experience.train * 4, first)
    assert len(mixed) == 8


def test_numbers_without_a_meaning_are_refused() -> None:
    with pytest.raises(ConfigError, match="rate above 0"):
        MIR(rate=0.0)
    with pytest.raises(ConfigError, match="candidates and capacity"):
        MIR(candidates=0)
    with pytest.raises(ConfigError, match="selection is"):
        replace(MIR(), selection="herding")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="fraction is in"):
        GSS(fraction=1.0)
    with pytest.raises(ConfigError, match="is a cosine"):
        GSS(admitted=2.0)
