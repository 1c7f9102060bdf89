"""The audit's checks of a single experience; each gives what it finds."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist

from everlearn.data.findings import Finding, Limits, Severity
from everlearn.data.looks import Look, Part

SHOWN = 5
"""Most examples that a finding names."""
ANSWERS = 20
"""Most distinct answers of what is taken for a choice among labels."""
DOCUMENTS = 30
"""Fewest test documents whose mean score has an interval worth the name."""


def check_alone(seen: Look, limits: Limits, single: bool) -> Iterator[Finding]:
    """What is found in one experience; `single` says that one label an experience is the scenario's own."""
    yield from _sampled(seen)
    for part in seen.parts.values():
        yield from _duplicates(seen, part, limits)
        yield from _targets(seen, part, single)
        yield from _labels(seen, part, limits)
    yield from _near_duplicates(seen, limits)
    yield from _contradictions(seen, limits)
    yield from _leaks(seen, limits)
    yield from _validation(seen, limits)
    yield from _size(seen, limits)


def _pairs(one: Part, rows: Sequence[int], other: Part, matches: Sequence[int]) -> tuple[str, ...]:
    """Some rows beside those that they match."""
    some = list(zip(rows, matches, strict=True))[:SHOWN]
    return tuple(f"{one.source(row)} = {other.source(match)}" for row, match in some)


def _sampled(seen: Look) -> Iterator[Finding]:
    for part in seen.parts.values():
        if len(part.examples) < part.total:
            message = (
                f"only {len(part.examples)} of {part.total} {part.name} rows were looked at, drawn by chance: "
                "repetitions and overlaps are undercounted. Raise the limit `rows` to look at all."
            )
            yield Finding("note", "sampled", seen.name, message, (), len(part.examples), part.total)


def _duplicates(seen: Look, part: Part, limits: Limits) -> Iterator[Finding]:
    first: dict[tuple[int, str], int] = {}
    again = [row for row, content in enumerate(part.rows) if first.setdefault(content, row) != row]
    if not again:
        return
    count, of = len(again), len(part.rows)
    severity: Severity = "warning" if count >= limits.leak * of else "note"
    advice = "leave the repetitions out, or the count of rows misleads"
    if part.name == "train" and of - count < limits.unique * of:
        severity = "defect"
    elif part.name != "train":
        advice = "its scores rest on fewer rows than they seem to"
    message = f"{count} of {of} {part.name} rows repeat another: {of - count} are distinct; {advice}."
    examples = _pairs(part, again, part, [first[part.rows[row]] for row in again])
    yield Finding(severity, "duplicates", seen.name, message, examples, count, of)


def _near_duplicates(seen: Look, limits: Limits) -> Iterator[Finding]:
    train = seen.parts["train"]
    near = seen.trained.near(seen.sketch, set(train.asked), limits.near)
    # Rows that differ in their answer teach different things, however alike their prompts.
    near = {a: b for a, b in near.items() if train.answers[train.first[a]] == train.answers[train.first[b]]}
    if near:
        count, of = len(near), len(train.first)
        severity: Severity = "warning" if count >= limits.leak * of else "note"
        message = f"{count} of {of} distinct training {seen.unit} are nearly another with the same answer."
        examples = _pairs(train, [train.first[a] for a in near], train, [train.first[b] for b in near.values()])
        yield Finding(severity, "near duplicates", seen.name, message, examples, count, of)


def _contradictions(seen: Look, limits: Limits) -> Iterator[Finding]:
    train = seen.parts["train"]
    answers = defaultdict(set)
    for asked, answer in train.rows:
        answers[asked].add(answer)
    several = [asked for asked, found in answers.items() if len(found) > 1]
    if several:
        count, of = len(several), len(answers)
        severity: Severity = "warning" if count >= limits.leak * of else "note"
        message = f"{count} of {of} distinct training {seen.unit} have more than one answer; look which is right."
        examples = tuple(train.source(train.first[asked]) for asked in several[:SHOWN])
        yield Finding(severity, "contradictions", seen.name, message, examples, count, of)


def _leaks(seen: Look, limits: Limits) -> Iterator[Finding]:
    yield from leaks(seen, seen, limits)
    train, validation = seen.parts["train"], seen.parts["validation"]
    rows = [row for row, asked in enumerate(validation.asked) if asked in train.first]
    if rows:
        count, of = len(rows), len(validation.asked)
        message = (
            f"{count} of {of} validation {seen.unit} stand in train, so early stopping trusts memory; take them out."
        )
        examples = _pairs(validation, rows, train, [train.first[validation.asked[row]] for row in rows])
        yield Finding("warning", "leak to validation", seen.name, message, examples, count, of)


