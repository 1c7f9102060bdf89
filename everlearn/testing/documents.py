"""Writes the pages of docs/ that are made from the code: `python -m everlearn.testing.documents [FOLDER]`."""

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path

import everlearn.methods
from everlearn import errors
from everlearn.errors import ConfigError, EverlearnError
from everlearn.method import HOOKS, Method, overrides

NOTE = "<!-- Made by `make docs` from the docstrings; edit those. -->"
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5}|[a-z-]+/\d{7})")
CITATION = re.compile(r" \([^()]*arXiv:[^()]*\)")
NAMED = re.compile(r"\(([A-Z][^()]*\b(?:19|20)\d\d\b[^()]*)\)")

METHODS = """# Methods

A method is a frozen dataclass: its fields are its hyperparameters, and the same expression works in Python and on
the command line (`--method "LoRA(rank=16), Replay(fraction=0.1)"`). The hooks say where it acts; what
each hook receives and returns stands in [concepts](concepts.md#methods-act-in-eleven-hooks).

Below each method stands what it costs: the bytes it keeps, and what it computes beside plain learning. P numbers learn
of N in all; an example is its text; r is a rank, in and out a layer's widths, T the tokens of an example, D the model's
width. Parameters lie replicated on every process, or sharded as well (any). A few need to be told the task at
inference, or boundaries, which a blurry stream has not; all others take any stream as it is cut."""

ERRORS = """# Errors

What this package raises on purpose is an `EverlearnError`. Its message says what is wrong with which value, where, and
what to do; any other exception but one of the machine's own (a full disk, a missing permission) is a defect of ours and
worth reporting. On the command line the message stands alone,
and the exit code is 2, or 130 for a run that was stopped and can go on. Exit code 1 is no error but an answer: the
audit found a defect, or a gate refused a version."""


def method_classes() -> Iterator[type[Method]]:
    """The package's public method classes: files in alphabetical order, each in the order it is written."""
    for file in pkgutil.iter_modules(everlearn.methods.__path__, "everlearn.methods."):
        for name, value in vars(importlib.import_module(file.name)).items():
            here = inspect.isclass(value) and value.__module__ == file.name
            if here and issubclass(value, Method) and not name.startswith("_"):
                yield value


def method_rows() -> list[dict[str, str]]:
    """For each method its name, one line about it, the hooks it overrides, its parameters and its papers."""
    rows = []
    for kind in method_classes():
        prose, hooks = _docstring(kind)[0], overrides(kind)
        row = {"method": kind.__name__, "in one line": CITATION.sub("", prose.partition("\n")[0])}
        row["hooks"] = ", ".join(hook for hook in HOOKS if hook in hooks)
        row["memory"], row["compute"], row["shardings"] = kind.keeps, kind.computes, _shardings(kind)
        row["needs"] = _needs(kind)
        row["parameters"] = ", ".join(f"{name}={default}" for name, default in _defaults(kind).items())
        row["papers"] = ", ".join(dict.fromkeys(match[0] for match in ARXIV.finditer(prose))) or _named(prose)
        rows.append(row)
    return rows


def _shardings(kind: type[Method]) -> str:
    if kind.shardings is None:
        return "any" if overrides(kind) <= {"data"} else "replicated"
    return "any" if len(kind.shardings) > 1 else ", ".join(kind.shardings)


def _needs(kind: type[Method]) -> str:
    needs = {"the task at inference": kind.needs_task, "boundaries": kind.needs_boundaries}
    return ", ".join(name for name, needed in needs.items() if needed) or "nothing"


def costs() -> list[dict[str, str]]:
    """The table of methods for a terminal: where each acts, what it costs and needs, where it works, its paper."""
    shown = ("method", "hooks", "memory", "compute", "shardings", "needs", "papers")
    return [{name: row[name].replace("arXiv:", "") for name in shown} for row in method_rows()]


