"""Look for what would spoil a result before anything is learned: leaks, duplicates, empty targets, tests too small."""

from collections.abc import Callable, Iterator
from itertools import combinations, permutations
from statistics import median

from everlearn.data.checks import check_alone, leaks
from everlearn.data.findings import Audit, Finding, Limits, Severity
from everlearn.data.looks import Look, look
from everlearn.errors import ConfigError
from everlearn.examples import Example
from everlearn.types import Stream

Count = Callable[[Example], int]

SHOWN = 5
"""Most examples that a finding names."""
LONG = 8000
"""Characters from which a row is named as long where no tokens are counted: some 2000 tokens of English."""


def audit(
    stream: Stream, length: int | None = None, count_tokens: Count | None = None, limits: Limits | None = None
) -> Audit:
    """Look for what would spoil a result on this stream; it takes seconds, and no model.

    Args:
        stream: what is to be learned.
        length: longest row that will be trained on, in tokens; goes with `count_tokens`.
        count_tokens: the number of tokens of an example, under the model that will learn.
        limits: from where on something is a defect or a warning.

    Raises:
        ConfigError: if one of `length` and `count_tokens` is given without the other.
    """
    if (length is None) != (count_tokens is None):
        raise ConfigError("length is in tokens, so it needs a count_tokens; give both or neither.")
    limits = limits or Limits()
    looks = [look(experience, limits.rows) for experience in stream]
    findings = [f for each in looks for f in check_alone(each, limits, stream.scenario == "class")]
    findings += [f for each in looks for f in _lengths(each, length, count_tokens)]
    findings += [f for one, other in permutations(looks, 2) for f in leaks(one, other, limits)]
    findings += [f for one, other in combinations(looks, 2) for f in _same(one, other, limits)]
    order = ("defect", "warning", "note")
    return Audit(stream.name, tuple(sorted(findings, key=lambda f: order.index(f.severity))))


def _same(one: Look, other: Look, limits: Limits) -> Iterator[Finding]:
    shared, of = len(one.content & other.content), min(len(one.content), len(other.content))
    if shared and shared >= limits.shared * of:
        message = (
            f"{shared} of {of} distinct rows are those of {other.name} too: one experience under two names, whose "
            "forgetting cannot be told; leave one out."
        )
        yield Finding("defect", "same experience", one.name, message, (), shared, of)


def _lengths(seen: Look, length: int | None, count_tokens: Count | None) -> Iterator[Finding]:
    for part in seen.parts.values():
        # Documents are cut into windows, however long they are.
        measure = count_tokens or _characters
        lengths = {row: measure(example) for row, example in enumerate(part.examples) if not example.text}
        rows = [row for row, size in lengths.items() if size > (length or LONG)]
        if not rows:
            continue
        unit = "tokens" if length else "characters"
        message = (
            f"{len(rows)} of {len(lengths)} {part.name} rows are longer than {length or LONG} {unit}: the longest has "
            f"{max(lengths.values())}, half have at most {median(lengths.values()):.0f}."
        )
        if length and part.name == "train":
            message += " They are set aside before training; raise the length, or shorten them."
        severity: Severity = "warning" if length else "note"
        examples = tuple(part.source(row) for row in rows[:SHOWN])
        yield Finding(severity, "long rows", seen.name, message, examples, len(rows), len(lengths))


def _characters(example: Example) -> int:
    return sum(len(m.content) for m in example.messages)
