"""Seeds depend on every part, and are the same on every machine."""

import torch

from everlearn.randomness import generator, integers, permutation, seed_of


def test_seeds_are_fixed_for_all_time() -> None:
    assert seed_of(0, "a") == 2671967653362453091
    assert len({seed_of(0, "a"), seed_of("a", 0), seed_of(0, "a", 0), seed_of("0", "a")}) == 4


def test_a_generator_starts_anew_each_time() -> None:
    assert torch.rand(1, generator=generator(1)) == torch.rand(1, generator=generator(1))


def test_a_permutation_has_everything_once() -> None:
    assert sorted(permutation(50, 1, "x")) == list(range(50))
    assert permutation(50, 1, "x") != permutation(50, 2, "x")


def test_a_permutation_is_torch_s_own_in_eight_bytes_a_number() -> None:
    order = permutation(50, 1, "x")
    assert order.tolist() == torch.randperm(50, generator=generator(1, "x")).tolist()
    assert (order.itemsize, len(permutation(0, 1))) == (8, 0)
    assert integers(torch.arange(10)[::3]).tolist() == [0, 3, 6, 9]
