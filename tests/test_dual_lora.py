"""The recipe of DualLoRA: its network is the embedded model's last block, and its runs learn, forget and are routed."""

import math
from importlib import import_module

import pytest
import torch

from everlearn.data.packing import Row, collate
from everlearn.errors import ConfigError
from everlearn.learner import Learner, learn
from everlearn.types import Silent
from recipes.dual_lora import METHODS, RATES, feature_learner, feature_stream, learned, rates
from recipes.feature_network import END, LAYERS, MARKS, Classifier, Texts, feature_folder
from recipes.topic_features import ROWS, SOURCES, Pool, pool

WIDTH, INNER = 24, 12


def block():
    draw = torch.Generator().manual_seed(0)
    shapes = {"gate_proj": (INNER, WIDTH), "up_proj": (INNER, WIDTH), "down_proj": (WIDTH, INNER)}
    found = {name: torch.randn(shape, generator=draw) / 3 for name, shape in shapes.items()}
    return found | {"norm": torch.full((WIDTH,), 0.5), "last_norm": torch.full((WIDTH,), 2.0)}


@pytest.fixture(scope="module")
def texts():
    """Eight classes in clusters; all texts have a long direction in common, as those of a language model do."""
    draw = torch.Generator().manual_seed(0)
    labels = [f"class{i}" for i in range(8) for _ in range(ROWS)]
    means = 4 * torch.eye(WIDTH)[1:9]
    features = torch.cat([mean + torch.randn(ROWS, WIDTH, generator=draw) for mean in means]) + 10 * torch.eye(WIDTH)[0]
    return Pool(tuple(labels), features, block())


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("dual_lora")


def small(folder, local=True):
    features = torch.arange(4.0 * WIDTH).view(4, WIDTH).sin()
    told = Texts(("a", "b", "c", "d"), features, (0, 1, -1, -1), (("x", "y"), ("z",)), local)
    model = Learner(str(feature_folder(folder, told, block())), Classifier(), dtype="float32", device="cpu").open()
    return model, features


def probabilities(model, text):
    answers = model.tokenizer.convert_tokens_to_ids(["x", "y", "z"])
    token = model.tokenizer.convert_tokens_to_ids(text)
    return model.module(torch.tensor([[token]])).logits[0, 0].softmax(-1)[answers].tolist()


def test_a_state_is_what_a_gated_feed_forward_block_with_a_residual_makes_of_the_features(tmp_path):
    model, features = small(tmp_path / "model")
    weights, x = block(), features[2]
    n = 0.5 * x / (x.square().mean() + 1e-5).sqrt()
    gate = weights["gate_proj"] @ n
    y = x + weights["down_proj"] @ (gate * gate.sigmoid() * (weights["up_proj"] @ n))
    scores = model.module.get_submodule("model.classifier").weight
    with torch.no_grad():
        scores.copy_(torch.arange(3.0 * WIDTH).view(3, WIDTH).cos())
        token = model.tokenizer.convert_tokens_to_ids("c")
        found = model.module(torch.tensor([[token]])).logits[0, 0, len(MARKS) :]
    expected = scores.detach() @ (2.0 * y / (y.square().mean() + 1e-5).sqrt())
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_head_and_packing_are_what_the_engine_takes_them_for(tmp_path):
    model, _ = small(tmp_path / "model")
    assert model.splits_head
    assert model.packs


def test_answers_of_an_experience_compete_while_it_is_learned_and_all_in_the_test(tmp_path):
    model, _ = small(tmp_path / "local")
    assert probabilities(model, "a") == pytest.approx([1 / 2, 1 / 2, 0], abs=1e-9)
    assert probabilities(model, "b") == pytest.approx([0, 0, 1], abs=1e-9)
    assert probabilities(model, "c") == pytest.approx([1 / 3] * 3)
    model, _ = small(tmp_path / "all", local=False)
    assert probabilities(model, "a") == pytest.approx([1 / 3] * 3)


def test_that_an_answer_ends_is_certain_and_costs_nothing(texts, out):
    stream = feature_stream(texts, 0)
    model = feature_learner(texts, stream, METHODS["head"], 1e-3, True, out).open()
    batch = collate([Row((model.encode(stream.experiences[0].train[0]),))])
    assert batch.tokens[0, -1] == END
    assert model.token_logprobs(batch).tolist() == pytest.approx([math.log(1 / 2), 0.0], abs=1e-6)


def test_joint_learns_all_classes(texts, out):
    assert learned(texts, "joint", 1e-3, 0, out, Silent())["accuracy"] > 0.8


def test_what_learns_is_the_classifier_and_what_a_method_says(texts, out):
    stream = feature_stream(texts, 0)
    for name, adapters in (("head", set()), ("inflora", {f"model.{layer}.B.0" for layer in LAYERS})):
        learner = feature_learner(texts, stream, METHODS[name], 1e-3, True, out)
        model = learner.open()
        state = learn(learner, model, learner.start(model), stream.experiences[0])
        assert set(state.weights) == {"model.classifier.weight", "model.classifier.bias"} | adapters


def test_experiences_have_rows_of_their_own_seed_and_none_in_common(texts):
    one, other = feature_stream(texts, 0), feature_stream(texts, 1)
    assert [len(e.test) for e in one] == [80] * 4
    assert [len(e.train) + len(e.validation) for e in one] == [200] * 4
    names = [e.messages[0].content for x in one for e in (*x.train, *x.validation, *x.test)]
    assert len(names) == len(set(names))
    assert [e.labels for e in one] != [e.labels for e in other]


def test_dual_lora_knows_experiences_by_their_own_directions_and_not_by_residual_ones(texts, out):
    names = ("duallora", "duallora, residual identity")
    own, residual = (learned(texts, name, 1e-3, 0, out, Silent()) for name in names)
    assert own["routing"] > 0.6
    assert residual["routing"] < 0.45
    assert own["learning_accuracy"] > 0.5
    assert learned(texts, "duallora", 1e-3, 0, out, Silent()) == own, "what is done is not done again"


def test_variants_take_the_rate_of_the_method_and_of_equals_the_smallest():
    found = rates({name: {rate: 0.5 if name == "duallora" else rate for rate in reversed(RATES)} for name in METHODS})
    assert found["duallora, sharpness 100"] == found["duallora"] == min(RATES)
    assert found["lora"] == max(RATES)


def test_the_published_texts_are_eighteen_topics_with_as_many_rows_each(shared):
    texts = import_module("recipes.topic_features")
    rows = [row for source in SOURCES for row in texts._rows(shared / "mtl15" / source)]
    counts = {label: sum(row.response == label for row in rows) for label in {row.response for row in rows}}
    assert set(counts.values()) == {ROWS}
    assert len(counts) == 18


def test_missing_data_are_said_to_be_missing(tmp_path):
    with pytest.raises(ConfigError, match="--data"):
        pool(tmp_path / "nowhere", tmp_path, Silent())
