"""The study of rewards against answers: its rows, how gains are matched, its distances by hand, and its tables."""

from dataclasses import replace
from functools import partial
from math import log

import pytest
import torch

from everlearn.config import parse
from everlearn.errors import ConfigError
from everlearn.examples import Example, Message
from everlearn.files import write_json
from everlearn.fold import Settings, run
from everlearn.learner import Learner
from everlearn.models.logprobs import Said
from everlearn.models.optim import AdamW, Recipe
from everlearn.objectives.next_token import NextToken
from everlearn.testing.toys import toy_folder, toy_model, toy_stream
from everlearn.types import Silent, Stream
from recipes.deadline import Until
from recipes.rft_distance import answers, distance, distances
from recipes.rft_page import page
from recipes.rft_stream import TASKS, Counts, form, stream
from recipes.rft_study import RATES, SWEPT, WAYS, Study, chosen, learned, measures, written
from recipes.several import several

ASKED = [Example(messages=(Message("user", text), Message("assistant", "b"))) for text in ("a", "cd")]


def found(accuracy, learning_accuracy=0.5):
    return {"accuracy": accuracy, "learning_accuracy": learning_accuracy}


def test_the_best_rate_is_taken_and_the_low_one_learns_as_the_rewards_do():
    sft = {1e-3: found(0.9, 0.9), 1e-4: found(0.5, 0.62), 3e-4: found(0.6, 0.8), 3e-5: found(0.4, 0.3)}
    swept = {"sft": sft, "grpo": {1e-4: found(0.7, 0.6), 3e-4: found(0.7, 0.9)}}
    assert chosen(swept) == {"sft": 1e-3, "grpo": 1e-4, "sft_low": 1e-4}
    alone = {"sft": {1e-3: found(0.9)}, "grpo": {1e-4: found(0.7)}}
    assert chosen(alone)["sft_low"] == pytest.approx(3e-4)


def test_a_seed_of_the_table_cannot_be_the_sweeps_and_ways_are_known(tmp_path):
    with pytest.raises(ConfigError, match="is the sweep's"):
        Study(tmp_path, seeds=(SWEPT,))
    with pytest.raises(ConfigError, match="no ways"):
        Study(tmp_path, only=("stf",))


def test_the_sweep_tries_every_rate_of_every_way_but_the_low_one(tmp_path):
    cells = Study(tmp_path).sweep
    assert {cell.way for cell in cells} == set(WAYS) - {"sft_low"}
    assert len(cells) == 2 * len(RATES["sft"]) + 3 * len(RATES["grpo"])
    assert {cell.seed for cell in cells} == {SWEPT}
    assert [cell.rate for cell in Study(tmp_path, only=("sft",), tried=1).sweep] == [1e-3, 1e-3]


def test_a_model_has_no_distance_from_itself():
    model = toy_model()
    said = answers(model, ASKED, 4, 0)
    assert distance(model, said) == pytest.approx(0, abs=1e-9)
    assert len(answers(model, ASKED, 4, 0)[0][0].tokens) == 2


def test_a_distance_is_the_sum_along_an_answer_and_the_mean_over_answers():
    model = toy_model()
    [(batch, said)] = answers(model, ASKED, 3, 0)
    logits = said.logits(slice(0, len(said.states)))
    # Another model says v at every token: p(v) = 1/2 and the rest share 1/2, whatever stands before.
    other = torch.full_like(logits, 0.0)
    other[:, 7] = log(logits.shape[1] - 1)
    q, p = other.softmax(-1), logits.softmax(-1)
    by_hand = float((q * (q.log() - p.log())).sum()) / 2  # two answers
    assert distance(model, [(batch, Said(other))]) == pytest.approx(by_hand)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("rft")
    recipe = Recipe(AdamW(learning_rate=1e-2))
    learner = Learner(str(toy_folder(root / "toy")), parse("LoRA(rank=2)"), recipe, dtype="float64")
    tasks = Stream(tuple(e for e in toy_stream() if not e.test[0].text))
    assert len(tasks) > 1
    return learner, tasks, run(learner, tasks, root / "run", Settings(suite=(), scored="past"))


