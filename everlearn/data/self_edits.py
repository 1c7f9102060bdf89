"""What a model is asked to make of a document so that it learns what is in it, and which of its answers are kept.

After SEAL (arXiv:2506.10943): implications, rewrites, and questions with answers. The words of the requests are
our own. An answer is read line by line; a line that is no edit is counted, and so is every edit that is left out.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from everlearn.data.overlap import Index, sketch, words
from everlearn.data.templates import require_places
from everlearn.examples import Example, Message

IMPLICATIONS = """Read the text below. Write down what follows from it, directly or indirectly: one statement on each \
line, complete in itself, with names in place of "he", "she" or "it". Write nothing else.

[Text]
{document}
[End of text]"""
REWRITES = """Read the text below. Say the same in other words, in several different ways: each on one line, complete \
in itself. Change no name, number or date. Write nothing else.

[Text]
{document}
[End of text]"""
QUESTIONS = """Read the text below. Write questions that it answers, each complete in itself, and their answers. Use \
two lines for each, one that begins with "Question:" and one that begins with "Answer:". Write nothing else.

[Text]
{document}
[End of text]"""

_BULLET = re.compile(r"^\s*(?:[-*\u2022]|\(?\d{1,3}[.)])\s+")
_QUESTION, _ANSWER = (re.compile(rf"^\W*{name}\W*\d*\s*:\W*", re.IGNORECASE) for name in ("question", "answer"))

Fate = Literal["kept", "copied", "repeated", "near", "tested"]
"""What becomes of an edit: it is kept; or it stands in its request or is near a document, says what an earlier one has
said, is near an earlier one, or is a test item."""


@runtime_checkable
class Edit(Protocol):
    """A kind of edit. Frozen data."""

    @property
    def request(self) -> str:
        """What the model is asked, with the place {document}."""

    def read(self, text: str) -> list[Example | None]:
        """The edits of an answer, and None for each line that is not one; empty for an empty answer."""


@dataclass(frozen=True)
class Implications:
    """Statements that follow from a document, one on each line.

    Args:
        request: with the place {document}.
    """

    request: str = IMPLICATIONS

    def __post_init__(self) -> None:
        """Refuse a request that shows no document."""
        require_places("Implications", self.request, "document")

    def read(self, text: str) -> list[Example | None]:
        """See `Edit`."""
        return _statements(text)


@dataclass(frozen=True)
class Rewrites:
    """A document in other words, one version on each line.

    Args:
        request: with the place {document}.
    """

    request: str = REWRITES

    def __post_init__(self) -> None:
        """Refuse a request that shows no document."""
        require_places("Rewrites", self.request, "document")

    def read(self, text: str) -> list[Example | None]:
        """See `Edit`."""
        return _statements(text)


@dataclass(frozen=True)
class Questions:
    """Questions that a document answers, each a conversation of one question and one answer.

    Args:
        request: with the place {document}; asks for lines that begin with "Question:" and "Answer:".
    """

    request: str = QUESTIONS

    def __post_init__(self) -> None:
        """Refuse a request that shows no document."""
        require_places("Questions", self.request, "document")

    def read(self, text: str) -> list[Example | None]:
        """See `Edit`."""
        found, asked = list[Example | None](), ""
        for line in filter(str.strip, text.splitlines()):
            bare = _BULLET.sub("", line)
            answer = _ANSWER.sub("", bare).strip() if _ANSWER.match(bare) else ""
            if asked and answer:
                found.append(Example(messages=(Message("user", asked), Message("assistant", answer))))
                asked = ""
                continue
            found += [None] if asked or not _QUESTION.match(bare) else []
            asked = _QUESTION.sub("", bare).strip() if _QUESTION.match(bare) else ""
        return found + ([None] if asked else [])


def _statements(text: str) -> list[Example | None]:
    """A line that ends with a colon only announces what comes."""
    lines = (_BULLET.sub("", line).strip() for line in text.splitlines() if line.strip())
    return [Example(text=line) if re.search(r"\w[^:]*$", line) else None for line in lines]


def asked_words(example: Example) -> tuple[str, ...]:
    """What an example is known again by, whatever its case and punctuation: a document's words, or a question's."""
    return tuple(words(example.text or example.prompt[-1].content))


def fates(
    edits: Sequence[Example],
    requests: Sequence[str],
    documents: Sequence[Example] = (),
    tests: Sequence[Example] = (),
    near: float | None = 0.9,
) -> list[Fate]:
    """What becomes of each edit, the first of equal ones being kept.

    Args:
        edits: in the order they were written.
        requests: what each was written for, its document among it.
        documents: what is learned beside them.
        tests: items that nothing learned may be the same as.
        near: Jaccard similarity of groups of three words from which two texts are near; None looks for equal words
            alone. In texts of 18 words or more, one word at the end is no difference at 0.9.
    """
    bodies = [tuple(words(_body(edit))) for edit in edits]
    held = {asked_words(test) for test in tests if test.text or test.prompt}
    alike = _alike(bodies, documents, near)
    shown = {request: f" {' '.join(words(request))} " for request in set(requests)}
    seen, found = set[tuple[str, ...]](), list[Fate]()
    for number, (edit, body, request) in enumerate(zip(edits, bodies, requests, strict=True)):
        if f" {' '.join(body)} " in shown[request] or alike.get(number, 0) < 0:
            found.append("copied")
        elif body in seen:
            found.append("repeated")
        elif asked_words(edit) in held:
            found.append("tested")
        else:
            found.append("near" if number in alike else "kept")
        seen.add(body)
    return found


def _body(edit: Example) -> str:
    return edit.text or "\n".join(message.content for message in edit.messages)


def _alike(bodies: Sequence[tuple[str, ...]], documents: Sequence[Example], near: float | None) -> Mapping[int, int]:
    """By number of an edit, what it is near: an earlier edit by its number, or a document by a negative one."""
    if near is None or not bodies:
        return {}
    texts = [words(_body(document)) for document in documents]
    seen, first = sketch([*texts, *bodies]), len(texts)
    rows = range(first, first + len(bodies))
    found = Index(seen, range(first + len(bodies))).near(seen, rows, near)
    return {row - first: other - first for row, other in found.items()}