def method_page(name: str) -> str:
    """All about one method, in plain words.

    Raises:
        ConfigError: if there is none of that name.
    """
    found = {kind.__name__: kind for kind in method_classes()}
    if name not in found:
        near = get_close_matches(name, found, 3, 0.4)
        raise ConfigError(
            f"there is no method {name!r}; did you mean {' or '.join(near) or 'one of `everlearn methods`'}?"
        )
    (row,) = [row for row in method_rows() if row["method"] == name]
    shown = ("hooks", "memory", "compute", "shardings", "needs", "papers")
    facts = [f"{what:<11}{row[what] or 'none'}" for what in shown]
    return "\n".join([f"{name}({row['parameters']})", "", inspect.getdoc(found[name]) or "", "", *facts])


def methods_page() -> str:
    """docs/methods.md: what each method does, where it acts, its hyperparameters, its papers."""
    table, sections = _header("method", "in one line", "hooks", "papers"), []
    for kind, row in zip(method_classes(), method_rows(), strict=True):
        name, (prose, meanings) = row["method"], _docstring(kind)
        papers = ARXIV.sub(r"[\g<0>](https://arxiv.org/abs/\1)", row["papers"])
        table.append(_row(f"[`{name}`](#{name.lower()})", row["in one line"], row["hooks"], papers))
        parameters = [_row(f"`{n}`", f"`{default}`", meanings[n]) for n, default in _defaults(kind).items()]
        sections += ["", f"## {name}", "", f"`{kind.__module__}:{name}`", "", _escaped(prose), ""]
        needs = "" if row["needs"] == "nothing" else f" Needs: {row['needs']}."
        sections += [f"Memory: {row['memory']}. Compute: {row['compute']}. Parameters: {row['shardings']}.{needs}"]
        sections += ["", *_header("parameter", "default", "meaning"), *parameters] if parameters else []
    return "\n".join([NOTE, METHODS, "", *table, *sections, ""])


def errors_page() -> str:
    """docs/errors.md: each kind of error, what else it can be caught as, and what it means."""
    table = _header("error", "is a", "meaning")
    for kind in vars(errors).values():
        if inspect.isclass(kind) and issubclass(kind, EverlearnError):
            bases = ", ".join(f"`{base.__name__}`" for base in kind.__bases__)
            table.append(_row(f"`{kind.__name__}`", bases, _first(kind)))
    return "\n".join([NOTE, ERRORS, "", *table, ""])


PAGES: dict[str, Callable[[], str]] = {"methods.md": methods_page, "errors.md": errors_page}


def main(folder: Path = Path("docs")) -> None:
    """Write every page into a folder that exists."""
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


def _docstring(kind: type) -> tuple[str, dict[str, str]]:
    """A Google-style docstring as its prose and the text of each argument."""
    prose, _, arguments = (inspect.getdoc(kind) or "").partition("\nArgs:\n")
    named = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", arguments, re.MULTILINE)
    return prose.strip(), {name: " ".join(text.split()) for name, text in named}


def _defaults(kind: type[Method]) -> dict[str, str]:
    """The hyperparameters as they would be written."""
    parameters = inspect.signature(kind).parameters.values()
    return {p.name: "required" if p.default is p.empty else repr(p.default) for p in parameters}


def _first(kind: type) -> str:
    return _docstring(kind)[0].partition("\n")[0]


def _named(prose: str) -> str:
    return ", ".join(NAMED.findall(prose))


def _escaped(text: str) -> str:
    """Formulas in a docstring stay formulas in Markdown; what stands in backticks is left alone."""
    return re.sub(r"(`[^`]*`)|([*<|])", lambda match: match[1] or "\\" + match[2], text)


def _header(*titles: str) -> list[str]:
    return [_row(*titles), "|---" * len(titles) + "|"]


def _row(*cells: str) -> str:
    return f"| {' | '.join(_escaped(cell) for cell in cells)} |"


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
