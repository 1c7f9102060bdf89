"""One true sentence about what runs lost and what protection saved, computed from their matrices."""

from collections.abc import Mapping

from everlearn.comparison import Difference, compare, noise_floor
from everlearn.matrix import Matrix, Unit
from everlearn.measures import Measure, summary
from everlearn.wording import ABILITY, bracket, chance, listed, percent

LOST = "backward_transfer_lopez_paz"
COSTS = {"learning_accuracy": "learning accuracy", ABILITY: "general ability"}
LEVEL = 0.05
"""The p-value below which a difference is taken for real; its interval has to exclude 0 as well."""


def verdict(plain: Matrix, protected: Matrix, names: tuple[str, str] = ("plain fine-tuning", "protection")) -> str:
    """What the first run lost of what it had learned, what the second saved of that, and at what cost.

    Losses are backward transfer (Lopez-Paz): unlike forgetting by the best earlier score, noise alone does not raise
    it. What cannot be told from noise is said to be so.

    Args:
        plain: without protection.
        protected: the same stream and the same test items, protected.
        names: of both, inside a sentence.

    Raises:
        DataError: if the runs cannot be compared.
    """
    before = _read(plain)
    sentence = _sentence(plain, before, names[0])
    if plain.learned < 2 and protected.learned < 2:
        return f"{sentence}."
    found = {d.name: d for d in compare(plain, protected).measures}
    saved = _saved(found[LOST], names[1], plain.unit, _is_real(plain, before[LOST]))
    return f"{sentence}; {saved}{_cost(found, plain.unit)}."


def lost(matrix: Matrix, name: str) -> str:
    """What one run lost of what it had learned, and of its general ability, as a sentence.

    Args:
        matrix: of the run, as far as it is.
        name: of the run, inside a sentence.
    """
    return f"{_sentence(matrix, _read(matrix), name)}."


def _read(matrix: Matrix) -> dict[str, Measure]:
    return {measure.name: measure for measure in summary(matrix)}


def _sentence(matrix: Matrix, measures: Mapping[str, Measure], name: str) -> str:
    text, general = _lost(matrix, measures[LOST], name), measures[ABILITY]
    if matrix.learned > 1 and matrix.general and _is_real(matrix.general, general) and _number(general) < 0:
        text += f", and {_points(general, matrix.unit)} of general ability"
    return f"{text[0].upper()}{text[1:]}"


def _lost(matrix: Matrix, change: Measure, name: str) -> str:
    if matrix.learned < 2:
        count = "one experience, so that nothing could be forgotten yet" if matrix.learned else "nothing yet"
        return f"{name} has learned {count}"
    if change.value is None:
        return f"what {name} forgot cannot be told for want of {listed(change.missing)}"
    points = _points(change, matrix.unit)
    if change.value == 0 and change.low == change.high:
        return f"{name} forgot nothing: on average, earlier experiences score as when they were learned"
    if change.low is not None and not _is_real(matrix, change):
        side = "loss" if change.value < 0 else "gain"
        size = f"on average, a {side} of {points} on each earlier experience"
        return f"{name} forgot nothing that can be told from noise ({size})"
    unknown = "" if change.low is not None else "; no interval is known"
    if change.value > 0:
        return (
            f"{name} forgot nothing: on average, each earlier experience gained {points} since it was learned{unknown}"
        )
    return f"{name} forgot on average {points} of each earlier experience, {_worst(matrix)}{unknown}"


def _worst(matrix: Matrix) -> str:
    """The experience that fell most since it was learned; all cells are known here."""
    falls = {}
    for i, (then, now) in enumerate(zip(matrix.diagonal.scores, matrix.rows[-1].scores, strict=True)):
        if i < matrix.learned - 1 and then is not None and now is not None:
            falls[i] = (now - then, percent(then, matrix.unit), percent(now, matrix.unit))
    worst = min(falls, key=lambda i: falls[i][0])
    return f"most on {matrix.names[worst]} ({falls[worst][1]} to {falls[worst][2]})"


def _saved(change: Difference, name: str, unit: Unit, is_lost: bool) -> str:
    if change.value is None:
        return f"what {name} saved cannot be told for want of {listed(change.missing)}"
    points = _points(change, unit)
    if change.low is None:
        return f"{name} {'kept' if change.value >= 0 else 'lost'} {points} more, with no interval known"
    if not _is_clear(change):
        signed = f"{percent(change.value, unit, True)} points {bracket(change.low, change.high, unit, True)}"
        return f"whether {name} saved anything cannot be told from noise ({signed}, {chance(change.p)})"
    if change.value < 0:
        return f"{name} did not help: it lost {points} more ({chance(change.p)})"
    if is_lost and change.value <= -(change.before or 0.0):
        return f"{name} saved {points} of that ({chance(change.p)})"
    return f"{name} kept {points} more ({chance(change.p)})"


def _cost(found: Mapping[str, Difference], unit: Unit) -> str:
    """What was paid, or gained besides, in learning accuracy and general ability; the unknown is left out."""
    known = {title: found[name] for name, title in COSTS.items() if found[name].low is not None}
    clear = {title: change for title, change in known.items() if _is_clear(change)}
    paid = [f"{_points(d, unit)} of {t} ({chance(d.p)})" for t, d in clear.items() if _number(d) < 0]
    gained = [f"{_points(d, unit)} more {t} ({chance(d.p)})" for t, d in clear.items() if _number(d) > 0]
    if not clear:
        helped = _is_clear(found[LOST]) and _number(found[LOST]) > 0
        return f", at no cost to {' or '.join(known)} that can be told from noise" if known and helped else ""
    parts = [f"at a cost of {' and '.join(paid)}"] if paid else []
    return ", " + " and ".join([*parts, f"with {' and '.join(gained)}"] if gained else parts)


def _number(change: Measure | Difference) -> float:
    return 0.0 if change.value is None else change.value


def _is_clear(change: Measure | Difference) -> bool:
    """Whether the interval excludes 0 and, of a difference, the test agrees."""
    if change.low is None or change.high is None:
        return False
    tested = not isinstance(change, Difference) or (change.p is not None and change.p < LEVEL)
    return tested and (change.low > 0 or change.high < 0)


def _is_real(matrix: Matrix, change: Measure) -> bool:
    """Whether a change is clear, and larger than the mean distance between two measurements of the same model."""
    floor = (noise_floor(matrix).mean or 0.0) if matrix.repeat is not None else 0.0
    return _is_clear(change) and abs(_number(change)) > floor


def _points(change: Measure | Difference, unit: Unit) -> str:
    """The size of a change with its interval turned the same way."""
    number, low, high = _number(change), change.low, change.high
    if number < 0 and low is not None and high is not None:
        low, high = -high, -low
    return f"{percent(abs(number), unit)} points {bracket(low, high, unit)}".rstrip()
