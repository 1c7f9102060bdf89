"""The recipe of RL's Razor: its rows, its measures by hand, and the order of its ways."""

import math
from dataclasses import replace

import pytest
import torch

from everlearn.rewards.reward import Answer
from recipes.razor import (
    ANSWERS,
    ARMS,
    FEW,
    Parity,
    answers,
    asked,
    begun,
    fitted,
    later_rows,
    learner_of,
    page,
    setting,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return setting(0, tmp_path_factory.mktemp("razor"))


def test_the_reward_is_for_the_parity_alone():
    example = asked(range(64), 4)
    replies = [Answer(text) for text in ("digit4", "digit0", "digit5", "", "4")]
    assert Parity().score(example, replies) == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_rows_before_and_after_are_other_images_and_labels_are_of_the_right_parity(place):
    before = place.earlier
    assert len(before) == FEW + 500
    truth = dict(place.rows)
    for example in before[:FEW]:
        image = tuple(map(int, example.prompt[0].content.split()))
        assert ANSWERS.index(example.response) % 2 == truth[image] % 2
    assert not {image for image, _ in place.later} & {image for image, _ in place.tests}
    assert sorted(place.turned(range(64))) == list(range(64))


def test_each_way_has_labels_of_its_own(place):
    small = replace(place, rows=place.rows[:560] + place.rows[1400:])
    peaked = torch.full((len(small.later), 10), 0.01)
    peaked[:, 6:8] = 0.46  # the model says 6 or 7 to everything
    found = {arm: later_rows(small, arm, peaked) for arm in ARMS}
    labels = {arm: {ANSWERS.index(e.response) for e in rows} for arm, rows in found.items()}
    assert labels["one"] == labels["grpo"] == {0, 1}
    assert labels["two"] == {0, 1, 4, 5}
    near = [ANSWERS.index(e.response) in (6, 7) for e in found["oracle"]]
    assert sum(near) / len(near) > 0.8
    assert len(found["one"]) == 4 * len(found["grpo"])
    right = [digit % 2 for _, digit in small.later]
    for rows in found.values():
        assert [ANSWERS.index(e.response) % 2 for e in rows[: len(right)]] == right


def test_the_model_before_knows_both_tasks_and_its_answers_are_probabilities(place):
    learner = learner_of(place, 1e-3, 1)
    model = learner.restore(learner.open(), begun(place))
    images = [image for image, _ in place.tests[:100]]
    said = answers(model, images)
    assert said.sum(-1).tolist() == pytest.approx([1.0] * 100)
    truth = torch.tensor([digit for _, digit in place.tests[:100]])
    assert (said.argmax(-1) % 2 == truth % 2).double().mean() > 0.75
    other = answers(model, [place.turned(image) for image in images])
    assert (other.argmax(-1) == truth).double().mean() > 0.85


def test_a_parabola_through_the_origin_by_hand():
    # y = 2 x + 3 x^2 at 1, 2, 3: 5, 16, 33.
    a, b, r2 = fitted([1, 2, 3], [5, 16, 33])
    assert (a, b, r2) == pytest.approx((2, 3, 1))
    assert fitted([1, 2], [0, 0.5])[2] == pytest.approx(1)
    assert math.isfinite(fitted([1, 2, 3], [3, 1, 2])[2])


def test_the_page_has_a_row_for_each_way_and_a_fit_of_all():
    run = {"parity": 0.9, "gained": 0.1, "forgotten": 0.2, "distance": 0.5}
    other = run | {"forgotten": 0.6, "distance": 1.0}
    made = page({("one", 1e-3): [run, other], ("two", 1e-3): [run, other]} | {(a, 1e-2): [run, other] for a in ARMS}, 2)
    assert "| one | 0.001 | 90.0 [90.0, 90.0] | 10.0 [10.0, 10.0] |" in made
    assert "| all | 12 |" in made
