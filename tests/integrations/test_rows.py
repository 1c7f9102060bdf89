"""Examples become rows in TRL's formats, and rows become examples, with nothing lost."""

from typing import Any

import pytest

from everlearn.errors import DataError
from everlearn.examples import Example, Message
from everlearn.integrations.rows import Form, examples_of, row_of, to_dataset

ASKED = Example(
    messages=(Message("system", "be brief"), Message("user", "2 + 2?"), Message("assistant", "4")),
    choices=("4", "5"),
    metadata={"rejected": "5", "level": {"hard": None, "steps": [1, 2.5]}},
    source="a.jsonl:3",
    origin="sums",
)
OTHER = Example(messages=(Message("user", "hi"), Message("assistant", "hello")), metadata={"rejected": "no", "b": 1})
TEXT = Example(text="a document", metadata={"year": 1999}, source="b.txt:1", origin="old")
FORMS: tuple[Form, ...] = ("conversations", "completions", "preferences")


def test_a_row_has_the_columns_that_trl_reads() -> None:
    opening, answer = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "2 + 2?"}], "4"
    chosen = [{"role": "assistant", "content": answer}]
    assert row_of(ASKED, "conversations")["messages"] == opening + chosen
    assert (row_of(ASKED, "completions")["prompt"], row_of(ASKED, "completions")["completion"]) == (opening, chosen)
    pair = row_of(ASKED, "preferences")
    assert (pair["prompt"], pair["chosen"]) == (opening, chosen)
    assert pair["rejected"] == [{"role": "assistant", "content": "5"}]
    assert row_of(TEXT)["text"] == "a document"


@pytest.mark.parametrize("form", FORMS)
def test_rows_give_the_examples_back(form: Form) -> None:
    assert examples_of([row_of(e, form) for e in (ASKED, TEXT)]) == [ASKED, TEXT]


@pytest.mark.parametrize("form", FORMS)
def test_a_dataset_gives_the_examples_back(form: Form) -> None:
    datasets = pytest.importorskip("datasets", reason="needs datasets: pip install 'everlearn[trl]'.")
    table = to_dataset([ASKED, OTHER], form)
    assert isinstance(table, datasets.Dataset)
    first, second = examples_of(table, "mine")
    assert first == ASKED
    assert (second.messages, second.metadata, second.source) == (OTHER.messages, OTHER.metadata, "mine:2")


def test_documents_and_conversations_share_a_dataset() -> None:
    pytest.importorskip("datasets", reason="needs datasets: pip install 'everlearn[trl]'.")
    assert examples_of(to_dataset([ASKED, TEXT])) == [ASKED, TEXT]


@pytest.mark.parametrize(
    ("row", "turns", "metadata"),
    [
        ({"prompt": "2 + 2?", "completion": "4", "level": 1}, ["2 + 2?", "4"], {"level": 1}),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, ["q", "a"], {"rejected": "b"}),
        (
            {
                "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
                "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}],
            },
            ["q", "a"],
            {"rejected": "b"},
        ),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "prompt": None},
            ["q", "a"],
            {},
        ),
    ],
    ids=["plain texts", "a plain preference", "an implicit prompt", "columns without values"],
)
def test_trls_other_formats_are_read(row: dict[str, Any], turns: list[str], metadata: dict[str, Any]) -> None:
    (example,) = examples_of([row])
    assert [m.content for m in example.messages] == turns
    assert dict(example.metadata) == metadata
    assert example.source == "rows:1"


def test_a_bad_row_is_named() -> None:
    good = {"prompt": "q", "completion": "a"}
    with pytest.raises(DataError, match=r"hub:x:2: its columns \['question'\] are none of TRL's formats"):
        examples_of([good, {"question": "q"}], "hub:x")
    with pytest.raises(DataError, match=r"rows:1: the conversation has to end with a turn of the assistant"):
        examples_of([{"messages": [{"role": "user", "content": "q"}]}])


def test_an_example_without_a_worse_answer_is_no_preference() -> None:
    with pytest.raises(DataError, match=r"b\.txt:9 is no preference"):
        row_of(Example(messages=ASKED.messages, source="b.txt:9"), "preferences")
