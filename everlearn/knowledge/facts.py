"""Facts, each in several forms: as it is stated, in other words, asked for, asked for backwards, one step further."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from everlearn.data.fields import Row, kind, optional, text_in
from everlearn.data.self_edits import asked_words
from everlearn.errors import DataError
from everlearn.examples import Example, Message
from everlearn.files import read_jsonl

Form = Literal["statement", "paraphrase", "question", "reversed", "hop"]
FORMS: tuple[Form, ...] = get_args(Form)
TEXTS: tuple[Form, ...] = ("statement", "paraphrase")
"""Forms that are documents; in the others a fact is asked for."""


@dataclass(frozen=True)
class Asked:
    """A question and its answer.

    Args:
        prompt: the question.
        response: the answer that a model is given as the right one.
        answers: others that are as right.
    """

    prompt: str
    response: str
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fact:
    """One thing that can be known.

    Args:
        name: unique among its facts.
        statement: "Elna Varg was born in Tromsdal."
        paraphrases: the same in other words.
        questions: that it answers: "Where was Elna Varg born?"
        reversed: questions from the other end, "Who was born in Tromsdal?"; who learned A is B need not know B is A
            (arXiv:2309.12288).
        hops: questions that ask for one step more, with something known before: "In which country was Elna Varg born?"
    """

    name: str
    statement: str
    paraphrases: tuple[str, ...] = ()
    questions: tuple[Asked, ...] = ()
    reversed: tuple[Asked, ...] = ()
    hops: tuple[Asked, ...] = ()

    def items(self, form: Form) -> tuple[Example, ...]:
        """The fact in a form: documents, or conversations of a question and its answer."""
        texts = {"statement": (self.statement,), "paraphrase": self.paraphrases}
        about: dict[str, Any] = {"fact": self.name, "form": form}
        if form in texts:
            return tuple(Example(text=text, metadata=about, source=self.name) for text in texts[form])
        asked = {"question": self.questions, "reversed": self.reversed, "hop": self.hops}
        return tuple(_conversation(one, about, self.name) for one in asked[form])


def _conversation(asked: Asked, about: dict[str, Any], source: str) -> Example:
    answers = {"answers": [asked.response, *asked.answers]} if asked.answers else {}
    messages = (Message("user", asked.prompt), Message("assistant", asked.response))
    return Example(messages=messages, metadata=about | answers, source=source)


def read_facts(path: str | Path) -> tuple[Fact, ...]:
    """The facts of a JSONL file, one on each line.

    A row is `{"statement", "paraphrases": [TEXT], "questions": [{"prompt", "response"}], "reversed", "hops", "name"}`;
    all but the statement may be left out. "reversed" and "hops" are as "questions"; a question may have more right
    "answers". A fact without a name is called by its line: fact-12.

    Raises:
        DataError: with file and line, at the first row that is no fact or has a name that another one has; or if there
            is none.
    """
    path, facts, lines = Path(path).expanduser(), list[Fact](), dict[str, int]()
    for number, row in read_jsonl(path):
        try:
            fact = _fact(row, f"fact-{number}")
        except DataError as error:
            raise DataError(f"{path}:{number}: {error}; correct or remove this row.") from error
        if lines.setdefault(fact.name, number) != number:
            raise DataError(f"{path}:{number}: {fact.name!r} is the name of line {lines[fact.name]} too; rename one.")
        facts.append(fact)
    if not facts:
        raise DataError(f"{path}: holds no facts; write one JSON object on each line.")
    return tuple(facts)


def _fact(row: object, name: str) -> Fact:
    if not isinstance(row, dict):
        raise DataError(f"is {kind(row)}, not an object")
    known = {"name", "statement", "paraphrases", "questions", "reversed", "hops"}
    if unknown := sorted(row.keys() - known):
        raise DataError(f"has the fields {unknown}, which no fact has; known are {sorted(known)}")
    paraphrases = tuple(text_in({"paraphrases": text}, "paraphrases") for text in optional(row, "paraphrases", list))
    asked = {name: tuple(map(_asked, optional(row, name, list))) for name in ("questions", "reversed", "hops")}
    return Fact(text_in({"name": name} | row, "name"), text_in(row, "statement"), paraphrases, **asked)


def _asked(row: Row) -> Asked:
    if not isinstance(row, dict):
        raise DataError(f"a question is {kind(row)}, not an object with prompt and response")
    answers = tuple(text_in({"answers": text}, "answers") for text in optional(row, "answers", list))
    return Asked(text_in(row, "prompt"), text_in(row, "response"), answers)


def require_apart(learned: Sequence[Example], tested: Sequence[Example]) -> None:
    """Refuse items that are learned from and tested on, whatever their case and punctuation.

    Documents are compared by their words, conversations by those of what is asked last, whatever the answer.

    Raises:
        DataError: naming the first ones.
    """
    known = {asked_words(e): e for e in learned if e.text or e.prompt}
    both = [e for e in tested if (e.text or e.prompt) and asked_words(e) in known]
    if both:
        first = both[0].text or both[0].prompt[-1].content
        where = f"{both[0].source or 'the tests'} and {known[asked_words(both[0])].source or 'what is learned'}"
        raise DataError(
            f"{len(both)} items are learned from and tested on, such as {first!r} of {where}: a form that was trained "
            "on shows nothing; put it into one of the two alone."
        )
