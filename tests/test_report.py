"""The page: whole, self-contained, accessible, true to the matrices, and deaf to what data would tell a browser."""

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from everlearn import EWC, Learner, LoRA, Recipe, Replay, Run, chain, run
from everlearn.errors import ConfigError, RegistryError
from everlearn.fold import Settings
from everlearn.matrix import Row
from everlearn.report import write_report
from everlearn.testing.toys import toy_folder, toy_stream
from everlearn.verdict import lost, verdict
from everlearn.wording import percent
from tests.synthetic import KEEPING, PLAIN, PROTECTED, items, matrix, routed_to, write_run

VOID = {"meta", "br", "img", "input", "hr", "link", "source"}
APART = {"td", "th", "small", "p", "caption"}
ATTACK = "</td><script>alert(1)</script><img src=https://example.org/x onerror=alert(2)> & \"'"


@dataclass
class Element:
    """What the parser saw of one element."""

    tag: str
    attributes: dict[str, str]
    text: list[str] = field(default_factory=list)
    inside: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return " ".join("".join(self.text).split())


class Page(HTMLParser):
    """A page's elements in order; fails where one is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(text)
        assert not self._open, f"left open: {[e.tag for e in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, inside=[e.tag for e in self._open])
        self.elements.append(element)
        if tag in APART:
            self.handle_data(" ")
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text.append(data)

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]


@pytest.fixture(scope="module", name="runs")
def _runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder, again = tmp_path_factory.mktemp("runs"), (5, 2, 10, 2)
    methods = {"plain": chain(LoRA()), "protected": chain(LoRA(), Replay(fraction=0.2), EWC(samples=8))}
    made = {"plain": matrix(repeat=again), "protected": matrix(PROTECTED, KEEPING, again)}
    return {name: write_run(folder / name, made[name], methods[name]) for name in methods}


@pytest.fixture(scope="module", name="text")
def _text(runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(runs, tmp_path_factory.mktemp("page") / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module", name="page")
def _page(text: str) -> Page:
    return Page(text)


def rows(page: Page) -> list[str]:
    return [str(row) for row in page.all("tr")]


def test_the_headline_is_the_verdict(page: Page, runs: dict[str, Run]) -> None:
    (headline,) = (e for e in page.all("p") if e.attributes.get("class") == "headline")
    expected = verdict(runs["plain"].matrix, runs["protected"].matrix, ("run plain", "run protected"))
    assert str(headline) == expected


def test_every_cell_of_the_matrix_is_there_with_its_interval(page: Page, runs: dict[str, Run]) -> None:
    shown = [e for e in page.all("td") if "score" in e.attributes.get("class", "") and "title" in e.attributes]
    expected = [percent(s) for made in runs.values() for row in made.matrix.scores for s in row]
    assert [str(e).split()[0] for e in shown] == expected
    assert all("95 % interval [" in e.attributes["title"] and "n = 60" in e.attributes["title"] for e in shown)


def test_what_was_just_learned_is_framed_and_what_came_of_it_stands_below(page: Page) -> None:
    framed = [str(e) for e in page.all("td") if "own" in e.attributes.get("class", "").split()]
    assert framed == ["80.0", "70.0", "60.0", "75.0", "78.3", "66.7", "58.3", "73.3"]
    assert "4 facts 10.0 −70.0 15.0 −55.0 35.0 −25.0 75.0 43.3 −13.3" in rows(page)  # noqa: RUF001


def test_measures_have_n_interval_difference_and_p(page: Page) -> None:
    (row,) = (row for row in rows(page) if row.startswith("BWT (Lopez-Paz)"))
    assert row.endswith(
        "240 −50.0 [−56.7, −43.9] −6.7 [−10.6, −3.3] +43.3 [+36.7, +50.6] p < 0.001"  # noqa: RUF001
    )
    assert "What could not be had, and why" in [str(e) for e in page.all("summary")]
    assert "intransigence, joint, run plain: J[1], J[2], J[3], J[4] not measured" in [str(e) for e in page.all("li")]


def test_each_experience_shows_a_lost_item_with_its_question_and_replies(page: Page) -> None:
    shown = [e for e in page.all("div") if e.attributes.get("class") == "item"]
    asked = [str(e) for e in page.all("p") if "What is the words of" in str(e)]
    assert len(shown) == 12
    assert len(set(asked)) == 3
    assert all("right answer it is " in str(e) and "base " in str(e) for e in shown)
    assert str(shown[0]).startswith(asked[0])
    fell = r"plain just learned it is \d+ 100\.0 .* plain at the end \(4\) I would say \d+ 0\.0"
    assert re.search(fell, str(shown[0]))


def test_flips_noise_ledger_and_environment_are_told(page: Page, text: str) -> None:
    assert "words 60 42 0 4 0" in rows(page)
    assert "words 60 0 3 0 40" in rows(page)
    assert "0.4 points on average, 1.7 at most; sums: 0 lost and 1 gained of 60" in text
    assert sum("commit" in row for row in rows(page)) == 10
    assert "seed=3" in text
    assert "cpu float32" in text
    assert "torch 2" in text


def test_every_definition_is_explained_with_its_source(page: Page) -> None:
    terms = [e for e in page.all("dt") if "details" in e.inside]
    assert len(terms) == 15
    addresses = {e.attributes["href"] for e in page.all("a")}
    assert "https://arxiv.org/abs/1706.08840" in addresses


def test_nothing_is_asked_for_from_anywhere(page: Page, text: str) -> None:
    tags = Counter(e.tag for e in page.elements)
    assert not set(tags) & {"script", "link", "img", "iframe", "object", "embed", "video", "audio", "base", "form"}
    for element in page.elements:
        assert not set(element.attributes) & {"src", "srcset", "data", "action", "background", "poster"}
        assert not [name for name in element.attributes if name.startswith("on")]
        if element.tag != "a":
            assert element.attributes.get("href", "#").startswith("#")
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    policy = {e.attributes.get("content") for e in page.all("meta")}
    assert "default-src 'none'; style-src 'unsafe-inline'" in policy


def test_the_page_is_accessible(page: Page) -> None:
    assert page.all("html")[0].attributes["lang"] == "en"
    assert len(page.all("h1")) == 1
    for svg in page.all("svg"):
        assert svg.attributes["role"] == "img"
        assert svg.attributes["aria-labelledby"] in {e.attributes.get("id") for e in page.all("title")}
    assert all(e.attributes.get("scope") in ("col", "row", "colgroup") for e in page.all("th"))
    regions = [e for e in page.elements if e.attributes.get("role") == "region"]
    assert all(e.attributes["aria-label"] and e.attributes["tabindex"] == "0" for e in regions)
    assert len(page.all("caption")) >= len(regions)
    assert all("figure" in e.inside for e in page.all("figcaption"))


def test_ids_are_unique_and_links_inside_the_page_lead_somewhere(page: Page) -> None:
    ids = Counter(e.attributes["id"] for e in page.elements if "id" in e.attributes)
    assert ids.most_common(1)[0][1] == 1
    inside = {e.attributes["href"][1:] for e in page.elements if e.attributes.get("href", "").startswith("#")}
    labels = {e.attributes["aria-labelledby"] for e in page.elements if "aria-labelledby" in e.attributes}
    assert inside | labels <= set(ids)


def test_the_same_runs_give_the_same_page(runs: dict[str, Run], text: str, tmp_path: Path) -> None:
    fresh = {name: Run(made.folder) for name, made in runs.items()}
    assert write_report(fresh, tmp_path / "again.html").read_text(encoding="utf-8") == text


def test_no_text_from_data_becomes_markup(tmp_path: Path) -> None:
    made = matrix(PLAIN, None, note=ATTACK)
    general = {"rows": [{f"ability{ATTACK}": items("x", rate, 20, ATTACK)} for rate in (50, 40, 40, 40, 30)]}
    hostile = matrix(PLAIN, None, note=ATTACK)
    suite = type(made).from_outcomes([f"ability{ATTACK}"], general["rows"])
    written = write_run(tmp_path / "run", replace(hostile, general=suite), chain(), note=ATTACK)
    text = write_report({f"a{ATTACK}": written, f"b{ATTACK}": written}, tmp_path / "x.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.all("script")
    assert not page.all("img")
    assert sum(ATTACK in "".join(e.text) for e in page.all("td")) > 20
    assert any(ATTACK in "".join(e.text) for e in page.all("p"))
    assert any(ATTACK in "".join(e.text) for e in page.all("th"))
    assert any(ATTACK in "".join(e.text) for e in page.all("title"))


def test_one_run_stands_alone(runs: dict[str, Run], tmp_path: Path) -> None:
    text = write_report({"plain": runs["plain"]}, tmp_path / "one.html").read_text(encoding="utf-8")
    page = Page(text)
    (headline,) = (e for e in page.all("p") if e.attributes.get("class") == "headline")
    assert str(headline) == lost(runs["plain"].matrix, "run plain")
    assert "p &lt; 0.001" not in text.split("</header>")[1].split("<details>")[0]
    assert "protected" not in text


def test_runs_that_cannot_be_compared_stand_side_by_side_and_say_so(runs: dict[str, Run], tmp_path: Path) -> None:
    shorter = write_run(tmp_path / "short", matrix(PLAIN[:3]), chain())
    text = write_report({"long": runs["plain"], "short": shorter}, tmp_path / "x.html").read_text(encoding="utf-8")
    headlines = [str(e) for e in Page(text).all("p") if e.attributes.get("class") == "headline"]
    assert headlines == [lost(runs["plain"].matrix, "run long"), lost(shorter.matrix, "run short")]
    assert "short is not compared with long: runs of unlike streams" in text


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    begun = write_run(tmp_path / "begun", matrix(PLAIN[:1]), chain(), tests=False)
    page = Page(write_report({"begun": begun}, tmp_path / "x.html").read_text(encoding="utf-8"))
    assert [str(e) for e in page.all("p") if e.attributes.get("class") == "headline"] == [
        "Run begun has learned nothing yet."
    ]
    assert any("no optimiser step was recorded" in str(e) for e in page.all("p"))
    assert any("kept the key alone, not the question" in str(e) for e in page.all("p"))


def test_references_missing_cells_and_dots_in_names_are_shown(tmp_path: Path) -> None:
    table = replace(matrix(PLAIN[:2], None), names=("a.b", "c", "d", "e"), single=Row((0.9, None, None, None)))
    table = replace(table, in_context=Row((0.4, 0.3, 0.2, 0.1), note="8 demonstrations before each item"))
    plain = table.to_dict()
    plain["rows"][1]["scores"][2] = None
    plain["rows"][1]["outcomes"][2] = []
    made = write_run(tmp_path / "run", type(table).from_dict(plain), chain())
    page = Page(write_report({"x": made}, tmp_path / "x.html").read_text(encoding="utf-8"))
    assert "1 a.b 80.0 1.7 – 1.7" in rows(page)  # noqa: RUF001
    assert "alone 90.0 – – –" in rows(page)  # noqa: RUF001
    assert "in context 40.0 30.0 20.0 10.0" in rows(page)
    note = "In context: the untouched base model, shown demonstrations: 8 demonstrations before each item."
    assert any(note in str(e) for e in page.all("p"))


def test_how_many_prompts_were_routed_right_stands_below_the_matrix(tmp_path: Path) -> None:
    made = write_run(tmp_path / "run", routed_to(matrix(PLAIN), "words", "facts"), LoRA())
    text = write_report({"run": made}, tmp_path / "page.html").read_text(encoding="utf-8")
    cells = [str(e) for e in Page(text).elements if e.tag in ("th", "td") and "tbody" in e.inside]
    place = cells.index("routed")
    assert cells[place + 1 : place + 5] == ["75.0", "0.0", "0.0", "25.0"]
    assert "routing accuracy, how many of an experience's prompts" in text


def test_a_real_run_has_a_page(tmp_path: Path) -> None:
    learner = Learner(str(toy_folder(tmp_path / "toy")), chain(Replay()), Recipe(batch_size=6, length=64))
    made = run(learner, toy_stream(), tmp_path / "run", Settings(suite=()))
    page = Page(write_report({"toy": made}, tmp_path / "x.html").read_text(encoding="utf-8"))
    assert any("so there are no replies to show" in str(e) for e in page.all("p"))
    score = made.matrix.rows[1].scores[0]
    assert any(row.startswith(f"1 letters {percent(score)}") for row in rows(page))


def test_a_report_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a run at least"):
        write_report({}, tmp_path / "x.html")
    with pytest.raises(RegistryError, match="holds no run"):
        write_report({"x": Run(tmp_path)}, tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()
