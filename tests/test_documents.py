"""What the documents say is true: their code runs, their streams parse, their links lead somewhere."""

import ast
import json
import re
import runpy
from pathlib import Path

import pytest

from everlearn import load_stream
from everlearn.config import parse
from everlearn.console import FAILED, NO, STOPPED
from everlearn.errors import ConfigError, EverlearnError
from everlearn.testing.documents import PAGES, costs, main, method_page, method_rows
from everlearn.types import Objective

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("recipes/**/*.md")])
BLOCK = re.compile(r"(?:<!-- (?P<mark>run|stream) -->\s*\n)?^```(?P<kind>python|yaml)\n(?P<text>.*?)^```$", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")


def blocks(kind: str, *marks: str | None) -> list[object]:
    return [
        pytest.param(match["text"], id=f"{path.relative_to(REPOSITORY)}:{text[: match.start('text')].count(chr(10))}")
        for path in DOCUMENTS
        for text in [path.read_text(encoding="utf-8")]
        for match in BLOCK.finditer(text)
        if match["kind"] == kind and match["mark"] in marks
    ]


def anchors(text: str) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$", prose, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", PAGES)
def test_the_generated_page_is_the_committed_one(name: str, tmp_path: Path) -> None:
    main(tmp_path)
    committed = (REPOSITORY / "docs" / name).read_text(encoding="utf-8")
    assert (tmp_path / name).read_text(encoding="utf-8") == committed, "run `make docs` and read the difference"


def test_the_methods_page_knows_every_method() -> None:
    page, names = PAGES["methods.md"](), [row["method"] for row in method_rows()]
    assert {"LoRA", "Replay", "EWC", "L2SP"} <= set(names)
    assert all(f"## {name}\n" in page for name in names)


def test_the_errors_page_knows_every_error_and_the_exit_codes() -> None:
    page = PAGES["errors.md"]()
    assert all(f"`{kind.__name__}`" in page for kind in (EverlearnError, *EverlearnError.__subclasses__()))
    assert (NO, FAILED, STOPPED) == (1, 2, 130), "the page's text says so"


@pytest.mark.parametrize("text", blocks("python", None, "run"))
def test_a_python_block_is_python(text: str) -> None:
    ast.parse(text)


@pytest.mark.parametrize("text", blocks("python", "run"))
def test_a_python_block_marked_run_runs(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for needed in re.findall(r"^from (trl|peft|datasets) import", text, re.M):
        pytest.importorskip(needed, reason=f"the block needs {needed}: pip install 'everlearn[trl]'.")
    monkeypatch.chdir(tmp_path)
    Path("block.py").write_text(text, encoding="utf-8")
    runpy.run_path("block.py", run_name="__main__")


@pytest.mark.parametrize("text", blocks("yaml", "stream"))
def test_a_yaml_block_marked_stream_is_a_stream(text: str, tmp_path: Path) -> None:
    (tmp_path / "stream.yaml").write_text(text, encoding="utf-8")
    for name in re.findall(r"(?:train|test|validation): (\S+\.txt)$", text, re.M):
        (tmp_path / name).write_text("\n\n".join(f"{n} is a number. " * 99 for n in range(99)), encoding="utf-8")
    for name in re.findall(r"(?:train|test|validation): (\S+\.jsonl)$", text, re.M):
        rows = [json.dumps({"prompt": f"Question {n}?", "response": f"Answer {n}."}) for n in range(20)]
        (tmp_path / name).write_text("\n".join(rows), encoding="utf-8")
    assert len(load_stream(tmp_path / "stream.yaml")) > 0


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    for match in LINK.finditer(path.read_text(encoding="utf-8")):
        file, _, anchor = match["target"].partition("#")
        if re.match(r"https?:|mailto:", file):
            continue
        target = path.parent / file if file else path
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(match["target"])
    assert not broken


def test_the_checks_of_this_file_notice_what_they_are_for() -> None:
    text = "# A title: `x`, so_far\n\n```python\n# not a title\n```\n\n<!-- run -->\n```python\n1\n```\n"
    text += "[a](b.md#c) ![p](q.png)\n"
    assert [(m["mark"], m["text"]) for m in BLOCK.finditer(text)] == [(None, "# not a title\n"), ("run", "1\n")]
    assert [m["target"] for m in LINK.finditer(text)] == ["b.md#c", "q.png"]
    assert anchors(text) == {"a-title-x-so_far"}


def test_the_tree_in_the_readme_is_the_package() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    tree = text.partition("```\neverlearn/\n")[2].partition("```")[0].splitlines()
    told = {name for line in tree if line.startswith("  ") for name in line.strip().partition("  ")[0].split()}
    there = {p.name + "/" * p.is_dir() for p in (REPOSITORY / "everlearn").iterdir() if not p.name.startswith("__")}
    assert told == {name for name in there if name.endswith((".py", "/"))}


def test_every_method_says_what_it_costs_and_where_it_works() -> None:
    for row in costs():
        assert all(row.values()), row
        assert row["shardings"] in ("any", "replicated")
    assert {row["method"]: row["shardings"] for row in costs()}["EWC"] == "replicated"
    needs = {row["method"]: row["needs"] for row in costs()}
    assert needs["ProgressivePrompts"] == "the task at inference, boundaries"
    assert needs["EWC"] == "nothing"


def test_a_method_has_a_page_and_a_misspelt_one_a_hint() -> None:
    page = method_page("EWC")
    assert page.startswith("EWC(strength=10000.0, ")
    assert "memory     8 P in all" in page
    with pytest.raises(ConfigError, match="did you mean EWC"):
        method_page("EWX")


def test_every_variant_that_the_page_on_rewards_names_is_an_objective() -> None:
    page = (REPOSITORY / "docs/rewards.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| (.+?) \| `(.+?)`", page, re.M)
    made = {name: parse(text.replace("(R,", "(Exact(),")) for name, text in found}
    assert {"REINFORCE", "RLOO", "GRPO", "Dr. GRPO", "DAPO", "GSPO", "CISPO", "PPO"} == made.keys()
    assert all(isinstance(objective, Objective) for objective in made.values())
    assert len(set(made.values())) == len(made)
