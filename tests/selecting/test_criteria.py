"""By what documents are preferred: by hand, and against the model's own losses."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example
from everlearn.models.language_model import LanguageModel
from everlearn.selecting.criteria import (
    Criterion,
    DocumentReader,
    Importance,
    Learnability,
    Novelty,
    Similarity,
    WordEntropy,
)
from everlearn.testing.toys import toy_folder, toy_model


def documents(*texts: str) -> list[Example]:
    return [Example(text=text, source=f"here:{i}") for i, text in enumerate(texts)]


def scored(criterion: Criterion, texts: Sequence[str], reader: DocumentReader | None = None) -> list[float]:
    read: list[int] = []
    found = criterion.scores(documents(*texts), reader or DocumentReader(toy_model()), read.append)
    assert (found.dtype, read[-1]) == (torch.float64, len(texts))
    return found.tolist()


def file_of(folder: Path, *texts: str) -> str:
    path = folder / "task.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def test_novelty_is_the_mean_loss_of_the_tokens_alone_or_in_company() -> None:
    model, texts = toy_model(), ["the cat", "a much longer text about nothing", "x"]
    alone = [scored(Novelty(), [text], DocumentReader(model))[0] for text in texts]
    assert scored(Novelty(), texts, DocumentReader(model, tokens=64)) == pytest.approx(alone, abs=1e-12)
    encoded = model.encode(Example(text="the cat"))
    with torch.no_grad():
        logits = model.module(torch.tensor([encoded.tokens])).logits[0].log_softmax(-1)
    by_hand = [-float(logits[i, token]) for i, token in enumerate(encoded.tokens[1:])]
    assert alone[0] == pytest.approx(sum(by_hand) / len(by_hand), abs=1e-9)
    # Of a longer document the beginning is read: 4 tokens, of which 3 are foreseen.
    assert scored(Novelty(), ["the cat"], DocumentReader(model, length=4)) == pytest.approx(
        [sum(by_hand[:3]) / 3], abs=1e-9
    )


def test_learnability_is_what_the_reference_knows_better_in_nats_per_byte(tmp_path: Path) -> None:
    reference, text = str(toy_folder(tmp_path / "reference", seed=1)), "the cat sat"
    model = toy_model(0, torch.float32)
    (found,) = scored(Learnability(reference), [text], DocumentReader(model))
    sums = [
        scored(Novelty(), [text], DocumentReader(one))[0] * (len(one.encode(Example(text=text)).tokens) - 1)
        for one in (model, LanguageModel.open(reference, "float32", "cpu"))
    ]
    assert found == pytest.approx((sums[0] - sums[1]) / len(text), abs=1e-5)
    itself = str(toy_folder(tmp_path / "same", seed=0))
    assert scored(Learnability(itself), [text], DocumentReader(LanguageModel.open(itself, "float32", "cpu"))) == [0.0]


def test_the_entropy_of_words() -> None:
    # two words twice each; four different ones; one alone; none at all
    texts = ["to be. To be", "one two three four", "well well well", "?!"]
    assert scored(WordEntropy(), texts)[:3] == pytest.approx([math.log(2), math.log(4), 0.0])


def test_what_is_like_the_task_is_preferred(tmp_path: Path) -> None:
    task = file_of(tmp_path, "cats and cats", "cats or cats")
    same, other, cut = scored(Similarity(task), ["cats and cats", "0123456789", "cats or cats"])
    assert 1 >= min(same, cut) > other
    # Of one row only: the cosine of a text with itself is 1.
    assert scored(Similarity(task, rows=1), ["cats and cats"]) == pytest.approx([1.0])


def test_importance_by_hand(tmp_path: Path) -> None:
    # One bucket: every gram is as likely in both, and nothing is preferred.
    task = file_of(tmp_path, "wine wine")
    assert scored(Importance(task, buckets=1), ["wine", "salt salt"]) == pytest.approx([0.0, 0.0])
    # Many buckets: the target has wine twice and "wine wine" once, of 3; all documents have wine once of 4 (wine, salt,
    # salt, "salt salt"). With one count shared among the buckets, log w(wine) = log(2 + e) / 4 - log(1 + e) / 5.
    buckets, e = 100_003, 1 / 100_003
    wine = math.log((2 + e) / 4) - math.log((1 + e) / 5)
    salt = 2 * (math.log(e / 4) - math.log((2 + e) / 5)) + math.log(e / 4) - math.log((1 + e) / 5)
    assert scored(Importance(task, buckets=buckets), ["wine", "salt salt"]) == pytest.approx([wine, salt])


def test_a_bag_needs_room_and_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="buckets=0"):
        Importance("x", buckets=0)
    with pytest.raises(DataError, match="there is nothing"):
        scored(Importance(file_of(tmp_path)), ["wine"])
