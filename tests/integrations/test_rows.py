"""Examples become rows in TRL's formats, and rows become examples, with nothing lost."""

from dataclasses import replace
from typing import Any

import pytest

from everlearn.data.preferences import pair, verdict
from everlearn.errors import DataError
from everlearn.examples import Example, Message, Plan
from everlearn.integrations.rows import Form, examples_of, row_of, to_dataset
from everlearn.objectives.criteria import KTO
from everlearn.objectives.preference import Preference
from everlearn.testing.toys import toy_model

ASKED = Example(
    messages=(Message("system", "be brief"), Message("user", "2 + 2?"), Message("assistant", "4")),
    choices=("4", "5"),
    metadata={"level": {"hard": None, "steps": [1, 2.5]}},
    source="a.jsonl:3",
    origin="sums",
)
OTHER = Example(
    messages=(Message("user", "hi"), Message("assistant", "hello")), choices=("no", "hello"), metadata={"b": 1}
)
JUDGED = verdict((Message("user", "hi"),), "go away", False, {"weight": 2.0})
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
    assert row_of(OTHER, "preferences")["rejected"] == [{"role": "assistant", "content": "no"}]
    alone = row_of(JUDGED, "preferences")
    assert (alone["label"], alone["completion"][0]["content"], alone["metadata"]) == (
        False,
        "go away",
        '{"weight": 2.0}',
    )
    assert row_of(TEXT)["text"] == "a document"


@pytest.mark.parametrize("form", FORMS)
def test_rows_give_the_examples_back(form: Form) -> None:
    assert examples_of([row_of(e, form) for e in (ASKED, TEXT)]) == [ASKED, TEXT]
    assert examples_of([row_of(JUDGED, form)])[0].metadata == JUDGED.metadata


@pytest.mark.parametrize("form", FORMS)
def test_a_dataset_gives_the_examples_back(form: Form) -> None:
    datasets = pytest.importorskip("datasets", reason="needs datasets: pip install 'everlearn[trl]'.")
    table = to_dataset([ASKED, OTHER, JUDGED], form)
    assert isinstance(table, datasets.Dataset)
    first, second, third = examples_of(table, "mine")
    assert first == ASKED
    assert second == replace(OTHER, source="mine:2")
    assert third == replace(JUDGED, source="mine:3")


def test_documents_and_conversations_share_a_dataset() -> None:
    pytest.importorskip("datasets", reason="needs datasets: pip install 'everlearn[trl]'.")
    assert examples_of(to_dataset([ASKED, TEXT])) == [ASKED, TEXT]


@pytest.mark.parametrize(
    ("row", "turns", "metadata"),
    [
        ({"prompt": "2 + 2?", "completion": "4", "level": 1}, ["2 + 2?", "4"], {"level": 1}),
        ({"prompt": "q", "completion": "a", "label": None}, ["q", "a"], {}),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "prompt": None},
            ["q", "a"],
            {},
        ),
    ],
    ids=["plain texts", "a label without a value", "columns without values"],
)
def test_trls_other_formats_are_read(row: dict[str, Any], turns: list[str], metadata: dict[str, Any]) -> None:
    (example,) = examples_of([row])
    assert [m.content for m in example.messages] == turns
    assert dict(example.metadata) == metadata
    assert example.source == "rows:1"


QUESTION = (Message("user", "q"),)
ANSWERED = {
    name: [{"role": "user", "content": "q"}, {"role": "assistant", "content": text}]
    for name, text in {"chosen": "c", "rejected": "r"}.items()
}


@pytest.mark.parametrize(
    ("row", "example"),
    [
        (
            {"prompt": "q", "chosen": "c", "rejected": "r", "level": 1},
            pair(QUESTION, "c", "r", {"level": 1}),
        ),
        (ANSWERED, pair(QUESTION, "c", "r", {})),
        (
            {"prompt": ANSWERED["chosen"][:1], "chosen": ANSWERED["chosen"][1:], "rejected": ANSWERED["rejected"][1:]},
            pair(QUESTION, "c", "r", {}),
        ),
        ({"prompt": "q", "completion": "a", "label": True}, verdict(QUESTION, "a", True, {})),
    ],
    ids=["plain texts", "an implicit prompt", "turns", "a judged answer"],
)
def test_trls_preferences_are_the_librarys(row: dict[str, Any], example: Example) -> None:
    assert examples_of([row], "hub:x") == [replace(example, source="hub:x:1")]


def test_preferences_from_a_dataset_are_learned_from_and_become_that_dataset_again() -> None:
    datasets = pytest.importorskip("datasets", reason="needs datasets: pip install 'everlearn[trl]'.")
    asked, said = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    pairs = [{"prompt": [asked], "chosen": [said], "rejected": [said | {"content": c}]} for c in "cd"]
    judged = [{"prompt": [asked], "completion": [said], "label": label} for label in (True, False)]
    for rows, objective in ((pairs, Preference()), (judged, Preference(KTO()))):
        table, model = datasets.Dataset.from_list(rows), toy_model()
        examples = examples_of(table)
        steps = objective.steps(model, examples, Plan(batch_size=1, length=64))
        batches = [batch for step in steps for batch in step.batches]
        found = [model.tokenizer.decode(b.tokens[b.supervised & (b.values["good"] == 1)]) for b in batches]
        assert found == (["b<|end|>"] * 2 if rows is pairs else ["b<|end|>", ""])
        again = to_dataset(examples, "preferences")
        assert again.select_columns(table.column_names).to_list() == rows
        assert examples_of(again) == examples


def test_a_bad_row_is_named() -> None:
    good = {"prompt": "q", "completion": "a"}
    with pytest.raises(DataError, match=r"hub:x:2: its columns \['question'\] are none of TRL's formats"):
        examples_of([good, {"question": "q"}], "hub:x")
    with pytest.raises(DataError, match=r"rows:1: the conversation has to end with a turn of the assistant"):
        examples_of([{"messages": [{"role": "user", "content": "q"}]}])
    with pytest.raises(DataError, match=r"rows:2: .*hold a prompt and no answer.*Rename the column"):
        examples_of([good, {"prompt": "q", "solution": "a"}])
    with pytest.raises(DataError, match=r"rows:1: the chosen and the rejected answer are the same"):
        examples_of([{"prompt": "q", "chosen": "a", "rejected": "a"}])
    with pytest.raises(DataError, match=r"rows:1: its choices \['a', 'c'\] are not the answers that it compares"):
        examples_of([{"prompt": "q", "chosen": "a", "rejected": "b", "choices": ["a", "c"]}])
    with pytest.raises(DataError, match=r"rows:1: the label is a text, not true or false"):
        examples_of([{"prompt": "q", "completion": "a", "label": "cat"}])


def test_an_answer_that_nobody_judged_is_no_preference() -> None:
    with pytest.raises(DataError, match=r"b\.txt:9 is no preference"):
        row_of(Example(messages=ASKED.messages, source="b.txt:9"), "preferences")
