"""Facts in forms, read from rows."""

import json
from pathlib import Path

import pytest

from everlearn.errors import DataError
from everlearn.examples import Example
from everlearn.knowledge.facts import Asked, Fact, read_facts, require_apart
from everlearn.testing.toys import question


def written(folder: Path, *rows: object) -> Path:
    path = folder / "facts.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_a_row_is_a_fact_with_its_forms(tmp_path: Path) -> None:
    full = {
        "name": "elna",
        "statement": "Elna was born in Tromsdal.",
        "paraphrases": ["Tromsdal is where Elna was born."],
        "questions": [{"prompt": "Where was Elna born?", "response": "Tromsdal", "answers": ["in Tromsdalen"]}],
        "reversed": [{"prompt": "Who was born in Tromsdal?", "response": "Elna"}],
        "hops": [{"prompt": "In which country was Elna born?", "response": "Norway"}],
    }
    found, plain = read_facts(written(tmp_path, full, {"statement": "It rains.", "questions": None}))
    assert plain == Fact("fact-2", "It rains.")
    assert found.questions == (Asked("Where was Elna born?", "Tromsdal", ("in Tromsdalen",)),)
    (item,) = found.items("question")
    assert item.prompt[0].content == "Where was Elna born?"
    assert item.metadata == {"fact": "elna", "form": "question", "answers": ["Tromsdal", "in Tromsdalen"]}
    assert [e.response for e in (*found.items("reversed"), *found.items("hop"))] == ["Elna", "Norway"]
    assert [e.text for e in (*found.items("statement"), *found.items("paraphrase"))] == [
        "Elna was born in Tromsdal.",
        "Tromsdal is where Elna was born.",
    ]
    assert plain.items("hop") == plain.items("paraphrase") == ()


def test_a_row_that_is_no_fact_is_named_by_file_and_line(tmp_path: Path) -> None:
    good = {"name": "a", "statement": "It rains."}
    for bad, reason in (
        ([], r"facts.jsonl:2: is a list, not an object"),
        ({}, r":2: lacks the field 'statement'"),
        ({"statement": "x", "question": []}, r":2: has the fields \['question'\], which no fact has"),
        ({"statement": "x", "questions": ["y"]}, r":2: a question is a text, not an object"),
        ({"statement": "x", "hops": [{"prompt": "y"}]}, r":2: lacks the field 'response'"),
        ({"statement": "x", "paraphrases": [" "]}, r":2: the field 'paraphrases' is empty"),
        (good, r":2: 'a' is the name of line 1 too"),
    ):
        with pytest.raises(DataError, match=reason):
            read_facts(written(tmp_path, good, bad))
    with pytest.raises(DataError, match="holds no facts"):
        read_facts(written(tmp_path))


def test_what_is_learned_and_tested_is_refused_whatever_its_case_and_answer() -> None:
    learned = [Example(text="It rains, in Oslo.", source="learned:1"), question("Does it rain?", "yes")]
    require_apart(learned, [Example(text="It rains in Bergen."), question("Does it snow?", "yes")])
    with pytest.raises(DataError, match=r"1 items .* 'it rains in OSLO' of tests:1 and learned:1"):
        require_apart(learned, [Example(text="it rains in OSLO", source="tests:1"), question("Does it snow?", "yes")])
    with pytest.raises(DataError, match="does it rain"):
        require_apart(learned, [question("does it rain", "no")])
