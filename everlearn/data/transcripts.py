"""Examples as plain text that a model can write, and back.

A document is its text. A conversation is its turns, each behind its role: "user: how much is 1+1?" on one line,
"assistant: 2" on the next.
"""

import re

from everlearn.examples import Example, Message

MARK = re.compile(r"^(system|user|assistant):", re.MULTILINE)


def written(example: Example) -> str:
    """The example as plain text."""
    return example.text or "\n".join(f"{m.role}: {m.content}" for m in example.messages)


def read(text: str, document: bool) -> Example | None:
    """The example that a text is, or None where it is none; `written` is the inverse but for white space at the ends.

    Args:
        text: as `written`.
        document: whether it is to be a document, or a conversation: turns that are not empty, one of the user's at
            least, and the assistant's at the end.
    """
    if document:
        return Example(text=text.strip()) if text.strip() else None
    before, *parts = MARK.split(text)
    messages = tuple(Message(role, content.strip()) for role, content in zip(parts[::2], parts[1::2], strict=True))
    roles = [m.role for m in messages]
    if before.strip() or "user" not in roles or roles[-1] != "assistant" or not all(m.content for m in messages):
        return None
    return Example(messages=messages)


def survives(example: Example) -> bool:
    """Whether the example is still the same after it was written and read."""
    again = read(written(example), bool(example.text))
    return again is not None and (again.text, again.messages) == (example.text, example.messages)
