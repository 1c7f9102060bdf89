"""Figures: SVG that lives inside a page."""

import re
from xml.etree import ElementTree

import pytest

from everlearn.figures import VARIABLES, change_lines, loss_curve, loss_lines, score_lines
from everlearn.measures import Measure, cells
from tests.synthetic import PROTECTED, matrix

LOSSES = [("words", 3 - i / 50) for i in range(50)] + [("sums", 2 - i / 50) for i in range(50)]
CHANGES = [Measure("a", -0.1, -0.2, 0.0), Measure("b", None), Measure("c", 0.1)]


def drawings() -> dict[str, str]:
    columns = [[row[0] for row in cells(m)] for m in (matrix(), matrix(PROTECTED))]
    return {
        "scores": score_lines("scores", columns, 1),
        "changes": change_lines("changes", ["a", "b", "c"], [CHANGES, CHANGES]),
        "losses": loss_curve("losses", LOSSES, 0),
        "looks": loss_lines("looks", {"words": [(50, 1.0), (60, 3.0), (100, 1.5)]}, [("words", 0), ("sums", 50)]),
    }


@pytest.fixture(scope="module", name="drawn")
def _drawn() -> dict[str, str]:
    return drawings()


def texts(drawing: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(drawing).iter() if element.tag.endswith("text")]


@pytest.mark.parametrize("name", ["scores", "changes", "losses", "looks"])
def test_a_figure_is_well_formed_and_titled(name: str, drawn: dict[str, str]) -> None:
    root = ElementTree.fromstring(drawn[name])
    assert root.attrib["role"] == "img"
    assert root[0].tag.endswith("title")
    assert root[0].text == name
    assert root[0].attrib["id"] == root.attrib["aria-labelledby"]


@pytest.mark.parametrize("name", ["scores", "changes", "losses", "looks"])
def test_colours_are_the_page_s_own(name: str, drawn: dict[str, str]) -> None:
    used = set(re.findall(r"var\(--([\w-]+)\)", drawn[name]))
    assert {"muted", "rule"} < used <= set(VARIABLES.values())
    assert not re.search(r"#[0-9a-f]{6}\b", drawn[name])
    assert "font-family" not in drawn[name]


def test_the_same_figure_is_drawn_the_same(drawn: dict[str, str]) -> None:
    assert drawings() == drawn


def test_no_two_figures_share_an_id(drawn: dict[str, str]) -> None:
    found = [name for drawing in drawn.values() for name in re.findall(r'\bid="([^"]*)"', drawing)]
    assert len(found) == len(set(found))


def test_references_lead_to_ids_of_the_same_figure(drawn: dict[str, str]) -> None:
    for drawing in drawn.values():
        ids = set(re.findall(r'\bid="([^"]*)"', drawing))
        assert set(re.findall(r'(?:url\(#|href="#)([^")]*)', drawing)) <= ids


def test_texts_are_texts(drawn: dict[str, str]) -> None:
    assert {"base", "1", "4", "learned", "score, %"} <= set(texts(drawn["scores"]))
    assert {"a", "b", "c", "change since the base model, points"} <= set(texts(drawn["changes"]))
    assert {"words", "sums", "optimiser step"} <= set(texts(drawn["losses"]))


def test_names_from_data_stay_text() -> None:
    name = '<script>alert("$x^2$")</script>'
    drawing = change_lines(name, [name], [[CHANGES[0]]])
    assert "<script" not in drawing
    assert f"{name[:23]}…" in texts(drawing)
    drawing = loss_curve(name, [(name, 1.0), (name, 0.5)], 7)
    assert name in texts(drawing)


def test_letters_that_the_typeface_lacks_are_drawn_without_a_warning() -> None:
    assert "課題" in texts(loss_curve("x", [("課題", 1.0), ("課題", 0.5)], 0))


def test_many_experiences_are_numbered() -> None:
    drawing = loss_curve("x", [(f"name-{i // 2}", 1.0) for i in range(20)], 0)
    assert "10" in texts(drawing)
    assert not [text for text in texts(drawing) if text.startswith("name")]


def test_a_long_curve_is_drawn_with_few_points() -> None:
    long = loss_curve("x", [("a", 1 + i % 7) for i in range(50_000)], 0)
    assert len(long) < 60_000


def test_a_missing_score_breaks_the_line() -> None:
    whole = score_lines("x", [[Measure("", 0.1), Measure("", 0.2), Measure("", 0.3)]], None)
    broken = score_lines("x", [[Measure("", 0.1), Measure("", None), Measure("", 0.3)]], None)
    assert whole.count("<use") == broken.count("<use") + 1
    assert "learned" not in texts(whole)
