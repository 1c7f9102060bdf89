"""Averages of weights on two numbers, worked by hand; the cocktail and the average over steps on the toy."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.learner import Learner, learn
from everlearn.merge_rules import product
from everlearn.merging import cocktail_weights
from everlearn.method import Context, Method, Tensors, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.averaging import EMA, LMCocktail, ModelStock, Soup, WiSEFT
from everlearn.models.lora import adapters
from everlearn.models.optim import AdamW, Recipe
from everlearn.testing.toys import toy_model, toy_stream
from everlearn.types import Memory, State
from tests.methods.two_numbers import after_all

RECIPE = Recipe(AdamW(learning_rate=1e-2), batch_size=4, length=64, tokens=4096)


def test_wise_ft_by_hand() -> None:
    # From (1, 2) a quarter of the way to (5, 0): (2, 1.5); then a quarter of the way to (2, 3.5): (2, 2).
    assert after_all(WiSEFT(mixing=0.25), (1.0, 2.0), (5.0, 0.0), (2.0, 3.5)) == [2.0, 2.0]


def test_a_line_has_two_ends() -> None:
    with pytest.raises(ConfigError, match="a line has two ends, and these are 3 models"):
        WiSEFT().gather([], [{}, {}])


def test_a_soup_is_the_mean_of_experts() -> None:
    assert after_all(Soup(), (1.0, 2.0), (5.0, 0.0), (2.0, 3.0), (-1.0, 6.0)) == [2.0, 3.0]


def test_model_stock_by_hand() -> None:
    # Changes (2, 0) and (1, sqrt 3) at 60 degrees: t = 2 * 0.5 / 1.5 = 2/3 of the mean (1.5, sqrt(3) / 2).
    merged = after_all(ModelStock(), (0.0, 0.0), (2.0, 0.0), (1.0, 3**0.5))
    assert merged == pytest.approx([1.0, 3**0.5 / 3])
    # Cosines of (1, 0), (0, 1), (1, 1) are 0, sqrt(1/2), sqrt(1/2).
    cosine = 2 * 0.5**0.5 / 3
    ratio = 3 * cosine / (1 + 2 * cosine)
    merged = after_all(ModelStock(), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
    assert merged == pytest.approx([ratio * 2 / 3, ratio * 2 / 3])


def mean_loss(ctx: Context, weights: Tensors) -> float:
    """Nats per token on all training examples of an experience."""
    ctx.model.assign(weights)
    with torch.no_grad():
        logprobs = torch.cat([ctx.model.token_logprobs(b) for b in ctx.batches(ctx.experience.train)])
    return -float(logprobs.mean())


def test_a_cocktail_mixes_by_losses_on_the_new_examples() -> None:
    method, model = LMCocktail(mixing=0.4, temperature=0.5, examples=12), toy_model()
    learner = Learner("toy", method, RECIPE)
    state = learner.start(model)
    for experience in toy_stream().experiences[:2]:
        state = learn(learner, model, state, experience)
    memory, ctx = state.memory[0], Context(model, toy_stream().experiences[1])
    parts = [memory["origin"], *memory["experts"]]
    shares = cocktail_weights([mean_loss(ctx, p) for p in parts[:2]], 0.5)
    assert memory["shares"] == pytest.approx([0.6 * shares[0], 0.6 * shares[1], 0.4])
    assert abs(shares[0] - shares[1]) > 0.01
    for name, weight in state.weights.items():
        mixed = [share * part[name] for share, part in zip(memory["shares"], parts, strict=True)]
        torch.testing.assert_close(weight, mixed[0] + mixed[1] + mixed[2])


def test_a_cocktail_of_one_expert_and_the_base_is_halfway() -> None:
    method, model = LMCocktail(examples=2), toy_model()
    state = learn(Learner("toy", method, RECIPE), model, State(memory=[None]), toy_stream().experiences[0])
    for name, weight in state.weights.items():
        memory = state.memory[0]
        torch.testing.assert_close(weight, (memory["origin"][name] + memory["experts"][0][name]) / 2)


@dataclass(frozen=True)
class Diary(Method):
    """Remembers where each step ends."""

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        return []

    def step(self, memory: Memory, grads: Tensors, update: Tensors, ctx: Context) -> Memory:
        return [*memory, {n: p.detach().clone() for n, p in ctx.trainable().items()}]


def visited(method: Method) -> tuple[list[dict[str, Tensor]], Tensors, Memory]:
    learner, model = Learner("toy", chain(method, Diary()), RECIPE), toy_model()
    state = learn(learner, model, learner.start(model), toy_stream().experiences[0])
    return state.memory[-1], state.weights, state.memory[-2]


def test_an_average_of_full_decay_is_the_mean_of_what_was_visited() -> None:
    steps, weights, _ = visited(EMA(decay=1.0))
    assert len(steps) == 3
    for name, weight in weights.items():
        torch.testing.assert_close(weight, (steps[0][name] + steps[1][name] + steps[2][name]) / 3)


def test_an_average_decays_as_it_says_once_it_is_long_enough() -> None:
    # decay 0.6: the mean of the first two (1 - 1/2 = 0.5 is below 0.6), then 0.6 (a + b) / 2 + 0.4 c.
    steps, weights, _ = visited(EMA(decay=0.6))
    for name, weight in weights.items():
        expected = 0.3 * steps[0][name] + 0.3 * steps[1][name] + 0.4 * steps[2][name]
        torch.testing.assert_close(weight, expected)


def test_an_average_of_no_decay_is_the_last_step_and_of_every_second_the_second() -> None:
    steps, weights, _ = visited(EMA(decay=0.0))
    assert all(torch.allclose(w, steps[2][n], rtol=0, atol=1e-12) for n, w in weights.items())
    steps, weights, _ = visited(EMA(every=2))
    assert all(torch.allclose(w, steps[1][n], rtol=0, atol=1e-12) for n, w in weights.items())


def test_adapters_are_averaged_over_steps_by_their_products() -> None:
    learner, model = Learner("toy", chain(LoRA(rank=8), EMA(decay=1.0), Diary()), RECIPE), toy_model()
    state = learn(learner, model, learner.start(model), toy_stream().experiences[0])
    steps = state.memory[2]
    assert 0 <= state.memory[1]["lost"] < 1e-3  # three steps from one start have nearly the same directions
    for name, layer in adapters(model.module).items():
        mean = sum((product(layer, name, s) for s in steps), start=torch.zeros(())) / 3
        left = product(layer, name, state.weights)
        assert float((left - mean).norm()) <= 0.05 * float(mean.norm())


def test_numbers_without_a_meaning_are_refused() -> None:
    makers = (lambda: WiSEFT(mixing=2.0), lambda: LMCocktail(temperature=0.0), lambda: EMA(decay=1.5))
    for make in makers:
        with pytest.raises(ConfigError):
            make()
