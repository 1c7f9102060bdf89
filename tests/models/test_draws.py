import torch

from everlearn.models.decoding import Ask, Row
from everlearn.models.draws import BLOCK, CANDIDATES, Draw, Greedy, noise, nucleus, race
from everlearn.models.reading import Head


def rows(count: int, written: int = 0) -> list[Row]:
    return [Row(Ask([1]), seed, [0] * written) for seed in range(count)]


def test_a_race_is_won_as_often_as_weights_say_within_blocks_and_across() -> None:
    count, vocabulary = 20000, 2 * BLOCK + 10
    weights = torch.zeros(vocabulary)
    weights[[3, 200, BLOCK + 1, 2 * BLOCK + 9]] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    won = race(weights.expand(count, -1), noise(rows(count), vocabulary)).bincount(minlength=vocabulary)
    assert won.nonzero()[:, 0].tolist() == [3, 200, BLOCK + 1, 2 * BLOCK + 9]
    shares = won[won > 0] / count
    assert (shares - torch.tensor([0.1, 0.2, 0.3, 0.4])).abs().max() < 0.015


def test_noise_is_a_function_of_seed_and_position_alone() -> None:
    whole = noise(rows(5), 1000)
    assert torch.equal(noise(rows(5)[3:], 1000), whole[3:])
    assert not torch.equal(noise(rows(5, written=1), 1000), whole)
    assert abs(float(whole.mean()) - 1) < 0.1
    assert len({float(x) for x in whole.flatten()}) == whole.numel()


def test_rounding_moves_a_draw_only_near_ties() -> None:
    torch.manual_seed(0)
    weights = torch.randn(4000, 700).mul(2).exp()
    shaken = weights * (1 + 1e-3 * torch.randn_like(weights))
    chance = noise(rows(4000), 700)
    assert (race(weights, chance) != race(shaken, chance)).float().mean() < 3e-3


def test_a_nucleus_is_the_fewest_tokens_that_reach_the_probability() -> None:
    weights = torch.tensor([[1.0, 4.0, 3.0, 2.0], [5.0, 1.0, 5.0, 0.0]])
    assert (nucleus(weights, 0.5) > 0).tolist() == [[False, True, True, False], [True, False, True, False]]
    assert (nucleus(weights, 0.4) > 0).tolist()[0] == [False, True, False, False]
    assert torch.equal(nucleus(weights, 1.0), weights)
    flat = torch.ones(1, 3 * CANDIDATES) + torch.linspace(1e-3, 0, 3 * CANDIDATES)
    assert abs(int((nucleus(flat, 0.5) > 0).sum()) - 1.5 * CANDIDATES) < 3


def test_draws_do_not_hang_on_their_neighbours_and_tell_their_log_probability() -> None:
    torch.manual_seed(0)
    scores, some = torch.randn(20, 300), rows(20)
    draw = Draw(Head(None), 0.5)
    tokens, logprobs = draw(scores, some)
    assert draw(scores[7:9], some[7:9]) == (tokens[7:9], logprobs[7:9])
    exact = (scores.double() / 0.5).log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
    assert (exact - torch.tensor(logprobs)).abs().max() < 1e-5
    assert Draw(Head(None), 0.0)(scores, some)[0] == Greedy(Head(None))(scores, some)[0] == scores.argmax(-1).tolist()
