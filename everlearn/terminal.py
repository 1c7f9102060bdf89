"""Tables for a terminal of 100 columns; every mark can be read without colours."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from rich import box
from rich.console import ConsoleRenderable
from rich.table import Table
from rich.text import Text

from everlearn.data.findings import Audit
from everlearn.data.rejects import Reject
from everlearn.grid.compare import Compared
from everlearn.grid.tables import Rows, contrast_rows, standing_rows
from everlearn.matrix import BESIDE, Matrix
from everlearn.measures import Measure, routing_accuracy, summary
from everlearn.rebase_folders import Score
from everlearn.registry.ledger import Event
from everlearn.sampling import USUAL
from everlearn.wording import ABSENT, CHIEF, TITLES, bracket, listed, percent, titled

WIDE = 8
"""From more experiences on, columns are headed by their numbers; the rows say which is which."""
BLOCK = 10
"""Columns side by side; the others follow below."""
REJECTS = 10
"""Rows set aside that are shown."""
CHANGED = 0.03
"""Change since it was learned from which a score is coloured, as a fraction."""
STYLES = {"defect": "bold red", "warning": "yellow", "note": "dim", "commit": "green", "reject": "red"}


def matrix_table(matrix: Matrix, title: str) -> Table:
    """R in percent: a row for each version, the base model's first; what was just learned carries a star.

    Colours say what came of it since: red fell, green rose. What is not learned yet is dim.

    Args:
        matrix: of a run, or a published one.
        title: above the table.
    """
    notes = "percent; * just learned" + ("; general: mean of the general suite" if matrix.general else "")
    notes += "; routed: prompts that the last version takes for their own experience" * bool(routing_accuracy(matrix))
    absent = [f"R[{t},{i + 1}]" for t, row in enumerate(matrix.rows) for i, s in enumerate(row.scores) if s is None]
    below = [notes, *([f"{ABSENT} not measured: {listed(absent)}"] if absent else [])]
    below += [f"in context: {matrix.in_context.note}"] if matrix.in_context and matrix.in_context.note else []
    return _framed(title, [_block(matrix, start) for start in range(0, len(matrix.names), BLOCK)], below)


def measures_table(matrices: Mapping[str, Matrix]) -> Table:
    """The measures of one run or several side by side, in percent and points, each with its interval and n.

    What no run has is named below the table with what it lacks.

    Args:
        matrices: by the names of their columns.
    """
    found = {name: {m.name: m for m in summary(matrix)} for name, matrix in matrices.items()}
    table = _table("measure")
    for name in found:
        table.add_column(Text(name), justify="right", overflow="fold")
    table.add_column("n", justify="right")
    names = dict.fromkeys(name for measures in found.values() for name in measures)
    chief, others = [n for n in names if n in CHIEF], [n for n in TITLES if n in names and n not in CHIEF]
    for group in (chief, others, [n for n in names if n not in TITLES]):
        for name in group:
            cells = [measures.get(name) for measures in found.values()]
            if any(cell is not None and cell.value is not None for cell in cells):
                texts = [_measured(c, matrix) for c, matrix in zip(cells, matrices.values(), strict=True)]
                table.add_row(Text(titled(name).short), *texts, _counts(cells))
        table.add_section()
    return _framed("measures", [table], _notes(found))


def events_table(events: Sequence[Event]) -> Table:
    """The ledger: what happened to each version, in order.

    Args:
        events: of one ledger.
    """
    table = _table("time (UTC)", "event", "version", "parent", "experience", "reason")
    for e in events:
        time = e.time[:16].replace("T", " ")
        kind = Text(e.kind, STYLES.get(e.kind, ""))
        cells = (e.version[:8], (e.parent or ABSENT)[:8], e.experience or ABSENT, e.reason)
        table.add_row(time, kind, *map(Text, cells))
    return _framed("ledger", [table], [] if events else ["nothing has happened yet"])


def audit_table(found: Audit) -> Table:
    """What an audit found, the gravest first.

    Args:
        found: the audit.
    """
    table = _table("", "where", "rows", "what")
    for f in found.findings:
        what = Text(f"{f.check}: {f.message}")
        if f.examples:
            what.append(f"\nfor example {f.examples[0]}", "dim")
        rows = f"{f.count} of {f.of}" if f.of else ""
        table.add_row(Text(f.severity, STYLES[f.severity]), Text(f.experience), Text(rows), what)
    return _framed(f"audit of {found.stream}", [table], [] if found.findings else ["nothing was found"])


def rejects_table(rejects: Sequence[Reject]) -> Table:
    """Rows that were set aside when a stream was read: where they stand, and what is wrong with them.

    Args:
        rejects: the rows; the first few are shown.
    """
    table = _table("where", "why", "row")
    for reject in rejects[:REJECTS]:
        table.add_row(Text(reject.source), Text(reject.reason), Text(reject.row, overflow="ellipsis", no_wrap=True))
    more = [f"and {len(rejects) - REJECTS} more"] if len(rejects) > REJECTS else []
    return _framed(f"{len(rejects)} rows set aside", [table], more if rejects else ["every row can be learned from"])


def scores_table(scores: Sequence[Score], title: str) -> Table:
    """What models of an adapter's move are worth, in percent, with intervals.

    Args:
        scores: in the order of the rows.
        title: above the table.
    """
    columns = ("model", "task", "score", "95 %", "n")
    cells = [(s.model, s.experience, percent(s.mean), bracket(s.low, s.high), f"{s.n}") for s in scores]
    return plain_table([dict(zip(columns, line, strict=True)) for line in cells], title)


def plain_table(rows: Sequence[Mapping[str, str]], title: str) -> Table:
    """Rows with the same keys, which head the columns.

    Args:
        rows: as plain texts.
        title: above the table.
    """
    table = _table(*(rows[0] if rows else ()))
    for row in rows:
        table.add_row(*map(Text, row.values()))
    return _framed(title, [table], [])


def grid_table(found: Compared) -> Table:
    """A grid's methods side by side, and below them what each has more than the first.

    Args:
        found: what came of the grid.
    """
    tables = [_numbers(standing_rows(found.standings))]
    if found.contrasts:
        tables.append(_numbers(contrast_rows(found.contrasts, next(iter(found.grid.methods)))))
    expressions = [f"{s.name}: {s.method or 'plain fine-tuning of all weights'}" for s in found.standings]
    return _framed(f"comparison on {found.grid.stream.name}", tables, [*expressions, *found.notes])


def _numbers(rows: Rows) -> Table:
    """Rows with the same keys: names in the first column, numbers in the others."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for place, column in enumerate(rows[0]):
        table.add_column(Text(column), justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row.values()))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    return table