def test_a_run_on_the_toy_is_measured(made):
    learner, tasks, finished = made
    found = measures(finished)
    matrix = finished.matrix.scores
    last, diagonal = matrix[-1], [matrix[i + 1][i] for i in range(len(tasks))]
    assert found["gained"] == pytest.approx(sum(d - b for d, b in zip(diagonal, matrix[0], strict=True)) / len(tasks))
    lost = [d - a for d, a in zip(diagonal[:-1], last, strict=False)]
    assert found["lost"] == pytest.approx(sum(lost) / len(lost))
    moved = distances(learner, finished, tasks, 2, 4)
    assert set(moved) == {"kl_new", "kl_old", "kl_base"}
    assert all(0 < nats < 100 for nats in moved.values())
    assert distances(learner, finished, tasks, 2, 4) == moved


def test_what_is_done_is_not_done_again_and_the_page_says_how_much_is(tmp_path):
    study = Study(tmp_path, only=("sft_low",), tried=1, seeds=(0, 1))
    assert "0 of 8 runs are done" in written(study)
    one = found(0.5, 0.7) | {"gained": 0.4, "lost": 0.1, "base": 0.3, "minutes": 1.0, "forgetting_chaudhry": 0.1}
    one |= {"general_ability_delta_trace": -0.02, "kl_new": 1.5, "kl_old": 0.5, "kl_base": 2.0}
    one |= {"matrix": [[0.3, 0.3], [0.7, None], [0.5, 0.7]]}
    for cell in study.sweep:
        write_json(tmp_path / cell.name / "measures.json", one)
    for cell in study.main(study.rates()):
        change = {"lost": 0.1 + 0.1 * cell.seed + 0.05 * (cell.way == "grpo")}
        write_json(tmp_path / cell.name / "measures.json", one | change)
    several(partial(learned, study), study.sweep, 1, Until(Silent(), None))
    made = written(study)
    assert "8 of 8 runs are done" in made
    assert "| sft | **0.001** (sft) | 50.0 | 70.0 |" in made
    assert "| grpo | 0.0 [0.0, 0.0], p 1 | 5.0 [5.0, 5.0]" in made
    assert "| grpo 1 | 70.0 | - |" in made


def test_seeds_that_not_all_ways_have_are_not_compared(tmp_path):
    study = Study(tmp_path, only=("sft",), tried=1)
    for cell in study.sweep:
        write_json(tmp_path / cell.name / "measures.json", found(0.5))
    assert "## R" not in written(study)


def test_the_page_of_nothing_has_its_definitions():
    assert "KL(before || after)" in page("about", {"sft": "x"}, {}, {}, {"sft": []})


def test_tasks_have_rows_of_their_own_and_tests_that_no_seed_changes():
    pytest.importorskip("reasoning_gym", reason="needs reasoning-gym: pip install 'everlearn[rl]'.")
    one, other, tried = (stream(Counts(), NextToken(), s, v) for s, v in ((0, False), (1, False), (0, True)))
    assert one.names == tuple(TASKS)
    taught = {e.key for e in form(Counts()).experiences[0].train}
    assert len(taught) == 3 * 8
    for a, b, c in zip(one, other, tried, strict=True):
        assert (len(a.train), len(a.test), len(c.test)) == (32, 36, 16)
        assert list(a.test) == list(b.test)
        assert {e.key for e in a.train} != {e.key for e in b.train}
        parts = [{e.key for e in rows} for rows in (a.train, a.test, c.test)]
        assert len(set.union(*parts)) == 84
        assert not taught & set.union(*parts)
        assert all(e.response.lstrip("-").isdigit() for e in a.train)


def test_the_quick_form_asks_for_less(tmp_path):
    study = Study(tmp_path, Counts(8, 6, 6), (0,), 1, 2, 1, ("sft_low", "grpo_rif"), 1)
    assert study.ways == ("sft", "sft_low", "grpo", "grpo_rif")
    assert len(study.sweep) == 3
    assert replace(study, only=()).ways == ("sft", "grpo")
