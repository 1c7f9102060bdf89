"""Figures as SVG to stand inside an HTML page: text stays text, and colours are the page's own, light or dark.

Matplotlib draws in stand-in colours, which become CSS variables: `--ink`, `--muted`, `--rule`, and
`--series-0` to `--series-5`, one for each run. A run also has a marker, for readers who do not see its colour.
"""

import hashlib
import re
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from io import StringIO
from itertools import groupby
from statistics import fmean
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from everlearn.measures import Measure

INK, MUTED, RULE = "#000001", "#000002", "#000003"
SERIES = tuple(f"#0000a{i}" for i in range(6))
MARKERS = ("o", "s", "^", "D", "v", "P")
VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule"} | {c: f"series-{i}" for i, c in enumerate(SERIES)}
STYLE: Any = {  # matplotlib's types name each key, and differ from version to version
    "svg.fonttype": "none",
    "svg.hashsalt": "everlearn",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
POINTS = 240
"""Most points of a loss curve; more steps than that are averaged in groups."""
NAMED = 6
"""From more experiences on, a loss curve's boundaries carry numbers instead of names."""
SMOOTH = 15
"""Points over which a loss curve's bold line is averaged."""

Loss = tuple[str, float]
"""An optimiser step's experience and loss."""


def score_lines(title: str, runs: Sequence[Sequence[Measure]], learned: int | None) -> str:
    """The score on one experience under each version, from the base model's on, with intervals.

    Args:
        title: what a screen reader says.
        runs: for each run, its column of R.
        learned: the version that had just learned it; None if none has.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(4.4, 2.5), layout="constrained")
        axes = figure.add_subplot()
        if learned is not None:
            axes.axvline(learned, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
            _note(axes, "learned", learned, MUTED)
        for number, column in enumerate(runs):
            _line(axes, number, column, (number - (len(runs) - 1) / 2) * 0.09)
        versions = max(len(column) for column in runs)
        axes.set_xticks(range(versions), ["base", *map(str, range(1, versions))])
        axes.set_xlim(-0.35, versions - 0.65)
        axes.set_ylim(-3, 103)
        axes.set_yticks(range(0, 101, 25))
        axes.set_xlabel("version, by the experience last learned")
        axes.set_ylabel("score, %")
        return _svg(figure, title)


def change_lines(title: str, labels: Sequence[str], runs: Sequence[Sequence[Measure]]) -> str:
    """Changes with their intervals, a line for each label and a mark for each run.

    Args:
        title: what a screen reader says.
        labels: from top to bottom.
        runs: for each run, a measure for each label.
    """
    with rc_context(STYLE | {"axes.grid.axis": "x"}):
        figure = Figure(figsize=(4.4, 0.75 + 0.34 * len(labels)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color=INK, linewidth=0.9)
        for number, measures in enumerate(runs):
            shift = (number - (len(runs) - 1) / 2) * 0.24
            for place, measure in enumerate(measures):
                _bar(axes, number, measure, place + shift)
        axes.set_yticks(range(len(labels)), [label if len(label) <= 24 else f"{label[:23]}…" for label in labels])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(len(labels) - 0.45, -0.55)
        axes.margins(x=0.08)
        axes.set_xlabel("change since the base model, points")
        return _svg(figure, title)


def loss_curve(title: str, losses: Sequence[Loss], number: int) -> str:
    """The training loss of each optimiser step, with a boundary before each experience.

    Args:
        title: what a screen reader says.
        losses: in the order of the steps; one at least.
        number: of the run, for its colour.
    """
    parts = [(name, [loss for _, loss in rows]) for name, rows in groupby(losses, key=lambda row: row[0])]
    width = max(1, -(-len(losses) // POINTS))
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 2.5), layout="constrained")
        axes, start = figure.add_subplot(), 0
        for place, (name, part) in enumerate(parts, start=1):
            places, means = _grouped(part, start, width)
            axes.plot(places, means, color=SERIES[number % len(SERIES)], linewidth=0.7, alpha=0.45)
            axes.plot(places, _smoothed(means), color=SERIES[number % len(SERIES)], linewidth=1.6)
            axes.axvline(start, color=RULE, linewidth=0.9)
            _note(axes, name if len(parts) <= NAMED else str(place), start, INK)
            start += len(part)
        axes.set_xlim(0, start)
        axes.set_ylim(0, 1.05 * _ceiling([loss for _, part in parts for loss in part]))
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("loss, nats per token")
        return _svg(figure, title)


def heat_map(title: str, across: Sequence[str], down: Sequence[str], shares: Sequence[Sequence[float | None]]) -> str:
    """Fractions as a table of cells, the darker the higher, each with its number; what was not measured is blank.

    Args:
        title: what a screen reader says.
        across: labels of the columns: lengths in tokens, say.
        down: labels of the rows, from top to bottom: depths of a needle, say.
        shares: for each row, by column, in [0, 1].
    """
    with rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(1.2 + 0.55 * len(across), 0.8 + 0.3 * len(down)), layout="constrained")
        axes = figure.add_subplot()
        for row, cells in enumerate(shares):
            for column, share in enumerate(cells):
                if share is not None:
                    axes.add_patch(Rectangle((column, row), 1, 1, color=SERIES[0], alpha=0.75 * share, linewidth=0))
                    axes.text(column + 0.5, row + 0.5, f"{100 * share:.0f}", ha="center", va="center", size=8)
        axes.set_xticks([i + 0.5 for i in range(len(across))], across)
        axes.set_yticks([i + 0.5 for i in range(len(down))], down)
        axes.set_xlim(0, len(across))
        axes.set_ylim(len(down), 0)
        axes.set_xlabel("tokens")
        axes.set_ylabel("depth of the needle")
        return _svg(figure, title)


def loss_lines(title: str, losses: Mapping[str, Sequence[tuple[int, float]]], starts: Sequence[tuple[str, int]]) -> str:
    """The loss on each earlier experience while later ones are learned.

    Args:
        title: what a screen reader says.
        losses: for each earlier experience, optimiser steps of the whole run and the loss after each.
        starts: each experience, and the step at which it begins.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 2.9), layout="constrained")
        axes = figure.add_subplot()
        for place, (name, start) in enumerate(starts, start=1):
            axes.axvline(start, color=RULE, linewidth=0.9)
            _note(axes, name if len(starts) <= NAMED else str(place), start, INK)
        for number, (name, points) in enumerate(losses.items()):
            colour, marker = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.3, marker=marker, markersize=3, label=name)
        axes.legend(frameon=False, labelcolor=INK, fontsize=8.5, title="loss on", loc="upper left")
        axes.set_xlim(0, max(step for points in losses.values() for step, _ in points))
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("loss, nats per token")
        return _svg(figure, title)