def _framed(title: str, tables: Sequence[Table], notes: Sequence[str]) -> Table:
    """Tables below a title and above notes, which may be wider than they are."""
    frame = Table.grid()
    parts: list[ConsoleRenderable] = [Text(title, "bold"), *tables]
    for part in [*parts, Text("\n".join(notes), "dim")] if notes else parts:
        frame.add_row(part)
        frame.add_row("")
    return frame


def _block(matrix: Matrix, start: int) -> Table:
    """So many columns of R from one on, the last of them with the general suite."""
    columns = range(start, min(start + BLOCK, len(matrix.names)))
    general = columns.stop == len(matrix.names)
    table = _table("version")
    for heading in _headings(matrix, columns, general):
        table.add_column(Text(heading), justify="right", overflow="fold", min_width=6)
    labels = ["base", *(f"{t} {name}" for t, name in enumerate(matrix.names[: matrix.learned], start=1))]
    for t, label in enumerate(labels):
        table.add_row(Text(label), *(_score(matrix, t, i) for i in columns), *(_general(matrix, t) if general else []))
    table.add_section()
    for name in BESIDE:
        if (reference := getattr(matrix, name)) is not None:
            label = "base again" if name == "repeat" else name.replace("_", " ")
            table.add_row(label, *(Text(percent(reference.scores[i], matrix.unit), "dim") for i in columns))
    if routed := routing_accuracy(matrix):
        table.add_row("routed", *(Text(percent(routed[i].value), "dim") for i in columns))
    return table


def _headings(matrix: Matrix, columns: range, general: bool) -> list[str]:
    numbered = len(matrix.names) > WIDE
    found = [(str(i + 1) if numbered else matrix.names[i], matrix.count(i)) for i in columns]
    if general and matrix.general is not None:
        found.append(("general", sum(matrix.general.count(m) or 0 for m in range(len(matrix.general.names)))))
    return [f"{name}\nn={count}" if count else name for name, count in found]


def _score(matrix: Matrix, t: int, column: int) -> Text:
    """One cell; the star stands before the number, so that decimals stand below each other."""
    score, learned = matrix.rows[t].scores[column], column + 1
    text = percent(score, matrix.unit)
    if t == learned:
        return Text(f"*{text}", "bold")
    if t < learned or score is None:
        return Text(text, "dim")
    then = matrix.diagonal.scores[column]
    change = 0.0 if then is None else (score - then) / (1 if matrix.unit == "fraction" else 100)
    return Text(text, "red" if change <= -CHANGED else "green" if change >= CHANGED else "")


def _general(matrix: Matrix, t: int) -> list[Text]:
    if matrix.general is None:
        return []
    scores = matrix.general.rows[t].scores
    known = [s for s in scores if s is not None]
    mean = fmean(known) if len(known) == len(scores) else None
    return [Text(percent(mean, matrix.general.unit))]


def _measured(measure: Measure | None, matrix: Matrix) -> Text:
    if measure is None:
        return Text(ABSENT)
    signed = titled(measure.name).change
    value = percent(measure.value, matrix.unit, signed)
    return Text(f"{value} {bracket(measure.low, measure.high, matrix.unit, signed)}".rstrip())


def _counts(cells: Iterable[Measure | None]) -> str:
    found = dict.fromkeys(str(cell.n) for cell in cells if cell is not None and cell.n)
    return " / ".join(found) or ABSENT


def _notes(found: Mapping[str, Mapping[str, Measure]]) -> list[str]:
    """What the brackets are, and what is absent for want of which cells."""
    lines = [f"percent and points; [{100 * USUAL.level:.0f} % interval over the n test items]"]
    lacking: dict[tuple[str, str], list[str]] = {}
    for run, measures in found.items():
        for m in measures.values():
            if m.value is None:
                why = f"{listed(m.missing)} not measured" if m.missing else m.note
                lacking.setdefault((titled(m.name).short, why), []).append(run)
    together: dict[tuple[str, str], list[str]] = {}
    for (title, why), runs in lacking.items():
        who = "" if len(runs) == len(found) else f" ({', '.join(runs)})"
        together.setdefault((who, why), []).append(title)
    return lines + [f"{ABSENT} {'; '.join(titles)}{who}: {why}" for (who, why), titles in together.items()]
