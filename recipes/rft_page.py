"""The tables of `recipes.rft_study`."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from everlearn.statistics import mean_over_seeds, paired_t
from recipes.intervals import interval

Runs = Sequence[Mapping[str, Any]]

COLUMNS: Mapping[str, tuple[str, float]] = {
    "accuracy": ("ACC", 100),
    "learning_accuracy": ("learning accuracy", 100),
    "gained": ("gained", 100),
    "lost": ("lost", 100),
    "forgetting_chaudhry": ("forgetting", 100),
    "general_ability_delta_trace": ("GAD", 100),
    "kl_new": ("KL new", 1),
    "kl_old": ("KL old", 1),
    "kl_base": ("KL base", 1),
}
"""Titles of measures, and what they are multiplied by."""
HELD = ("sft", "sft_low")
"""What the others are held against."""
TESTED = ("gained", "lost", "accuracy", "general_ability_delta_trace", "kl_new", "kl_old")
NOTES = """\
Percent and points, mean [95 % t-interval] over seeds; p of the paired t-test over seeds, not corrected for the number
of comparisons. Greedy answers, of which the last number counts. With R[t, i] the accuracy on task i after task t, and
R[0, i] the base model's: ACC is the mean of R[T, i]; learning accuracy that of R[i, i]; gained that of
R[i, i] - R[0, i]; lost the mean over i < T of R[i, i] - R[T, i] (negative where a task got better afterwards);
forgetting (Chaudhry) the mean over i < T of max R[t, i] - R[T, i]; GAD the change of general ability, multiple choice,
over the whole sequence (TRACE). KL is KL(before || after) of whole answers, in nats, on test prompts, by one answer to
each that is drawn from "before": "new" from a task's start to its end on its own prompts, "old" the same on prompts of
the tasks before it, "base" from the base model to the last version on the prompts of all. Lost by gained is the ratio
of the means."""


def page(
    about: str,
    methods: Mapping[str, str],
    swept: Mapping[str, Mapping[float, Mapping[str, Any]]],
    rates: Mapping[str, float],
    runs: Mapping[str, Runs],
) -> str:
    """The page as Markdown.

    Args:
        about: the setting, in a sentence.
        methods: what each way is.
        swept: what each way found on the sweep's seed at each rate.
        rates: the rate that each way has taken; empty as long as the sweep is not done.
        runs: of each way, one for each seed, in the same order of seeds.
    """
    lines = ["# RFT against SFT in a sequence", "", about, ""]
    lines += [*(f"- {way}: {text}" for way, text in methods.items()), "", NOTES, ""]
    lines += _sweep(swept, rates)
    if all(runs.values()):
        lines += [*_main(rates, runs), *_differences(runs), *_matrices(runs)]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    line = "| {} |".format
    return [line(" | ".join(head)), "|---" * len(head) + "|", *(line(" | ".join(row)) for row in rows), ""]


def _sweep(swept: Mapping[str, Mapping[float, Mapping[str, Any]]], rates: Mapping[str, float]) -> list[str]:
    """Every way at every rate, on one seed; the rates that are taken are set in bold."""
    names = [name for name in COLUMNS if any(name in one for each in swept.values() for one in each.values())]
    rows = []
    for way, each in swept.items():
        for rate, one in each.items():
            taken = [other for other in (way, f"{way}_low") if rates.get(other) == rate]
            marks = f"**{rate:g}** ({', '.join(taken)})" if taken else f"{rate:g}"
            rows.append([way, marks, *(_cell([one], name) for name in names)])
    titles = [COLUMNS[name][0] for name in names]
    return ["## Learning rates, one seed, validation questions", "", *_table(["way", "rate", *titles], rows)]


def _cell(runs: Runs, name: str) -> str:
    scale = COLUMNS[name][1]
    return interval([run[name] for run in runs], scale, 1 if scale == 100 else 2) if name in runs[0] else "-"


def _main(rates: Mapping[str, float], runs: Mapping[str, Runs]) -> list[str]:
    rows = []
    for way, each in runs.items():
        gained, lost = (fmean(run[name] for run in each) for name in ("gained", "lost"))
        ratio = f"{lost / gained:.2f}" if gained > 0 else "-"
        minutes = f"{fmean(run['minutes'] for run in each):.1f}"
        rows.append([way, f"{rates[way]:g}", *(_cell(each, name) for name in COLUMNS), ratio, minutes])
    head = ["way", "rate", *(title for title, _ in COLUMNS.values()), "lost by gained", "minutes"]
    base = _percent(fmean(run["base"] for run in next(iter(runs.values()))))
    return ["## Three tasks in a sequence", "", f"Base model: ACC {base}.", "", *_table(head, rows)]


def _differences(runs: Mapping[str, Runs]) -> list[str]:
    """What each way has more than SFT, and than SFT at the low rate."""
    lines = ["## Differences, paired by seed", ""]
    for first in (name for name in HELD if name in runs):
        rows = []
        for way, each in runs.items():
            if way != first:
                rows.append([way, *(_difference(each, runs[first], name) for name in TESTED if name in each[0])])
        shown = [COLUMNS[name][0] for name in TESTED if name in runs[first][0]]
        lines += _table([f"less {first}", *shown], rows)
    return lines


def _difference(each: Runs, others: Runs, name: str) -> str:
    scale = COLUMNS[name][1]
    changes = [one[name] - other[name] for one, other in zip(each, others, strict=True)]
    p = paired_t(mean_over_seeds(changes))
    return interval(changes, scale, 1 if scale == 100 else 2) + ("" if p is None else f", p {p:.2g}")


def _matrices(runs: Mapping[str, Runs]) -> list[str]:
    """R of each way, the mean over seeds; a row for each version."""
    lines = ["## R, percent, mean over seeds", "", "Rows: after so many tasks, the base model first.", ""]
    for way, each in runs.items():
        rows = []
        for number, same in enumerate(zip(*(run["matrix"] for run in each), strict=True)):
            cells = [_percent(fmean(scores)) if None not in scores else "-" for scores in zip(*same, strict=True)]
            rows.append([f"{way} {number}", *cells])
        lines += _table(["version", *(f"task {i + 1}" for i in range(len(rows[0]) - 1))], rows)
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
