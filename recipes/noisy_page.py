"""The page and the picture of the noisy corpus."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from io import StringIO
from statistics import fmean
from typing import Any

import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recipes.intervals import interval
from recipes.noisy_curve import Curve
from recipes.noisy_text import REPLACED

COLOURS = ("#222222", "#9ecae1", "#2171b5", "#08306b", "#9467bd", "#ff7f0e", "#2ca02c", "#d62728")
EARLY = 2
"""The mark from which on losses are drawn: before, all arms fall alike, and much further than they differ."""
Runs = Mapping[str, Sequence[Curve]]
"""By arm the curve of each seed."""


def page(found: Runs, asked: Mapping[str, float], sweep: Mapping[tuple[str, float], float], command: str) -> str:
    """The tables as Markdown.

    Args:
        found: all runs.
        asked: the rate of each arm.
        sweep: the loss at the end by arm and rate, on the seed of its own.
        command: the options.
    """
    seeds, plain = len(found["plain"]), found["plain"]
    packages = ", ".join(f"{name} {version(name)}" for name in ("everlearn", "torch", "transformers"))
    lines = [
        "# Selective language modelling on a noisy corpus",
        "",
        f"`python -m recipes.noisy_corpus --data path/to/text {command}`; {packages}, "
        f"{torch.get_num_threads()} thread.",
        f"Half of the corpus is clean, of a quarter {100 * REPLACED:.0f} % of the words are replaced,",
        "of a quarter all words stand in another order. Losses in nats per token, after all tokens; mean [95 %",
        f"t-interval] over {seeds} seeds. The speed-up is by what factor fewer tokens lead to the same loss on clean",
        "held-out text as plain's; below 1 plain is the faster. What references have read is not counted in it.",
        "Clean: the share of clean documents' tokens among what is learned. Minutes inside optimiser steps, a run.",
        "",
        "![Loss on clean held-out text, and on tokens not chosen, by tokens seen](noisy_corpus.svg)",
        "",
        "| | rate | held-out loss | less plain's | speed-up | clean, percent | minutes |",
        "|---" * 7 + "|",
    ]
    for arm, runs in found.items():
        less = [a.held_out[-1] - b.held_out[-1] for a, b in zip(runs, plain, strict=True)]
        speed = [a.faster(b) for a, b in zip(runs, plain, strict=True)]
        cells = [f"{asked[arm]:g}", interval([one.held_out[-1] for one in runs], 1, 3)]
        cells += ["-", "-"] if arm == "plain" else [interval(less, 1, 3), interval(speed, 1, 2)]
        cells += [interval([one.clean for one in runs]), f"{fmean(one.seconds for one in runs) / 60:.1f}"]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *_groups(found), "", *_sweep(sweep)])


def _groups(found: Runs) -> list[str]:
    names = list(found["plain"][0].groups)
    lines = [
        "Loss on the probe, documents of the held-out articles that are spoilt as the corpus is. Its tokens were",
        "chosen once, before the first step: the 60 % with the highest excess loss over the curated reference, the",
        "same for all arms of a seed. Then by kind of document.",
        "",
        "| | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
        "| before | " + " | ".join(interval([c.groups[n][0] for c in found["plain"]], 1, 3) for n in names) + " |",
    ]
    for arm, runs in found.items():
        lines.append(f"| {arm} | " + " | ".join(interval([c.groups[n][-1] for c in runs], 1, 3) for n in names) + " |")
    return lines


def _sweep(sweep: Mapping[tuple[str, float], float]) -> list[str]:
    if not sweep:
        return []
    by: dict[str, list[str]] = {}
    for (arm, rate), loss in sorted(sweep.items()):
        by.setdefault(arm, []).append(f"{rate:g} {loss:.3f}")
    title = "Held-out loss by learning rate on a seed and articles of its own:"
    return [title, "", *(f"- {arm}: {', '.join(losses)}" for arm, losses in by.items()), ""]


def picture(found: Runs) -> str:
    """Two charts as SVG: the loss on clean held-out text, and on the probe's tokens that were not chosen."""
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "everlearn", "font.size": 9, "axes.spines.top": False}
    with rc_context(style | {"axes.spines.right": False, "axes.grid": True, "grid.linewidth": 0.4}):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for colour, (arm, runs) in zip(COLOURS, found.items(), strict=True):
            _line(left, arm, colour, runs, [one.held_out for one in runs])
            _line(right, arm, colour, runs, [one.groups["others"] for one in runs])
        left.set_ylabel("loss on clean held-out text, nats per token")
        right.set_ylabel("loss on tokens not chosen, nats per token")
        early = [one.held_out[EARLY] for runs in found.values() for one in runs if len(one.held_out) > EARLY]
        left.set_ylim(top=max(early, default=None))
        for axes in (left, right):
            axes.set_xlabel("tokens seen, thousands")
        left.legend(frameon=False, fontsize=8)
        file = StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _line(axes: Axes, arm: str, colour: str, runs: Sequence[Curve], losses: Sequence[Sequence[float]]) -> None:
    """The mean over seeds; marks may differ by a step."""
    tokens = [fmean(each) / 1000 for each in zip(*(one.tokens for one in runs), strict=False)]
    axes.plot(tokens, [fmean(e) for e in zip(*losses, strict=False)], color=colour, linewidth=1.4, label=arm)
