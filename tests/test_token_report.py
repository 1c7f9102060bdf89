"""The page of chosen tokens: true to the choice, whole, and deaf to what data would tell a browser."""

import re
from pathlib import Path

import pytest

from everlearn.errors import DataError
from everlearn.examples import Example, Plan
from everlearn.models.load import load_tokenizer
from everlearn.objectives.selective import Selective
from everlearn.testing.toys import question, toy_folder, toy_model
from everlearn.token_report import chosen_tokens, pieces, write_tokens
from tests.test_report import ATTACK, Page

EXAMPLES = [
    Example(text="a dog", source="one"),
    Example(text="the cat sat on the mat, again and again.", source="two"),
    question("after a?", "bcd", "three"),
]


@pytest.fixture
def objective(tmp_path: Path) -> Selective:
    return Selective(str(toy_folder(tmp_path / "reference", seed=1)), share=0.5, folder=str(tmp_path))


@pytest.mark.parametrize("score", ["excess", "entropy"])
def test_tokens_are_marked_as_they_are_chosen(score: str, objective: Selective) -> None:
    chooses = Selective(objective.reference, 0.5, score, folder=objective.folder)  # type: ignore[arg-type]
    texts = chosen_tokens(chooses, toy_model(), EXAMPLES, Plan(batch_size=8, length=30, tokens=1))
    assert ["".join(t.text for t in text.tokens) for text in texts[:3]] == [
        "a dog<|end|>",
        "the cat sat on the mat, again ",
        " and again.<|end|>",  # a window begins with the last token of the one before
    ]
    assert [text.source for text in texts] == ["one", "two", "two", "three"]
    targets = [token for text in texts for token in text.targets]
    assert (len(targets), sum(token.chosen for token in targets)) == (49, 25)
    assert {token.rank for token in targets if token.chosen} == set(range(1, 26))
    assert [token.text for token in texts[3].targets] == ["b", "c", "d", "<|end|>"]
    if score == "excess":
        ranked = sorted(targets, key=lambda token: token.numbers["reference"] - token.numbers["live"])
        assert [token.rank for token in ranked] == list(range(1, len(targets) + 1))


def test_ranks_are_those_of_a_step(objective: Selective) -> None:
    texts = chosen_tokens(objective, toy_model(), EXAMPLES, Plan(batch_size=1, length=60))
    assert [text.targets[0].of for text in texts] == [5, 40, 4]


def test_the_page_is_whole_and_says_what_was_found(objective: Selective, tmp_path: Path) -> None:
    texts = chosen_tokens(objective, toy_model(), EXAMPLES, Plan(batch_size=8, length=60))
    path = write_tokens(texts, objective, "toy", tmp_path / "tokens.html")
    page = Page(path.read_text(encoding="utf-8"))
    marked = [e for e in page.elements if e.tag == "span" and "rank" in e.attributes.get("title", "")]
    targets = [token for text in texts for token in text.targets]
    assert len(marked) == len(targets)
    assert sum(e.attributes.get("class") == "on" for e in marked) == sum(token.chosen for token in targets)
    assert not [e for e in page.elements if e.tag in ("script", "img", "link")]
    assert "51.0\N{NO-BREAK SPACE}% of 49 tokens" in path.read_text(encoding="utf-8").replace("&nbsp;", "\u00a0")


def test_what_a_text_says_stays_text(objective: Selective, tmp_path: Path) -> None:
    texts = chosen_tokens(objective, toy_model(), [Example(text="a b", source=ATTACK)], Plan())
    page = write_tokens(texts, objective, ATTACK, tmp_path / "tokens.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<img" not in page
    assert re.search(r"&lt;script&gt;", page)


def test_a_character_of_several_tokens_stands_at_its_last() -> None:
    tokenizer = load_tokenizer()
    text = "caf\u00e9 \U0001f980 \u6c34!"
    tokens = tokenizer(text).input_ids
    found = pieces(tokenizer, tokens)
    assert len(found) == len(tokens) > len(text.split())
    assert "".join(found) == text
    assert "\ufffd" not in "".join(found)


def test_texts_without_a_target_are_refused(objective: Selective) -> None:
    with pytest.raises(DataError, match="no example holds a token"):
        chosen_tokens(objective, toy_model(), [], Plan())
