"""A grid's standings as rows of text, the same in the terminal and on the Markdown page."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from everlearn.grid.standings import SHOWN, Contrast, Standing
from everlearn.matrix import Row
from everlearn.statistics import Estimate, mean_over_seeds
from everlearn.wording import ABSENT, bracket, chance, percent, titled

Rows = list[dict[str, str]]


def standing_rows(standings: Sequence[Standing]) -> Rows:
    """A row for each method: means over seeds, each with half its 95 % t-interval where there is more than one seed."""
    known = _known(standings)
    return [
        {"method": s.name, "seeds": str(len(s.seeds))}
        | {_heading(measure): estimate(s.measures.get(measure), titled(measure).change) for measure in known}
        | {"minutes": _minutes(s.minutes), "kept": _bytes(s.kept)}
        for s in standings
    ]


def contrast_rows(contrasts: Sequence[Contrast], first: str) -> Rows:
    """A row for each method and measure: what it has more than the first method, and how sure that is.

    Args:
        contrasts: to be shown.
        first: the name of the method that they are held against.
    """
    return [
        {
            f"against {first}": c.name,
            "measure": titled(c.measure).short,
            "difference": percent(c.change.mean, signed=True),
            "95 % over seeds": bracket(c.change.low, c.change.high, signed=True) or ABSENT,
            "over seeds": chance(c.p_seeds) or ABSENT,
            "over items": chance(c.p_items) or ABSENT,
            "n": str(c.n),
            "each seed": ", ".join(percent(d.value, signed=True) for d in c.each),
        }
        for c in contrasts
    ]


def notes(standings: Sequence[Standing], seeds: Sequence[int], tests: Mapping[str, int]) -> list[str]:
    """What the numbers are.

    Args:
        standings: the methods.
        seeds: of the grid.
        tests: the number of test items of each experience.
    """
    items = ", ".join(f"{name} {count}" for name, count in tests.items())
    defined = [titled(measure).short for measure in _known(standings) if titled(measure).short != _heading(measure)]
    return [
        f"percent and points; mean \N{PLUS-MINUS SIGN} half of the 95 % t-interval over the seeds "
        f"{', '.join(map(str, seeds))}; test items: {items}",
        *([f"by definition: {', '.join(defined)}"] if defined else []),
        "minutes: inside optimiser steps; kept: the last version on disk, weights that differ from the base model and "
        "memory",
        "differences: paired t-test over seeds; paired permutation test on the same items, averaged over seeds; "
        "p-values are not corrected for their number",
    ]


def markdown(rows: Rows) -> str:
    """Rows with the same keys as a table in Markdown; the first column holds names.

    Args:
        rows: one at least.
    """
    lines = [list(rows[0]), ["---", *["--:"] * (len(rows[0]) - 1)], *(list(row.values()) for row in rows)]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _known(standings: Sequence[Standing]) -> list[str]:
    return [measure for measure in SHOWN if any(measure in s.measures for s in standings)]


def _heading(measure: str) -> str:
    """A measure's title without whose definition it is; a note below says it once."""
    return titled(measure).short.partition(" (")[0]


def estimate(found: Estimate | None, signed: bool = False) -> str:
    """A mean over seeds in percent, with half its interval where it has one; a dash for what is not there."""
    if found is None:
        return ABSENT
    half = "" if found.high is None else f" \N{PLUS-MINUS SIGN}{percent(found.high - found.mean)}"
    return percent(found.mean, signed=signed) + half


def bound(name: str, rows: Sequence[Row]) -> str:
    """ACC of a model that the methods are held against, and what its rows say of how they were measured.

    Args:
        name: of the base model or a reference.
        rows: of each seed; one at least.
    """
    known = [[score for score in row.scores if score is not None] for row in rows]
    means = [fmean(scores) for scores in known if scores]
    said = dict.fromkeys(row.note for row in rows if row.note)
    acc = estimate(mean_over_seeds(means) if means else None)
    least, size = min(map(len, known)), len(rows[0].scores)
    part = "" if least == size else f" over {least} of {size} experiences"
    return f"{name}: ACC {acc}{part}{''.join(f'; {note}' for note in said)}"


def _minutes(found: Estimate | None) -> str:
    return ABSENT if found is None else f"{found.mean:.3g}"


def _bytes(found: Estimate | None) -> str:
    if found is None:
        return ABSENT
    size, unit = found.mean, "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}"
