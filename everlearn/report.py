"""One self-contained HTML page about one run or several: what was learned, what was lost, and how that is known.

The page asks for nothing from anywhere and runs no script. Texts from data are escaped by the template engine; only
our own drawings and style sheet go in as they are.
"""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from everlearn.comparison import Comparison
from everlearn.definitions import DEFINITIONS
from everlearn.errors import ConfigError
from everlearn.figures import change_lines, heat_map, loss_curve, loss_lines, score_lines
from everlearn.files import write_atomic
from everlearn.fold import Run
from everlearn.measures import Measure
from everlearn.metrics.needles import grid
from everlearn.run_view import RunView, expression
from everlearn.types import Outcome
from everlearn.verdict import lost, verdict
from everlearn.wording import ABILITY, ABSENT, CHIEF, TITLES, bracket, chance, listed, percent, titled

SHOWN_ITEMS = 3
"""Test items of each experience whose replies are shown."""
LONG = 600
"""Characters of a prompt or a reply that are shown."""
MARKS = "\u25cf\u25a0\u25b2\u25c6\u25bc\u271a"
"""One for each colour, alike to the figures' markers."""
ARXIV = re.compile(r"(arXiv:)(\d{4}\.\d{4,5})")


@dataclass(frozen=True)
class Answer:
    """One version's reply to a test item: the run (None for the base model), the version, the text, the score."""

    run: RunView | None
    version: str
    text: str
    score: float


@dataclass(frozen=True)
class Item:
    """A test item with its replies; prompt and answer are None where the run has not kept them."""

    key: str
    prompt: str | None
    answer: str | None
    replies: tuple[Answer, ...]


@dataclass(frozen=True)
class ExperienceView:
    """What the page says about one experience.

    `needles` are heat maps where its test is a grid of them: of a run, under a version, as a drawing.
    """

    name: str
    number: int
    about: Mapping[str, Any]
    metric: str
    objective: str
    figure: str
    items: tuple[Item, ...]
    needles: tuple[tuple[RunView, str, str], ...] = ()


def write_report(runs: Mapping[str, Run], path: Path) -> Path:
    """Write the page and return its path; the first run is the one that the others are compared with.

    Args:
        runs: by the names that the page calls them.
        path: of the HTML file; a file there is replaced.

    Raises:
        ConfigError: if there is no run.
        RegistryError: if a folder holds no run, or none of its versions was scored yet.
    """
    if not runs:
        raise ConfigError("a report needs a run at least; name the folder of one.")
    first = next(iter(runs.values())).matrix
    shown = [RunView(name, i, run, first if i else None) for i, (name, run) in enumerate(runs.items())]
    engine = page_engine()
    engine.globals.update(percent=percent, bracket=bracket, chance=chance, titled=titled, listed=listed)
    engine.globals.update(MARKS=MARKS, ABSENT=ABSENT, cut=_cut, of=_of, expression=expression)
    page = engine.get_template("report.html").render(_content(shown))
    write_atomic(path, page)
    return path


