"""The recipe of new tokens: its articles and catalogue, its arms, and steps to a loss by hand."""

import json
from pathlib import Path

import pytest

from everlearn.data.catalogue import read_catalogue
from everlearn.errors import ConfigError
from recipes.new_tokens import ARMS, Curve, Size, articles, item_stream, method_of


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "TC" / "dbpedia"
    folder.mkdir(parents=True)
    texts = [
        f"Title: Name {i}\nText: Name {i} is one two three four five six seven eight nine ten {i}\n" for i in range(12)
    ]
    rows = [{"sentence": text, "label": f"kind{i % 2}"} for i, text in enumerate([*texts, "Title: Few\nText: words\n"])]
    for part in ("train", "test"):
        (folder / f"{part}.json").write_text(json.dumps(rows))
    return tmp_path


def test_articles_stand_once_and_halves_of_a_text_do_not_meet(data: Path, tmp_path: Path) -> None:
    found = articles(data)
    assert [a.title for a in found] == [f"Name {i}" for i in range(12)]
    stream = item_stream(found, 0, Size(items=9, known=3, words=6), tmp_path / "out")
    assert [len(e.train) for e in stream] == [3, 9]
    items = {item.token: item for item in read_catalogue(tmp_path / "out" / "catalogue.jsonl")}
    assert [item.joins for item in items.values()] == ["known"] * 3 + ["new"] * 9
    one, other = stream.experiences[1].train[0], stream.experiences[1].test[0]
    assert one.response == other.response == "<item_3>"
    assert one.messages[1].content == "it is one two three four"
    assert other.messages[1].content.startswith("five six seven eight nine ten")
    title = items["<item_3>"].description.partition(",")[0]
    assert title.startswith("Name ")
    assert title not in one.messages[1].content
    with pytest.raises(ConfigError, match="12 articles for 13 items"):
        item_stream(found, 0, Size(items=10, known=3), tmp_path / "out")
    with pytest.raises(ConfigError, match="give the folder mtl15"):
        articles(tmp_path / "nowhere")


def test_arms_differ_in_their_start_alone(tmp_path: Path) -> None:
    found = {arm: method_of(arm, tmp_path / "items.jsonl") for arm in ARMS}
    assert len(set(found.values())) == len(ARMS)
    assert {method.trains for method in found.values()} == {"last"}


def test_steps_to_a_loss_are_those_of_the_first_validation_that_has_it() -> None:
    curve = Curve(5.0, (10, 20, 30), (4.0, 2.0, 3.0), 1.0)
    assert curve.reaches(5.0) == 0
    assert curve.reaches(3.5) == 20
    assert curve.reaches(1.0) is None
