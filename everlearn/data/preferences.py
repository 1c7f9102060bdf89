"""Preferences as examples: a pair of answers to one prompt, or one answer that was judged; and how they are published.

A pair is an example whose choices are the chosen answer, which is its last turn too, and the rejected one: the metric
`Choice` then tells the share of pairs in which the model finds the chosen answer likelier. A judged answer is an
example whose `metadata["good"]` is true or false. `metadata["weight"]` is what either counts for, 1 where nothing is
said.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from everlearn.data.fields import Row, ending_well, kind, optional, system, text_in, turns_in
from everlearn.errors import DataError
from everlearn.examples import Example, Message

GOOD = {True: True, False: False, "true": True, "false": False, "True": True, "False": False}
"""What a label may be, and what it means; 1 and 0 are true and false."""


def pair(prompt: Sequence[Message], chosen: str, rejected: str, metadata: Mapping[str, Any]) -> Example:
    """A preference between two answers.

    Args:
        prompt: the turns that both answer.
        chosen: the better answer.
        rejected: the other.
        metadata: plain JSON data.

    Raises:
        DataError: if the answers are the same, or there is nothing that they answer.
    """
    if chosen.strip() == rejected.strip():
        raise DataError("the chosen and the rejected answer are the same")
    return Example(
        messages=(*_asking(prompt), Message("assistant", chosen)), choices=(chosen, rejected), metadata=metadata
    )


def verdict(prompt: Sequence[Message], answer: str, good: bool, metadata: Mapping[str, Any]) -> Example:
    """One answer that was judged.

    Args:
        prompt: the turns that it answers.
        answer: what was said.
        good: how it was judged.
        metadata: plain JSON data, beside the judgement.
    """
    return Example(messages=(*_asking(prompt), Message("assistant", answer)), metadata={**metadata, "good": bool(good)})


def verdicts(example: Example) -> tuple[tuple[str, bool], ...]:
    """The answers of a preference, each with whether it is good; a pair's chosen answer first.

    Raises:
        DataError: if it is neither a pair nor a judged answer.
    """
    others = [choice for choice in example.choices if choice != example.response]
    if len(example.choices) == 2 and len(others) == 1:
        return (example.response, True), (others[0], False)
    good = example.metadata.get("good")
    if example.text or example.choices or not isinstance(good, bool):
        raise DataError(
            f"{example.source or example.key} is no preference; it needs two choices, of which its last turn is one, "
            'or metadata["good"] that is true or false.'
        )
    return ((example.response, good),)


def weight_of(example: Example) -> float:
    """What a preference counts for.

    Raises:
        DataError: if its weight is not a positive number.
    """
    weight = example.metadata.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise DataError(f"{example.source or example.key}: its weight is {weight!r}; give a positive number.")
    return float(weight)


def preference(row: Row, file: object) -> Example:
    """TRL's `{prompt, chosen, rejected}`: texts, or lists of turns `{role, content}`.

    Answers may be whole conversations, of which all but the last turns are the same, in place of a `prompt`. What else
    a row has is left out but for `system` and `metadata`.
    """
    before, chosen = _answered(row, "chosen")
    again, rejected = _answered(row, "rejected")
    if before != again:
        raise DataError("'chosen' and 'rejected' differ before their last turns; a preference has one prompt")
    return pair((*system(row), *before), chosen, rejected, optional(row, "metadata", dict))


def judged(row: Row, file: object) -> Example:
    """TRL's `{prompt, completion, label}`, as KTO takes it: the label says whether the completion is good."""
    before, answer = _answered(row, "completion")
    label = row["label"]
    if not isinstance(label, bool | int | str) or label not in GOOD:
        raise DataError(f"the label is {kind(label)}, not true or false")
    return verdict((*system(row), *before), answer, GOOD[label], optional(row, "metadata", dict))


def _answered(row: Row, name: str) -> tuple[tuple[Message, ...], str]:
    """The turns that an answer follows, and its text."""
    value = row[name]
    if isinstance(value, list):
        turns = ending_well(turns_in(value, "role", "content"))
        before = _prompt(row) if turns[0].role == "assistant" else ()
        return (*before, *turns[:-1]), turns[-1].content
    return _prompt(row), text_in(row, name)


def _prompt(row: Row) -> tuple[Message, ...]:
    if isinstance(row.get("prompt"), list):
        return turns_in(row["prompt"], "role", "content")
    return (Message("user", text_in(row, "prompt")),)


def _asking(prompt: Sequence[Message]) -> tuple[Message, ...]:
    if not any(message.role == "user" for message in prompt):
        raise DataError("nothing is asked: no turn of the user's stands before the answer")
    return tuple(prompt)