def _line(axes: Axes, number: int, column: Sequence[Measure], shift: float) -> None:
    """One run's scores; where one is missing, the line is broken."""
    colour, marker = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]
    known = [(t + shift, m) for t, m in enumerate(column)]
    heights = [float("nan") if m.value is None else 100 * m.value for _, m in known]
    axes.plot([x for x, _ in known], heights, color=colour, linewidth=1.5, marker=marker, markersize=4.5)
    for x, m in known:
        if m.low is not None and m.high is not None:
            axes.plot([x, x], [100 * m.low, 100 * m.high], color=colour, linewidth=1, alpha=0.7)


def _bar(axes: Axes, number: int, measure: Measure, height: float) -> None:
    if measure.value is None:
        return
    colour, marker = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]
    if measure.low is not None and measure.high is not None:
        axes.plot([100 * measure.low, 100 * measure.high], [height, height], color=colour, linewidth=1.5)
    axes.plot([100 * measure.value], [height], color=colour, marker=marker, markersize=5)


def _grouped(losses: Sequence[float], start: int, width: int) -> tuple[list[float], list[float]]:
    groups = [losses[i : i + width] for i in range(0, len(losses), width)]
    return [start + i * width + len(g) / 2 for i, g in enumerate(groups)], [fmean(g) for g in groups]


def _smoothed(values: Sequence[float]) -> list[float]:
    """Means over a window centred at each point, shorter at the ends."""
    last = len(values) - 1
    reaches = [min(i, SMOOTH // 2, last - i) for i in range(len(values))]
    return [fmean(values[i - reach : i + reach + 1]) for i, reach in enumerate(reaches)]


def _ceiling(losses: Sequence[float]) -> float:
    """The height of the figure: a few extreme steps, one in a hundred at most, may leave it."""
    return sorted(losses)[min(len(losses) - 1, int(0.99 * len(losses)))]


def _note(axes: Axes, text: str, place: float, colour: str) -> None:
    """A text above the axes, where a vertical line begins."""
    axes.annotate(text, (place, 1), (2, 1), ("data", "axes fraction"), "offset points", color=colour, size=8.5)


def _svg(figure: Figure, title: str) -> str:
    """The drawing as an element of a page, in the page's colours and typeface, its ids like no other figure's."""
    file = StringIO()
    with warnings.catch_warnings():
        # What matplotlib's typeface lacks is measured roughly; the reader's browser draws it with its own.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawing = file.getvalue()
    name = "f" + hashlib.sha256(f"{title}{drawing}".encode()).hexdigest()[:8]
    drawing = re.sub(r"(?<=: )#0000(?:0[1-3]|a[0-5])(?=[;\"])", lambda found: f"var(--{VARIABLES[found[0]]})", drawing)
    drawing = re.sub(r" font-family: [^;\"]*;|<style.*?</style>", "", drawing)
    drawing = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", drawing.replace("xlink:href", "href"))
    _, box, content = re.split(r"<svg[^>]*viewBox=\"([^\"]*)\"[^>]*>", drawing, maxsplit=1)
    head = f'<svg role="img" aria-labelledby="{name}" viewBox="{box}"><title id="{name}">{escape(title)}</title>'
    return f"{head}{content}"