def leaks(seen: Look, other: Look, limits: Limits) -> Iterator[Finding]:
    """Test prompts of one experience that stand, or nearly stand, in the train of another or in its own."""
    test, train = seen.parts["test"], other.parts["train"]
    where = "train" if other is seen else f"the train of {other.name}"
    number = {asked: other.number.get(seen.questions[asked], -1) for asked in test.first}
    same = {asked: match for asked, match in number.items() if match in train.first}
    near = other.trained.near(seen.sketch, set(test.first) - set(same), limits.near)
    advice = "so their scores show memory; take them out of it"
    yield from _leak("leak", f"stand in {where}, {advice}", seen, same, train, limits.leak)
    # What is nearly the same may well be another question: no more than a warning.
    advice = "so their scores may show memory; look whether they ask the same"
    yield from _leak("near leak", f"nearly stand in {where}, {advice}", seen, near, train, math.inf)


def _leak(check: str, what: str, seen: Look, found: Mapping[int, int], train: Part, limit: float) -> Iterator[Finding]:
    test = seen.parts["test"]
    rows = [row for row, asked in enumerate(test.asked) if asked in found]
    if rows:
        count, of = len(rows), len(test.asked)
        examples = _pairs(test, rows, train, [train.first[found[test.asked[row]]] for row in rows])
        severity: Severity = "defect" if count >= limit * of else "warning"
        yield Finding(severity, check, seen.name, f"{count} of {of} test {seen.unit} {what}.", examples, count, of)


def _validation(seen: Look, limits: Limits) -> Iterator[Finding]:
    validation, test = seen.parts["validation"], seen.parts["test"]
    tested, place = set(test.rows), {content: row for row, content in enumerate(test.rows)}
    rows = [row for row, content in enumerate(validation.rows) if content in tested]
    if not rows:
        return
    count, of = len(rows), len(validation.rows)
    examples = _pairs(validation, rows, test, [place[validation.rows[row]] for row in rows])
    if len(tested & set(validation.rows)) >= limits.shared * min(len(tested), len(set(validation.rows))):
        message = (
            f"validation is the test set: {count} of {of} rows stand in both. What is chosen by it is chosen on test."
        )
        yield Finding("defect", "validation is test", seen.name, message, examples, count, of)
    else:
        message = (
            f"{count} of {of} validation rows stand in test, so what is chosen by them has seen it; take them out."
        )
        yield Finding("warning", "validation in test", seen.name, message, examples, count, of)


def _targets(seen: Look, part: Part, single: bool) -> Iterator[Finding]:
    empty = [row for row, e in enumerate(part.examples) if not e.text and not e.response.strip()]
    if empty:
        count, of = len(empty), len(part.examples)
        message = (
            f"{count} of {of} {part.name} rows have an empty answer, which nothing can be learned from or judged by."
        )
        examples = tuple(part.source(row) for row in empty[:SHOWN])
        yield Finding("defect", "empty targets", seen.name, message, examples, count, of)
    elif not seen.documents and not single and len(part.answers) > 1 and len(set(part.answers)) == 1:
        count = len(part.answers)
        message = (
            f"all {count} {part.name} rows have one answer, {part.examples[0].response[:40]!r}: nothing to tell apart."
        )
        yield Finding("defect", "constant targets", seen.name, message, (part.source(0),), count, count)


def _labels(seen: Look, part: Part, limits: Limits) -> Iterator[Finding]:
    if seen.documents or part.name == "validation" or not part.answers:
        return
    answers = Counter(part.answers)
    (answer, count), of = answers.most_common(1)[0], len(part.answers)
    closed = bool(seen.experience.labels) or len(answers) <= min(ANSWERS, of // 5)
    if closed and len(answers) > 1 and count >= limits.majority * of:
        message = (
            f"{count} of {of} {part.name} rows have the answer {answer[:40]!r}, so always giving it scores "
            f"{count / of:.2f}; balance the labels, or compare with that score."
        )
        example = part.source(part.answers.index(answer))
        yield Finding("warning", "label imbalance", seen.name, message, (example,), count, of)


def _size(seen: Look, limits: Limits) -> Iterator[Finding]:
    count = seen.parts["test"].total
    if not count:
        yield Finding("defect", "test size", seen.name, "there are no test rows: it cannot be measured; hold some out.")
    elif seen.documents:
        if count < DOCUMENTS:
            message = (
                f"{count} test documents: their mean has hardly an interval; cut them shorter, or take {DOCUMENTS}."
            )
            yield Finding("warning", "test size", seen.name, message, (), count, DOCUMENTS)
    elif (half := half_width(count)) > limits.effect:
        enough = rows_for(limits.effect)
        message = (
            f"{count} test rows: a score near 50 is known to +-{100 * half:.1f} points (95 %), so a change of "
            f"{100 * limits.effect:.0f} points cannot be seen in one run; {enough} rows would do."
        )
        severity: Severity = "defect" if half > limits.coarse else "warning"
        yield Finding(severity, "test size", seen.name, message, (), count, enough)


def half_width(n: int) -> float:
    """Half of Wilson's 95 % interval of a proportion of one half, where it is widest: z / (2 sqrt(n + z^2))."""
    z = NormalDist().inv_cdf(0.975)
    return z / (2 * math.sqrt(n + z * z))


def rows_for(half: float) -> int:
    """Fewest rows on which a proportion of one half is known to within `half`; the inverse of `half_width`."""
    z = NormalDist().inv_cdf(0.975)
    return math.ceil((z / (2 * half)) ** 2 - z * z)
