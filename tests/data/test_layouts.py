import json
from pathlib import Path
from typing import Any

import pytest

from everlearn.data.layouts import LAYOUTS, Layout
from everlearn.data.sources import read
from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example, Message


def example(row: object, name: Any = "auto", path: Path = Path("a.jsonl")) -> Example:
    return Layout(path, name).example(row, "a.jsonl:1")


def test_prompt_and_response_may_come_with_system_choices_and_metadata() -> None:
    row = {"prompt": "p", "response": "r", "system": "s", "choices": ["r", "q"], "metadata": {"n": 1}, "id": 7}
    assert example(row) == Example(
        messages=(Message("system", "s"), Message("user", "p"), Message("assistant", "r")),
        choices=("r", "q"),
        metadata={"n": 1},
        source="a.jsonl:1",
    )
    nulls = {"prompt": "p", "response": "r", "system": None, "choices": None, "metadata": None}
    assert example(nulls) == example({"prompt": "p", "response": "r"})


def test_messages_are_turns_of_known_authors_that_end_with_the_assistant() -> None:
    turns = [("developer", "d"), ("user", "a"), ("assistant", "b"), ("tool", "c"), ("assistant", "e")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    assert [(m.role, m.content) for m in example(row).messages] == [
        ("system", "d"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", "e"),
    ]


def test_a_text_is_a_document() -> None:
    assert example({"text": "abc\n"}) == Example(text="abc\n", source="a.jsonl:1")


def test_trace_rows_are_prompt_and_answer() -> None:
    assert example({"prompt": "p", "answer": "a"}).messages == (Message("user", "p"), Message("assistant", "a"))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1], "is a list, not an object"),
        ("text", "is a text, not an object"),
        (3, "is the number 3, not an object"),
        (None, "is null, not an object"),
        ({"question": "q"}, r"its fields \['question'\] are those of no known layout"),
        ({"prompt": "p", "answer": ""}, "the field 'answer' is empty"),
        ({"prompt": "p", "response": " \n"}, "the field 'response' is empty"),
        ({"prompt": "p", "response": 8}, "the field 'response' is the number 8, not text"),
        ({"prompt": "p", "response": True}, "the field 'response' is the boolean true, not text"),
        ({"prompt": "p", "response": None}, "the field 'response' is null, not text"),
        ({"prompt": ["p"], "response": "r"}, "the field 'prompt' is a list, not text"),
        ({"prompt": "p", "response": "\ud83d"}, "half of a surrogate pair"),
        ({"prompt": "p", "response": "r", "choices": ["a", "b"]}, "'r' is not one of its choices"),
        ({"prompt": "p", "response": "r", "choices": "r"}, "the field 'choices' is a text, not a list"),
        ({"prompt": "p", "response": "r", "choices": ["r", 1]}, "the field 'choices' is the number 1"),
        ({"prompt": "p", "response": "r", "metadata": [1]}, "the field 'metadata' is a list, not an object"),
        ({"prompt": "p", "response": "r", "system": 1}, "the field 'system' is the number 1"),
        ({"messages": []}, "has to end with a turn of the assistant"),
        ({"messages": {"role": "user"}}, "the field 'messages' is an object, not a list"),
        ({"messages": ["hello"]}, "turn 1 is a text, not an object with 'role' and 'content'"),
        ({"messages": [{"role": "user"}]}, r"turn 1: lacks the field 'content'; it has \['role'\]"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "turn 1: unknown role 'bot'; known are"),
        ({"messages": [{"role": "assistant", "content": None}]}, "turn 1: the field 'content' is null"),
        ({"messages": [{"role": "user", "content": "x"}]}, "has to end with a turn of the assistant"),
        ({"text": ""}, "the field 'text' is empty"),
        ({"text": "t", "label": 1}, "has a 'text' and a 'label'"),
    ],
)
def test_a_bad_row_says_what_is_wrong_with_it(row: object, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        example(row)


def test_a_named_layout_is_asked_of_every_row() -> None:
    assert example({"text": "t", "label": 1}, "text").text == "t"
    with pytest.raises(DataError, match=r"lacks the field 'answer'; it has \['prompt', 'response'\]"):
        example({"prompt": "p", "response": "r"}, "trace")


def test_a_mapping_names_the_fields_of_the_file() -> None:
    names = {"prompt": "question", "response": "answer"}
    found = example({"question": "q", "answer": "a", "text": "t", "metadata": {"n": 1}}, names)
    assert found.messages == (Message("user", "q"), Message("assistant", "a"))
    assert found.metadata == {"n": 1}
    with pytest.raises(DataError, match=r"lacks the field 'question'; it has \['answer'\]"):
        example({"answer": "a"}, names)


def test_empty_columns_of_a_table_do_not_tell_the_layout() -> None:
    row = {"messages": None, "text": None, "prompt": "p", "response": "r", "label": None}
    assert example(row) == example({"prompt": "p", "response": "r"})
    assert example({"text": "t", "label": None, "messages": None}).text == "t"


def test_an_unknown_layout_is_told_what_is_known() -> None:
    with pytest.raises(ConfigError, match=r"unknown layout 'tracee'; known are auto, .*trace \{prompt, answer\}"):
        Layout(Path("a"), "tracee")


def test_rows_with_the_fields_of_a_layout_are_told_from_all_others() -> None:
    content = {"messages": [{"role": "assistant", "content": "x"}], "conversations": [{"from": "gpt", "value": "x"}]}
    whole = {"mtl15", "preference", "sharegpt_preference", "judged"}  # their rows hold more, see below and elsewhere
    for name, (fields, _) in LAYOUTS.items():
        if name not in whole:
            row = {field: content.get(field, "x") for field in fields}
            assert example(row) == example(row, name)


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    """A task as O-LoRA publishes them: instructions above, labels beside."""
    folder = tmp_path / "SC" / "films"
    folder.mkdir(parents=True)
    instructions = {"SC": [{"instruction_type": "zero-shot", "instruction": "How does it sound? Choose.\n"}]}
    (tmp_path / "instruction_config.json").write_text(json.dumps(instructions))
    (folder / "labels.json").write_text('["Good", "Bad"]')
    rows = [{"sentence": "Text: fine ", "label": "Good"}, {"sentence": "Text: hm", "label": "-"}]
    (folder / "train.json").write_text(json.dumps(rows))
    return folder


def test_mtl15_prompts_are_those_of_the_published_code(benchmark: Path) -> None:
    rows = read(benchmark, split="train")
    assert rows.labels == ("Good", "Bad")
    assert rows.examples[0].messages == (
        Message("user", "How does it sound? Choose.\nOption: Good, Bad \nText: fine \nAnswer:"),
        Message("assistant", "Good"),
    )
    (reject,) = rows.rejects
    assert reject.source.endswith("train.json:1, row 2")
    assert reject.reason == "the label '-' is not in labels.json, which has ['Good', 'Bad']"


def test_mtl15_without_its_instructions_or_labels_is_an_error_and_not_another_prompt(benchmark: Path) -> None:
    config = benchmark.parent.parent / "instruction_config.json"
    config.write_text('{"TC": []}')
    assert read(benchmark, split="train").examples[0].prompt[0].content == "Text: fine \nAnswer:"
    config.unlink()
    with pytest.raises(ConfigError, match=r"no instruction_config\.json"):
        read(benchmark, split="train")
    (benchmark / "labels.json").unlink()
    with pytest.raises(ConfigError, match="layout mtl15, which needs"):
        read(benchmark, split="train")


def test_superni_tasks_are_definition_and_instance(tmp_path: Path) -> None:
    task = {
        "Contributors": ["x"],
        "Definition": ["Say the opposite. "],
        "Positive Examples": [{"input": "hot", "output": "cold", "explanation": ""}],
        "Instances": [
            {"id": "1", "input": "up", "output": ["down", "below"]},
            {"id": "2", "input": "left", "output": []},
            {"id": "3", "input": "big", "output": "small"},
        ],
        "URL": ["y"],
    }
    path = tmp_path / "task.json"
    path.write_text(json.dumps(task, indent=2))
    rows = read(path)
    prompt = "Definition: Say the opposite.\n\nNow complete the following example -\nInput: {}\nOutput:"
    assert [e.messages[0].content for e in rows.examples] == [prompt.format("up"), prompt.format("big")]
    assert [e.response for e in rows.examples] == ["down", "small"]
    assert [e.metadata for e in rows.examples] == [{"answers": ["down", "below"]}, {"answers": ["small"]}]
    lines = path.read_text().splitlines()
    for line in [int(e.source.rpartition(":")[2]) for e in rows.examples]:
        assert lines[line - 1].strip() == "{"
    assert [r.reason for r in rows.rejects] == ["the field 'output' is a list, not text"]


def turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": author, "value": value} for author, value in pairs]


def test_sharegpt_turns_keep_calls_and_what_they_return() -> None:
    spoken = turns(("human", "rate?"), ("function_call", '{"name": "rate"}'), ("observation", "2"), ("gpt", "It is 2."))
    found = example({"conversations": spoken, "tools": '[{"name": "rate"}]'})
    assert [(m.role, m.content) for m in found.messages] == [
        ("system", 'You can call these functions:\n[{"name": "rate"}]'),
        ("user", "rate?"),
        ("assistant", '{"name": "rate"}'),
        ("user", "2"),
        ("assistant", "It is 2."),
    ]
    assert example({"conversations": spoken, "tools": "[]"}).messages[0].role == "user"


def test_sharegpt_preferences_are_learned_by_the_chosen_answer() -> None:
    row = {
        "conversations": turns(("system", "be kind"), ("human", "hello")),
        "chosen": {"from": "gpt", "value": "hello!"},
        "rejected": {"from": "gpt", "value": "go away"},
    }
    found = example(row)
    assert [m.content for m in found.messages] == ["be kind", "hello", "hello!"]
    assert found.choices == ("hello!", "go away")


def test_sharegpt_rows_that_end_with_a_question_are_refused() -> None:
    with pytest.raises(DataError, match="has to end with a turn of the assistant"):
        example({"conversations": turns(("human", "hello"))})
    with pytest.raises(DataError, match="turn 1: unknown from 'me'"):
        example({"conversations": turns(("me", "hello"))})


def test_the_published_folders_are_read_whole(shared: Path) -> None:
    for task in sorted(p for p in (shared / "trace-500").iterdir() if p.is_dir()):
        rows = read(task, split="train")
        assert (len(rows.examples), rows.rejects, rows.labels) == (500, (), ())
        assert len(read(task, split="validation").examples) == {"NumGLUE-cm": 41}.get(task.name, 100)
    for folder in sorted(p.parent for p in (shared / "mtl15").rglob("labels.json")):
        rows = read(folder, split="test")
        assert rows.labels == tuple(json.loads((folder / "labels.json").read_text()))
        assert {e.response for e in rows.examples} <= set(rows.labels)
        # MNLI's published test has rows on which its annotators did not agree.
        assert len(rows.rejects) == {"MNLI": 13}.get(folder.name, 0)
        assert all(r.reason.startswith("the label '-' is not in labels.json") for r in rows.rejects)


def test_the_published_sharegpt_files_are_read_whole(shared: Path) -> None:
    preferences = read(shared / "preferences" / "dpo_en.json")
    assert len(preferences.examples) == 300 == sum(len(e.choices) == 2 for e in preferences.examples)
    tools = read(shared / "tools" / "glaive_toolcall_en.json")
    assert (len(tools.examples), tools.rejects) == (300, ())
    assert any("function" in e.messages[0].content and e.messages[0].role == "system" for e in tools.examples)
