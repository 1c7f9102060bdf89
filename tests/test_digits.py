"""The recipe of the digits: its network is a language model and no less, and the field's pattern is there."""

from dataclasses import replace

import pytest
import torch

from everlearn.data.packing import Row, collate
from everlearn.evaluate import exams, sit
from everlearn.method import chain
from everlearn.methods.anchors import EWC
from everlearn.metrics.likelihood import Choice
from everlearn.types import Silent
from recipes.digits import FIXED, digits_learner, digits_stream, learned, methods


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("digits")


def opened(scenario, out, kind="split"):
    stream = digits_stream(kind, scenario, 0)
    return stream, digits_learner(stream, chain(), 0, out).open()


def lively(model):
    """Other answers than chance, without training."""
    with torch.no_grad():
        model.module.lm_head.weight[:, : model.module.config.width] *= 30
    return model


def test_head_and_packing_are_what_the_engine_takes_them_for(out):
    _, model = opened("class", out)
    assert model.splits_head
    assert model.packs


def test_an_image_in_a_row_with_another_or_beside_padding_gets_what_it_gets_alone(out):
    stream, model = opened("task", out)
    one, other = (model.encode(e.train[0]) for e in (stream.experiences[0], stream.experiences[3]))
    with torch.no_grad():
        alone = torch.cat([model.token_logprobs(collate([Row((x,))])) for x in (one, other)])
        packed = model.token_logprobs(collate([Row((one, other))]))
        padded = model.token_logprobs(collate([Row((one,)), Row((other, one))]))
    assert alone[0].item() != pytest.approx(alone[2].item(), abs=1e-4)
    torch.testing.assert_close(packed, alone)
    torch.testing.assert_close(padded, torch.cat([alone, alone[:2]]))


def test_an_image_is_all_that_an_answer_depends_on(out):
    _, model = opened("class", out)
    greys = torch.full((1, 64), 5)
    row = torch.cat([torch.tensor([[3]]), greys, torch.tensor([[1, 4]])], 1)
    inner, width = model.module.model, model.module.config.width
    before, after = inner(row).last_hidden_state[0, -1], inner(row + (row == 5)).last_hidden_state[0, -1]
    x = torch.zeros(64)  # the first grey value is 0, the next one 1 / 16
    by_hand = torch.relu(inner.second(torch.relu(inner.first(x))))
    torch.testing.assert_close(before[:width], by_hand)
    torch.testing.assert_close(after[:width], torch.relu(inner.second(torch.relu(inner.first(x + 1 / 16)))))


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_its_metric_says_what_choosing_among_the_candidates_says(scenario, out):
    stream, model = opened(scenario, out)
    lively(model)
    own = exams(replace(stream, experiences=tuple(replace(e, test=e.test[:20]) for e in stream)))
    chosen = [replace(exam, metric=Choice()) for exam in own]
    scores, others = ([[o.score for o in one] for one in sit(model, asked)] for asked in (own, chosen))
    assert scores == others
    assert 0 < sum(map(sum, scores)) < 100


def test_answers_of_other_tasks_do_not_compete_where_the_prompt_names_one(out):
    stream, model = opened("task", out, "permuted")
    batch = collate([Row((model.encode(stream.experiences[2].train[0]),))])
    labels = [
        model.encode_choice(stream.experiences[2].train[0].prompt, label)[1][0] for e in stream for label in e.labels
    ]
    probabilities = model.said(batch).logits(slice(0, 1)).softmax(-1)[0, labels].view(5, 10).sum(1)
    torch.testing.assert_close(probabilities, torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]))


def test_the_best_strength_is_taken_and_of_equals_the_smallest():
    sweep = {"ewc": {1e3: 0.1, 1e4: 0.3}, "si": {1.0: 0.2, 0.1: 0.2}, "lwf": {1.0: 0.5, 4.0: 0.4}}
    found = methods(sweep)
    assert [found[name].strength for name in sweep] == [1e4, 0.1, 1.0]


def test_class_incremental_forgets_all_but_what_is_replayed(out):
    stream = digits_stream("split", "class", 0)
    asked = {"none": chain(), "ewc": EWC(1e4), "er": FIXED["er"]}
    learners = {name: digits_learner(stream, method, 0, out) for name, method in asked.items()}
    found = {name: learned(learner, stream, out / name, Silent()) for name, learner in learners.items()}
    accuracy = {name: measures["accuracy"] for name, measures in found.items()}
    assert found["none"]["learning_accuracy"] > 0.95
    assert accuracy["none"] == pytest.approx(0.2, abs=0.03)
    assert accuracy["ewc"] == pytest.approx(0.2, abs=0.08)
    assert accuracy["er"] > 0.6
