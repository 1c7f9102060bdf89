"""How the recipes' tables write a mean over seeds."""

from collections.abc import Mapping, Sequence

from everlearn.statistics import mean_over_seeds


def interval(values: Sequence[float], scale: float = 100, digits: int = 1) -> str:
    """The mean over seeds with its 95 % t-interval, where there is one.

    Args:
        values: one for each seed.
        scale: what they are multiplied by; fractions become percent.
        digits: behind the point.
    """
    found = mean_over_seeds([scale * value for value in values])
    ends = [] if found.low is None or found.high is None else [found.low, found.high]
    bounds = f" [{', '.join(f'{end:.{digits}f}' for end in ends)}]" if ends else ""
    return f"{found.mean:.{digits}f}{bounds}"


def measured(runs: Sequence[Mapping[str, float]], name: str) -> str:
    """`interval` of a measure over runs; a dash where they do not have it.

    Args:
        runs: the measures of each seed.
        name: of the measure.
    """
    return interval([run[name] for run in runs]) if name in runs[0] else "-"
