"""What a terminal shows, in a hundred columns and without colours."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from everlearn import Matrix
from everlearn.data.findings import Audit, Finding
from everlearn.data.rejects import Reject
from everlearn.matrix import Row, load_published
from everlearn.registry.ledger import Event
from everlearn.terminal import audit_table, events_table, matrix_table, measures_table, plain_table, rejects_table
from tests.synthetic import KEEPING, PLAIN, PROTECTED, matrix, routed_to

EVENT = Event(1, "2026-01-02T03:04:05.678+00:00", "commit", "0123456789abcdef", None, "words", {}, "kept")


def plain_text(table: Table, width: int = 100) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def cells(text: str, label: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(f"{label}  "))
    return line.removeprefix(label).split()


def test_a_row_for_each_version_with_a_star_on_what_was_just_learned() -> None:
    text = plain_text(matrix_table(matrix(repeat=(5, 2, 10, 2)), "run plain"))
    assert text.startswith("run plain")
    assert cells(text, "version") == ["n=60", "n=60", "n=60", "n=60", "n=180"]
    assert cells(text, "base") == ["5.0", "0.0", "10.0", "1.7", "56.7"]
    assert cells(text, "1 words") == ["*80.0", "1.7", "11.7", "1.7", "55.6"]
    assert cells(text, "4 facts") == ["10.0", "15.0", "35.0", "*75.0", "43.3"]
    assert cells(text, "base again") == ["5.0", "1.7", "10.0", "1.7"]
    assert "* just learned" in text


def test_decimals_stand_below_each_other() -> None:
    lines = plain_text(matrix_table(matrix(), "x")).splitlines()
    rows = [line for line in lines if line.startswith(("base", *"1234"))]
    assert len(rows) == 5
    assert len({tuple(i for i, c in enumerate(row) if c == ".") for row in rows}) == 1


def test_missing_cells_are_dashes_and_are_named_below() -> None:
    table = Matrix(("a", "b"), (Row((0.0, None)), Row((0.5, None)), Row((None, 0.8))), single=Row((0.9, None)))
    text = plain_text(matrix_table(table, "x"))
    assert cells(text, "2 b") == ["–", "*80.0"]  # noqa: RUF001
    assert cells(text, "single") == ["90.0", "–"]  # noqa: RUF001
    assert "not measured: R[0,2], R[1,2], R[2,1]" in text


def test_references_stand_below_r_with_what_a_reader_has_to_know_of_them() -> None:
    asked = Row((0.4, None), note="8 demonstrations before each item; b not measured: it is long")
    table = Matrix(("a", "b"), (Row((0.0, 0.1)),), in_context=asked, joint=Row((0.9, 0.8)))
    text = plain_text(matrix_table(table, "x"))
    assert cells(text, "in context") == ["40.0", "–"]  # noqa: RUF001
    assert cells(text, "joint") == ["90.0", "80.0"]
    assert f"in context: {asked.note}" in text


def test_what_fell_is_red_and_what_rose_is_green() -> None:
    rates = ((0, 0, 0, 0), (50, 0, 0, 0), (50, 80, 0, 0), (20, 90, 60, 0), (20, 90, 61, 50))
    console = Console(width=100, color_system="standard", force_terminal=True, no_color=False)
    with console.capture() as captured:
        console.print(matrix_table(matrix(rates, None), "x"))
    (last,) = (line for line in captured.get().splitlines() if "4 facts" in line)
    assert re.findall(r"\x1b\[([1-9]\d*)m *(\*?[\d.]+)", last) == [("31", "20.0"), ("32", "90.0"), ("1", "*50.0")]
    assert "61.7" in last


def test_long_streams_are_broken_into_blocks_that_fit(shared: Path) -> None:
    table = load_published(shared / "published" / "olora_accuracy_matrices.json", "long_olora")
    text = plain_text(matrix_table(table, "15 tasks"))
    assert max(map(len, text.splitlines())) <= 100
    blocks = [line.split() for line in text.splitlines() if line.startswith("15 WiC")]
    assert [score for block in blocks for score in block[2:]] == [f"{s:.1f}" for s in table.scores[-1][:-1] if s] + [
        "*52.0"
    ]


def test_measures_stand_side_by_side_with_interval_and_n() -> None:
    text = plain_text(measures_table({"plain": matrix(), "protected": matrix(PROTECTED, KEEPING)}))
    assert cells(text, "ACC") == ["33.8", "[29.2,", "39.2]", "64.2", "[58.8,", "70.0]", "240"]
    assert cells(text, "knowledge")[-1] == "60"
    assert "FWT (SAPT); intransigence, single: S[1], S[2], S[3], S[4] not measured" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_measure_that_one_run_lacks_says_which() -> None:
    known = replace(matrix(PLAIN[:3], None), single=Row((0.9, 0.9, 0.9, 0.9)))
    text = plain_text(measures_table({"a": known, "b": matrix(PLAIN[:3], None)}))
    assert cells(text, "intransigence, single")[0] != "–"  # noqa: RUF001
    assert "FWT (SAPT); intransigence, single (b): S[1], S[2] not measured" in text


def test_a_run_that_has_only_begun_says_what_its_measures_need() -> None:
    text = " ".join(plain_text(measures_table({"a": matrix(PLAIN[:2], None)})).split())
    assert "BWT (Lopez-Paz); FWT (Lopez-Paz); forgetting (Chaudhry)" in text
    assert "needs 2 learned experiences, there are 1" in text


def test_scores_in_percent_are_not_scaled(shared: Path) -> None:
    path = shared / "published" / "olora_accuracy_matrices.json"
    assert cells(plain_text(measures_table({"x": load_published(path, "order1_olora")})), "ACC")[0] == "78.4"


def test_the_ledger_is_a_table() -> None:
    rejected = replace(EVENT, kind="reject", parent="fedcba9876543210", reason="[bold]worse[/bold]")
    text = plain_text(events_table([EVENT, rejected]))
    assert "2026-01-02 03:04  commit  01234567  –         words       kept" in text  # noqa: RUF001
    assert "reject  01234567  fedcba98  words       [bold]worse[/bold]" in text
    assert "nothing has happened yet" in plain_text(events_table([]))


@pytest.mark.parametrize("name", ["[red]x", "[/]"])
def test_names_are_never_taken_for_markup(name: str) -> None:
    table = replace(matrix(PLAIN[:2], None), names=(name, "b", "c", "d"))
    assert name in plain_text(matrix_table(table, name))
    assert name in plain_text(measures_table({name: table}))
    assert name in plain_text(plain_table([{"a": name}], "t"))
    assert name in plain_text(audit_table(Audit(name, (Finding("defect", "leak", name, name, (name,)),))))


def test_an_audit_lists_findings_with_places() -> None:
    finding = Finding("defect", "overlap", "words", "test rows stand in train", ("a.jsonl:1", "a.jsonl:2"), 2, 50)
    text = plain_text(audit_table(Audit("mine", (finding,))))
    assert text.startswith("audit of mine")
    assert "defect  words  2 of 50  overlap: test rows stand in train" in text
    assert "for example a.jsonl:1" in text
    assert "nothing was found" in plain_text(audit_table(Audit("mine", ())))


def test_rows_set_aside_are_listed_and_counted() -> None:
    rejects = [Reject(f"b.jsonl:{i}", "no prompt", '{"[bold]": 1}' * 20) for i in range(12)]
    text = plain_text(rejects_table(rejects))
    assert text.startswith("12 rows set aside")
    assert 'b.jsonl:9  no prompt  {"[bold]": 1}{' in text
    assert "b.jsonl:10" not in text
    assert "and 2 more" in text
    assert max(map(len, text.splitlines())) <= 100
    assert "every row can be learned from" in plain_text(rejects_table([]))


def test_a_plain_table_is_headed_by_the_keys() -> None:
    text = plain_text(plain_table([{"method": "EWC", "papers": "arXiv:1612.00796"}], "methods"))
    assert text.splitlines()[0].strip() == "methods"
    assert cells(text, "EWC") == ["arXiv:1612.00796"]


def test_the_matrix_shows_how_many_prompts_were_routed_right() -> None:
    plain = matrix(PLAIN[:3], None)
    routed = routed_to(plain, "words", "sums")
    text = plain_text(matrix_table(routed, "run"))
    assert cells(text, "routed") == ["75.0", "25.0", "\N{EN DASH}", "\N{EN DASH}"]
    assert "routed: prompts that the last version takes for their own experience" in " ".join(text.split())
    assert "routed" not in plain_text(matrix_table(plain, "run"))
