"""A grid's numbers as text."""

from everlearn.grid.standings import Cost, contrasts, standing
from everlearn.grid.tables import bound, contrast_rows, markdown, notes, standing_rows
from everlearn.matrix import Row
from everlearn.wording import ABSENT, MINUS
from tests.grid.test_standings import FIRST, OTHER

STANDINGS = [
    standing("plain", "LoRA()", FIRST, [Cost(0.5, 999.0), Cost(0.5, 999.0)]),
    standing("other", "LoRA(), Replay()", {0: OTHER[0]}, [Cost(123.4, 4.2e6)]),
    standing("lost", "EWC()", {}, []),
]


def test_a_row_for_each_method_with_half_its_interval() -> None:
    plain, other, lost = standing_rows(STANDINGS)
    assert plain["ACC"] == "68.8 ±79.4"  # 12.706 * 0.0884 / sqrt(2), in points
    assert plain["BWT"] == f"{MINUS}62.5 ±158.8"
    assert (plain["seeds"], plain["minutes"], plain["kept"]) == ("2", "0.5", "999 B")
    assert (other["ACC"], other["minutes"], other["kept"]) == ("87.5", "123", "4.2 MB")
    assert set(lost.values()) == {"lost", "0", ABSENT}


def test_a_row_for_each_difference_with_both_tests() -> None:
    rows = contrast_rows(contrasts("other", FIRST, OTHER), "plain")
    assert rows[0] | {"over items": ""} == {
        "against plain": "other",
        "measure": "ACC",
        "difference": "+12.5",
        "95 % over seeds": f"[{MINUS}146.3, +171.3]",
        "over seeds": "p = 0.50",
        "over items": "",
        "n": "6",
        "each seed": "+25.0, 0.0",
    }
    assert rows[0]["over items"].startswith("p = ")


def test_notes_say_seeds_items_and_definitions() -> None:
    text = "\n".join(notes(STANDINGS, (0, 1), {"a": 4, "b": 2}))
    assert "seeds 0, 1; test items: a 4, b 2" in text
    assert "BWT (Lopez-Paz), FWT (Lopez-Paz), forgetting (Chaudhry)" in text
    assert "not corrected" in text


def test_a_bound_says_what_it_was_measured_on_and_how() -> None:
    assert bound("joint", [Row((0.5, 0.7))]) == "joint: ACC 60.0"
    rows = [Row((0.5, None), note="8 shown"), Row((0.5, None), note="8 shown")]
    assert bound("in_context", rows) == "in_context: ACC 50.0 ±0.0 over 1 of 2 experiences; 8 shown"
    assert bound("in_context", [Row((None, None), note="b is long")]) == (
        f"in_context: ACC {ABSENT} over 0 of 2 experiences; b is long"
    )


def test_rows_become_markdown() -> None:
    assert markdown([{"a": "x|y", "b": "1"}]) == "| a | b |\n| --- | --: |\n| x\\|y | 1 |\n"
