"""The benchmarks' own rules: sides take turns, every row is there, and what cannot be measured says why."""

import random
from dataclasses import replace

import pytest
import torch

from benchmarks.harness import (
    DifferentError,
    Finding,
    Goal,
    NotThereError,
    Sample,
    Spread,
    interleave,
    ratios,
    require_same,
    speeds,
)
from benchmarks.inputs import conversation, documents, instruction_sizes
from benchmarks.pretraining import STILL, kept_share, replaying
from benchmarks.rows import ROWS, Row
from benchmarks.table import results
from benchmarks.training import useful_flops
from everlearn.examples import Example
from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.latent_replay import LatentReplay
from everlearn.methods.replay import Replay
from everlearn.models.load import load_tokenizer
from everlearn.testing.toys import toy_model


def test_the_sides_take_turns_and_the_order_turns_too():
    ran = []

    def side(name, seconds):
        def run():
            ran.append(name)
            return Sample(seconds, name)

        return run

    found = interleave({"a": side("a", 2.0), "b": side("b", 1.0)}, rounds=3, warm=1)
    assert ran == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert [s.value for s in found["a"]] == ["a"] * 3
    assert ratios(found["a"], found["b"]).values == (2.0, 2.0, 2.0)
    assert speeds(10, found["a"]).middle == 5.0


def test_a_ratio_is_the_median_of_the_rounds_with_its_spread():
    fast, slow = [Sample(s) for s in (1.0, 1.0, 1.0)], [Sample(s) for s in (2.0, 9.0, 3.0)]
    assert ratios(slow, fast).show() == "3.00 (2.00 to 9.00)"


@pytest.mark.parametrize(("goal", "ratio", "met"), [(Goal(2.4), 2.4, True), (Goal(0.6, least=False), 0.7, False)])
def test_a_goal_is_a_bound_from_one_side(goal, ratio, met):
    assert goal.met(ratio) is met
    assert Finding("w", "p", goal, Spread((ratio,))).verdict == ("yes" if met else "**no**")


def test_sides_that_did_different_things_are_no_benchmark():
    with pytest.raises(DifferentError, match="optimiser steps: 2 here, 3 there"):
        require_same("optimiser steps", 2, 3)
    (found,) = Row("some work", lambda quick: [require_same("tokens", 1, 2)]).findings()
    assert (found.refused, found.verdict, found.ratio) == (True, "**refused**", None)


def test_every_kind_of_work_has_a_row():
    asked = ["fine-tuning", "peak memory", "instruction rows", "gradient", "top half", "exact match", "multiple choice"]
    asked += ["packed pre-training", "latent replay"]
    asked += ["sampling", "groups of 8", "2 -> 50 experiences", "overhead of L2SP, EWC, Replay", "import everlearn"]
    assert [name for name in asked if not any(name in row.work for row in ROWS.values())] == []
    assert all(row.measure.__doc__ for row in ROWS.values())


def test_a_row_that_cannot_be_measured_stands_in_the_table_with_its_reason():
    def measure(quick):
        raise NotThereError("nobody has built it")

    found = [*Row("some work", measure).findings(), Finding("other", "peer", Goal(2), Spread((3.0,)), "9/s", "3/s")]
    page = results(found, "make bench", 1.0)
    assert "| some work |  | - |  | not there yet |  |  | nobody has built it |" in page
    assert "| other | peer | 3.00 | >= 2 | yes | 9/s | 3/s |  |" in page
    assert "torch" in page


def test_instruction_rows_have_the_mean_and_the_share_that_the_table_names():
    sizes = instruction_sizes(64, seed=0)
    lengths = [prompt + answer for prompt, answer in sizes]
    assert sum(lengths) == 64 * 127
    assert sum(answer for _, answer in sizes) == pytest.approx(0.1 * sum(lengths), rel=0.05)
    assert min(lengths) >= 60
    assert max(lengths) < 250


def test_a_row_has_exactly_the_tokens_that_were_asked_for():
    model = toy_model()
    model.tokenizer = load_tokenizer()
    made = model.encode(conversation(model, 100, 28, random.Random(0)))
    assert (len(made.tokens), sum(made.supervised)) == (128, 28)


def test_a_document_fills_its_row_exactly():
    model = toy_model()
    model.tokenizer = load_tokenizer()
    first, second = (model.encode(d) for d in documents(model, 2, 64, seed=0))
    assert (len(first.tokens), sum(first.supervised)) == (len(second.tokens), sum(second.supervised)) == (64, 63)
    assert first.tokens != second.tokens


def test_above_a_cut_a_document_costs_the_upper_layers_and_the_whole_head():
    model = toy_model()  # 2 layers
    layer, head, attention = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64, model.module.config.vocab_size * 32, 8 * 32
    upper, both = layer + attention + head, 2 * (layer + attention) + head
    assert kept_share(model, 1, 8) == pytest.approx(upper / both)
    assert kept_share(model, 0, 8) == 1


def test_both_replays_read_one_old_document_for_each_new_one():
    old, new = ([Example(text=letter * 15) for letter in letters] for letters in ("ab", "cde"))
    alone, both = (replace(STILL, batch_size=rows, length=16) for rows in (1, 2))
    ways = [(chain(), alone), (Replay(fraction=0.5), both), (LatentReplay(below=1, fraction=0.5), alone)]
    models = [toy_model() for _ in ways]
    done = [replaying(model, *way, old, new).value for model, way in zip(models, ways, strict=True)]
    assert done == [(3, 3 * 16), (3, 6 * 16), (3, 3 * 16)]  # stored states are no tokens of a step
    plain, _, latent = (model.parameters() for model in models)
    assert not all(torch.equal(plain[name], latent[name]) for name in plain)


def test_useful_arithmetic_counts_what_no_step_can_do_without():
    model = toy_model()
    LoRA(rank=2).params(None, model)
    config, tokens = model.module.config, 2 * 8
    frozen = sum(p.numel() for n, p in model.parameters().items() if n.endswith("base.weight"))
    adapters = sum(p.numel() for p in model.trainable().values())
    head, attention = config.vocab_size * 32, 6 * 2 * 2 * 8**2 * 32
    assert frozen == 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    assert useful_flops(model, 2, 8, 5) == 4 * frozen * tokens + 6 * adapters * tokens + 4 * head * 5 + attention
