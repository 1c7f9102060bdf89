"""Suites of multiple-choice items that show whether a model keeps what it knew before a stream."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example, Message
from everlearn.files import read_jsonl

SHIPPED = Path(__file__).parents[1] / "data" / "general_suite.jsonl"
"""Items of our own on seven abilities, 32 each: knowledge, words, grammar, everyday, reading, science, arithmetic."""


def general_suite(path: Path | None = None, per_ability: int | None = None) -> tuple[Example, ...]:
    """Items on general abilities: a question, its choices, and the right one as the assistant's turn.

    Each item's `metadata["ability"]` names what it tests, so that a score can be had for each ability.

    Args:
        path: a JSONL file of rows `{"ability", "prompt", "choices", "answer"}`, where `answer` is the index, from 0,
            of the right choice. Without it, the suite that ships with the package.
        per_ability: only the first so many items of each ability, for a quick look; all of them without it.

    Raises:
        ConfigError: if `per_ability` is below 1.
        DataError: with file and line, at the first row that is no item or stands twice, or if the file has no rows.
    """
    if per_ability is not None and per_ability < 1:
        raise ConfigError(f"per_ability={per_ability}: a suite needs one item of each ability at least.")
    items = tuple(_read(path or SHIPPED))
    if not items:
        raise DataError(f"{path}: holds no items; write one JSON object per line, or leave the path out.")
    taken: Counter[str] = Counter()
    chosen = []
    for item in items:
        ability = item.metadata["ability"]
        taken[ability] += 1
        if per_ability is None or taken[ability] <= per_ability:
            chosen.append(item)
    return tuple(chosen)


def _read(path: Path) -> Iterator[Example]:
    lines: dict[str, int] = {}
    for number, row in read_jsonl(path):
        defect = _defect(row)
        if defect:
            raise DataError(f"{path}:{number}: {defect}; correct or remove this row.")
        messages = (Message("user", row["prompt"]), Message("assistant", row["choices"][row["answer"]]))
        item = Example(
            messages=messages,
            choices=tuple(row["choices"]),
            metadata={"ability": row["ability"]},
            source=f"{path.name}:{number}",
            origin="general",
        )
        first = lines.setdefault(item.key, number)
        if first != number:
            raise DataError(f"{path}:{number}: the same item as in line {first}; remove one of them.")
        yield item


def _defect(row: Any) -> str:
    """What keeps a row from being an item; empty if nothing does."""
    if not isinstance(row, dict):
        return "not a JSON object with ability, prompt, choices and answer"
    for name in ("ability", "prompt"):
        if not _is_text(row.get(name)):
            return f"{name!r} is {row.get(name)!r}, not a text"
    choices, answer = row.get("choices"), row.get("answer")
    if not isinstance(choices, list) or not all(map(_is_text, choices)) or len(set(choices)) < max(2, len(choices)):
        return f"'choices' is {choices!r}, not a list of two or more different texts"
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        return f"'answer' is {answer!r}, not an index from 0 to {len(choices) - 1}"
    return ""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
