"""A chat model that is a plain function: it answers by what the prompts ask."""

import json
import re
from collections.abc import Sequence

from everlearn.examples import Example, Message

DOCUMENTS = [
    Example(text="Elna Varg was born in Oslo in 1912. The Fram Museum stands in Oslo.", source="notes:1"),
    Example(text="The Fram Museum opened in 1936.", source="notes:2"),
]


def scripted(messages: Sequence[Message]) -> str:
    """What a writer and a judge would answer."""
    text = messages[0].content
    if text.startswith("Read the text"):
        return statements(part(text, "Text"))
    if text.startswith("Here is what is known"):
        about = re.search(r"known about (.*?):", text)
        assert about
        style = "number" if "number or a date" in text else "fact"
        return "Of course! " + json.dumps({"question": f"What {style} is there of {about[1]}?", "answer": 1936})
    if text.startswith("Someone is to answer"):
        return (
            f"Analysis: I look it up: {part(text, 'Question')}\n"
            'Action: {"name": "search", "arguments": {"query": "it"}}'
        )
    if text.startswith("Answer the question"):
        assert "1936" not in text, "a draft is made without notes"
        return "Perhaps 1930."
    if text.startswith("Below are a question"):
        assert part(text, "Draft") == "Perhaps 1930."
        return f"{part(text, 'Question')} It opened then, so 1936."
    if "Verdict" in text:
        return "Verdict: reject? No.\nVerdict: accept"
    raise AssertionError(text)


def part(text: str, name: str) -> str:
    return text.partition(f"[{name}]\n")[2].partition(f"\n[End of {name[0].lower()}{name[1:]}]")[0]


def statements(document: str) -> str:
    rows = [
        {"entity": "Elna Varg", "statement": "Elna Varg was born in Oslo.", "date": "1912"},
        {"entity": "oslo", "statement": "The Fram Museum stands in Oslo."},
        {"entity": "Oslo", "statement": "the fram museum stands in oslo"},
        {"entity": "", "statement": "Somebody was somewhere."},
    ]
    if "opened" in document:
        rows = [{"entity": "Fram Museum", "statement": "The Fram Museum opened in 1936.", "date": "1936"}]
    return f"```json\n{json.dumps(rows)}\n```"