def page_engine() -> Environment:
    """What fills the templates of this folder; texts are escaped, and a name that is not there is an error."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _content(runs: Sequence[RunView]) -> dict[str, Any]:
    names = list(dict.fromkeys(name for run in runs for name in run.measures))
    groups = {
        "chief": [n for n in names if n in CHIEF],
        "other": [n for n in TITLES if n in names and n not in CHIEF],
        "ability": [n for n in names if n not in TITLES],
    }
    experiences = list(dict.fromkeys(name for run in runs for name in run.matrix.names))
    times = sorted(event.time for run in runs for event in run.run.events)
    return {
        "runs": runs,
        "others": [run for run in runs[1:] if isinstance(run.comparison, Comparison)],
        "headlines": _headlines(runs),
        "measures": {key: [n for n in group if _is_known(runs, n)] for key, group in groups.items()},
        "absent": _absent(runs),
        "experiences": [_experience(runs, name, number) for number, name in enumerate(experiences, start=1)],
        "abilities": _abilities(runs),
        "losses": [_losses(run) for run in runs],
        "looks": [_looks(run) for run in runs],
        "definitions": [(d.__name__, titled(d.__name__), _linked(inspect.getdoc(d) or "")) for d in DEFINITIONS],
        "times": (times[0], times[-1]) if times else None,
    }


def _headlines(runs: Sequence[RunView]) -> list[str]:
    """The verdict on each other run against the first; on a run that has nothing to be compared with, its losses."""
    first, found = runs[0], []
    for run in runs[1:]:
        if isinstance(run.comparison, Comparison):
            found.append(verdict(first.matrix, run.matrix, (f"run {first.name}", f"run {run.name}")))
    alone = [run for run in runs[1:] if isinstance(run.comparison, str)]
    return found + [lost(run.matrix, f"run {run.name}") for run in ([] if found else [first]) + alone]


def _is_known(runs: Sequence[RunView], name: str) -> bool:
    return any(name in run.measures and run.measures[name].value is not None for run in runs)


def _absent(runs: Sequence[RunView]) -> list[tuple[str, str, str]]:
    """(measure, run, why) of what cannot be had."""
    return [
        (titled(m.name).short, run.name, f"{listed(m.missing)} not measured" if m.missing else m.note)
        for run in runs
        for m in run.measures.values()
        if m.value is None
    ]


def _experience(runs: Sequence[RunView], name: str, number: int) -> ExperienceView:
    having = [run for run in runs if name in run.matrix.names]
    columns = [run.matrix.names.index(name) for run in having]
    learned = {column + 1 if column < run.matrix.learned else None for run, column in zip(having, columns, strict=True)}
    series = [
        [row[column] for row in run.cells] if run in having else []
        for run, column in zip(runs, _places(runs, name), strict=True)
    ]
    about = having[0].about[name]
    title = f"Score on {name} under each version, for {listed([run.name for run in having])}"
    return ExperienceView(
        name=name,
        number=number,
        about=about,
        metric=expression(about["metric"]),
        objective=expression(about["objective"]),
        figure=score_lines(title, series, learned.pop() if len(learned) == 1 else None),
        items=_items(having, name),
        needles=tuple(found for run in having for found in _needles(run, name)),
    )


def _needles(run: RunView, name: str) -> list[tuple[RunView, str, str]]:
    """Heat maps of the base model, of the version that had just learned the experience, and of the last one."""
    column, learned, found = run.matrix.names.index(name), run.matrix.learned, list[tuple[RunView, str, str]]()
    labels = {0: "base", column + 1: "just learned"} | ({learned: "at the end"} if learned > column + 1 else {})
    for version in sorted(v for v in labels if v <= learned):
        read = grid(list(run.tests.values()), run.matrix.rows[version].items(column))
        if read is not None:
            title = f"Needles found of {name}, {labels[version]}, run {run.name}"
            depths = [percent(depth) for depth in read.depths]
            found.append((run, labels[version], heat_map(title, [*map(str, read.lengths)], depths, read.scores)))
    return found


def _places(runs: Sequence[RunView], name: str) -> list[int]:
    return [run.matrix.names.index(name) if name in run.matrix.names else -1 for run in runs]


def _items(runs: Sequence[RunView], name: str) -> tuple[Item, ...]:
    """A few items with replies: one lost since it was learned, one gained by learning, then the first ones."""
    matrix, column = runs[0].matrix, runs[0].matrix.names.index(name)
    base, own, last = (row.items(column) for row in (matrix.rows[0], matrix.diagonal, matrix.rows[-1]))
    places = [i for i, outcome in enumerate(base) if outcome.reply]
    fell = [i for i in places if own and last[i].score < own[i].score]
    rose = [i for i in places if own and own[i].score > base[i].score and i not in fell]
    chosen = list(dict.fromkeys([*fell[:1], *rose[:1], *places]))[:SHOWN_ITEMS]
    return tuple(_item(runs, name, base[i]) for i in chosen)


def _item(runs: Sequence[RunView], name: str, asked: Outcome) -> Item:
    replies = [Answer(None, "base", asked.reply, asked.score)]
    tests = {key: example for run in runs for key, example in run.tests.items()}
    for run in runs:
        column, learned = run.matrix.names.index(name), run.matrix.learned
        for version in sorted({column + 1, learned} - {0}) if column < learned else ():
            found = [o for o in run.matrix.rows[version].items(column) if o.key == asked.key]
            label = "just learned" if version == column + 1 else f"at the end ({version})"
            replies += [Answer(run, label, o.reply, o.score) for o in found[:1]]
    example = tests.get(asked.key)
    if example is None:
        return Item(asked.key, None, None, tuple(replies))
    return Item(asked.key, "\n".join(m.content for m in example.prompt), example.response, tuple(replies))


def _abilities(runs: Sequence[RunView]) -> dict[str, Any] | None:
    """The general suite before and after, where a run was asked it and has learned something."""
    having = [run for run in runs if run.matrix.general is not None and run.matrix.learned]
    names = list(dict.fromkeys(n for r in having if r.matrix.general is not None for n in r.matrix.general.names))
    if not names:
        return None
    blank = Measure("", None)
    changes = [[run.measures.get(f"{ABILITY}[{name}]", blank) for name in names] for run in runs]
    title = f"Change of each general ability since the base model, for {listed([run.name for run in having])}"
    scores = [[_ability_scores(run, name) for name in names] for run in runs]
    return {"names": names, "changes": changes, "scores": scores, "figure": change_lines(title, names, changes)}


def _ability_scores(run: RunView, name: str) -> tuple[float | None, float | None]:
    suite = run.matrix.general
    if suite is None or name not in suite.names:
        return None, None
    column = suite.names.index(name)
    return suite.rows[0].scores[column], suite.rows[-1].scores[column]


def _losses(run: RunView) -> str:
    losses = [(str(row["experience"]), float(row["loss"])) for row in run.steps]
    return loss_curve(f"Training loss of run {run.name}, step by step", losses, run.number) if losses else ""


def _looks(run: RunView) -> str:
    title = f"Loss on earlier experiences while later ones were learned, run {run.name}"
    return loss_lines(title, run.looks, run.starts) if run.looks else ""


def _linked(text: str) -> list[tuple[str, str]]:
    """A text in pieces, each with the address that it leads to, or none."""
    pieces = re.split(r"(arXiv:\d{4}\.\d{4,5})", text)
    return [(p, f"https://arxiv.org/abs/{m[2]}" if (m := ARXIV.fullmatch(p)) else "") for p in pieces if p]


def _cut(text: str) -> str:
    return text if len(text) <= LONG else f"{text[:LONG]} … ({len(text) - LONG} more characters)"


def _of(mappings: Iterable[Mapping[str, Any]], key: str) -> list[Any]:
    """What the mappings that have the key hold under it; templates cannot ask for a name with a dot in it."""
    return [mapping[key] for mapping in mappings if key in mapping]
