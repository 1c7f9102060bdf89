"""The shape of the package as rules; `test_architecture.py` runs them, and shows that each of them can fail.

A number or a name in the tables below is changed in a commit that says why; the limits go down, not up.
"""

import ast
import graphlib
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]

GROUPS = tuple(  # imports point down: a module imports from its own line and from those above it
    line.split()
    for line in """
    errors examples types
    names arguments config files weights randomness matrix statistics definitions measures sampling comparison
    merging tensor_files traces
    data models
    method objectives rewards metrics
    needs
    merge_rules combine
    methods agents
    learner reference_weights checkpoint watch evaluate validation registry run_folder stopping
    drawn_pairs selecting knowledge synthesis
    fold references merge_vocabularies merge_folders flywheel adaptation
    rebase_folders
    wording figures run_view verdict
    grid
    report token_report dashboard serve integrations testing terminal progress asking
    demo demo_stream
    options console
    compare_command merge_command rebase_command select_command tokens_command
    cli
    """.strip().splitlines()
)
FILE_LINES = 300  # one idea fits; the best code bases of the field have their 95th percentile near it
BODY_LINES = 30  # a function is read without scrolling
BODY_LINES_P95 = 20  # the tail is where set-up code rots, so it is the number to watch
ARGUMENTS = 6  # more of them are a dataclass that has no name yet
MORE_ARGUMENTS = {
    "everlearn.cli",  # a command's arguments are its flags
    "everlearn.compare_command",  # as above
    "everlearn.merge_command",  # as above
    "everlearn.select_command",  # as above
    "everlearn.tokens_command",  # as above
    "everlearn.rebase_command",  # as above
    "everlearn.models.adapted.forward",  # autograd sees the tensors that it is given one by one
    "everlearn.models.attention.attend",  # transformers' own signature
    "everlearn.models.slots.attend",  # transformers calls it by these names; an unknown one has to fail
}
KEYWORDS = {
    *("everlearn.models.attention", "everlearn.models.layers"),  # called with whatever a model passes along
    "everlearn.integrations.continual",  # passes a trainer its own arguments on
    "everlearn.integrations.trl",  # as above; and TRL calls rewards with all columns of a row
}
LATE_IMPORTS = {  # so that --help answers without loading torch
    "everlearn.cli",
    "everlearn.compare_command",
    "everlearn.merge_command",
    "everlearn.select_command",
    "everlearn.tokens_command",
    "everlearn.rebase_command",
}
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "core", "base", "manager", "misc"}
FORBIDDEN_CALLS = {"hasattr", "eval", "exec", "__import__"}  # what a name means is known without running it
BROAD = {"Exception", "BaseException"}  # catching them hides defects
CATCHES_ALL = {"everlearn.agents.calls"}  # strangers' code raises what it likes; it is told, not hidden
ONLY_IN = {  # heavy or far-reaching packages, and the files that may know them
    "transformers": (
        "everlearn.models.load",
        "everlearn.models.gguf",  # the part of loading that converts GGUF files
        "everlearn.models.attention",
        "everlearn.models.residual",
        "everlearn.models.slots",  # a cache and an attention function of its kinds
        "everlearn.models.reading",
        "everlearn.models.decoding",
        "everlearn.models.library",
        "everlearn.data.render",
        "everlearn.agents.tools",  # functions as the schemas that chat templates are written for
        "everlearn.testing.toys",  # makes the architecture that the loader then loads
        "everlearn.testing.calibration",  # as above, of another shape
    ),
    "torch.distributed": ("everlearn.models.parallel",),
    "accelerate": ("everlearn.models.parallel",),
    **dict.fromkeys(
        ("http", "urllib.request", "urllib3", "requests", "httpx", "aiohttp", "socket"),
        ("everlearn.serve", "everlearn.agents.agent"),
    ),
}
SHORT_NAMES = {  # what strangers check their own methods with is to be had by a short name
    "everlearn.testing": {"everlearn.testing.laws.check"},
}
DISTRIBUTIONS = {  # where a package is named otherwise than its import, or comes with another one
    "yaml": "pyyaml",
    "tokenizers": "transformers",
    "huggingface_hub": "transformers",
    "click": "typer",
}
ABSTRACT = {"everlearn.method.Method"}  # identities in all hooks: made to be subclassed, once
OPEN_TREES = {"everlearn.errors"}  # an error's kin is its meaning
WHOLE = {
    "architecture",
    "benchmarks",
    "documents",
    "launches",
    "laws",
    "trajectories",
    "stories",
    "trl_losses",
}  # about no one module
PAPER = re.compile(r"arXiv:(\d{4}\.\d{4,5}|[a-z-]+/\d{7})|\([A-Z][^()]*\b(19|20)\d\d\b[^()]*\)")


@dataclass(frozen=True)
class Module:
    """One file of the package, parsed."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def group(self) -> int:
        """Its place in GROUPS; the root, which re-exports, stands above all."""
        top = [*self.name.split("."), "cli"][1]
        return next((i for i, names in enumerate(GROUPS) if top in names), -1)


@dataclass(frozen=True)
class Tree:
    """The package's modules by dotted name, its test files, and the names of its dependencies."""

    modules: Mapping[str, Module]
    tests: Mapping[Path, Module]
    required: frozenset[str]
    optional: frozenset[str]

    def inside(self, dotted: str) -> str | None:
        """The module that a dotted import reaches, or None where it leaves the package."""
        while dotted and dotted not in self.modules:
            dotted = dotted.rpartition(".")[0]
        return dotted or None


def read(repository: Path) -> Tree:
    modules = {m.name: m for m in _parsed(repository, "everlearn")}
    tests = {m.path.relative_to(repository / "tests"): m for m in _parsed(repository, "tests")}
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for lines in project.get("optional-dependencies", {}).values() for line in lines]
    required, optional = (
        frozenset(re.split(r"[^A-Za-z0-9_.-]", line)[0].lower().replace("-", "_") for line in lines)
        for lines in (project["dependencies"], extras)
    )
    return Tree(modules, tests, required, optional)


def _parsed(repository: Path, folder: str) -> Iterator[Module]:
    for path in sorted((repository / folder).rglob("*.py")):
        parts = path.relative_to(repository).with_suffix("").parts
        text = path.read_text(encoding="utf-8")
        yield Module(".".join(parts[:-1] if parts[-1] == "__init__" else parts), path, text, ast.parse(text))


Violations = Iterator[tuple[Module, int, str]]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def imports(module: Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def nodes(tree: Tree, *kinds: type[ast.AST]) -> Iterator[tuple[Module, Any]]:
    for module in tree.modules.values():
        yield from ((module, node) for node in ast.walk(module.tree) if isinstance(node, kinds))


def body_lines(function: Function) -> int:
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def every_module_has_a_place(tree: Tree) -> Violations:
    for module in tree.modules.values():
        if module.group < 0:
            yield module, 1, "stands in no group of the import order; give it a place in GROUPS"
        if FORBIDDEN_NAMES & set(module.name.split(".")):
            yield module, 1, "has a name that says nothing; name what it holds"


def imports_point_down(tree: Tree) -> Violations:
    for module in tree.modules.values():
        for line, dotted in imports(module):
            target = tree.inside(dotted)
            if target and tree.modules[target].group > module.group >= 0:
                yield module, line, f"imports {dotted}, and {target} is above it"


def imports_make_no_cycle(tree: Tree) -> Violations:
    graph = {m.name: {tree.inside(d) or "" for _, d in imports(m)} - {"", m.name} for m in tree.modules.values()}
    graph.pop("everlearn", None)  # it re-exports, and no module imports it
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield tree.modules[error.args[1][0]], 1, f"is in a cycle of imports: {' <- '.join(error.args[1])}"


def imports_are_absolute_and_at_the_top(tree: Tree) -> Violations:
    for module, node in nodes(tree, ast.Import, ast.ImportFrom):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield module, node.lineno, "imports relatively; write the whole name"
        if node not in module.tree.body and module.name not in LATE_IMPORTS | {"everlearn"}:
            yield module, node.lineno, "imports below the top of the file"


def only_some_files_know(tree: Tree) -> Violations:
    for module in tree.modules.values():
        found = [(line, dotted + ".") for line, dotted in imports(module)]
        found += [(n.lineno, "torch.distributed.") for n in _attributes(module) if _is(n, "torch.distributed")]
        for line, dotted in found:
            for package, places in ONLY_IN.items():
                if dotted.startswith(package + ".") and not f"{module.name}.".startswith(
                    tuple(f"{p}." for p in places)
                ):
                    yield module, line, f"imports {package}, which only {', '.join(places)} may"


def _attributes(module: Module) -> Iterator[ast.Attribute]:
    yield from (node for node in ast.walk(module.tree) if isinstance(node, ast.Attribute))


def _is(node: ast.Attribute, dotted: str) -> bool:
    return dotted.endswith(f".{node.attr}") and ast.unparse(node) == dotted


def dependencies_are_declared(tree: Tree) -> Violations:
    for module, line, top in _outside(tree):
        if top not in tree.required | tree.optional:
            yield module, line, f"imports {top}, which pyproject.toml does not name"


def an_optional_dependency_stays_in_one_file_that_is_asked_for(tree: Tree) -> Violations:
    users: dict[str, str] = {}
    for module, line, top in _outside(tree):
        if top in tree.optional - tree.required and users.setdefault(top, module.name) != module.name:
            yield module, line, f"imports the optional {top}, as {users[top]} does; one file may"
    for module in tree.modules.values():
        for line, dotted in imports(module):
            if (target := tree.inside(dotted)) in users.values() and target != module.name:
                yield module, line, f"imports {target}, which needs an optional package; resolve it when asked for"


def _outside(tree: Tree) -> Iterator[tuple[Module, int, str]]:
    """Imports of what is neither ours nor Python's, by the name of the distribution."""
    for module in tree.modules.values():
        for line, dotted in imports(module):
            top = dotted.split(".")[0]
            if top != "everlearn" and top not in sys.stdlib_module_names:
                yield module, line, DISTRIBUTIONS.get(top, top)


def files_and_functions_are_short(tree: Tree) -> Violations:
    lengths = []
    for module in tree.modules.values():
        if (count := len(module.text.splitlines())) > FILE_LINES and module.name != "everlearn":  # a list of names
            yield module, count, f"has more than {FILE_LINES} lines"
    for module, node in nodes(tree, ast.FunctionDef, ast.AsyncFunctionDef):
        if (length := body_lines(node)) > BODY_LINES:
            yield module, node.lineno, f"{node.name} has {length} lines, more than {BODY_LINES}"
        lengths += [length] if length else []
    if lengths and (p95 := float(np.percentile(lengths, 95))) > BODY_LINES_P95:
        yield next(iter(tree.modules.values())), 1, f"the 95th percentile of function bodies is {p95:.1f} lines"


def functions_take_few_arguments(tree: Tree) -> Violations:
    for module, node in nodes(tree, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda):
        spec, name = node.args, getattr(node, "name", "a lambda")
        named = [a.arg for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]
        count = len(named) + (spec.vararg is not None) - (named[:1] in (["self"], ["cls"]))
        if count > ARGUMENTS and not MORE_ARGUMENTS & {module.name, f"{module.name}.{name}"}:
            yield module, node.lineno, f"{name} takes {count} arguments, more than {ARGUMENTS}"
        if spec.kwarg and module.name not in KEYWORDS:
            yield module, node.lineno, f"{name} takes **{spec.kwarg.arg}; name the arguments"


def nothing_is_looked_up_in_the_dark(tree: Tree) -> Violations:
    for module, node in nodes(tree, ast.Call, ast.ExceptHandler):
        if isinstance(node, ast.ExceptHandler):
            caught = _names(node.type) if node.type else BROAD
        else:
            called = ast.unparse(node.func)
            caught = {n for a in node.args for n in _names(a)} if called.endswith("suppress") else set()
            if called in FORBIDDEN_CALLS:
                yield module, node.lineno, f"calls {called}"
        if caught & BROAD and module.name not in CATCHES_ALL:
            yield module, node.lineno, "catches everything; name the error"


def _names(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def public_things_have_docstrings(tree: Tree) -> Violations:
    for module in tree.modules.values():
        if ast.get_docstring(module.tree) is None:
            yield module, 1, "has no docstring"
        for node in _public(module.tree):
            if ast.get_docstring(node) is None:
                yield module, node.lineno, f"{node.name} has no docstring"


def _public(scope: ast.AST) -> Iterator[Function | ast.ClassDef]:
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            yield from _public(node) if isinstance(node, ast.ClassDef) else ()


def methods_cite_their_paper(tree: Tree) -> Violations:
    for module, node in nodes(tree, ast.ClassDef):
        public = module.name.startswith("everlearn.methods.") and not node.name.startswith("_")
        if public and not PAPER.search(ast.get_docstring(node) or ""):
            yield module, node.lineno, f"{node.name} cites no paper, neither arXiv:NNNN.NNNNN nor (Author year)"


def classes_are_abstract_or_final(tree: Tree) -> Violations:
    classes = {f"{m.name}.{n.name}": n for m, n in nodes(tree, ast.ClassDef)}
    for module, node in nodes(tree, ast.ClassDef):
        origin = {d.rpartition(".")[2]: d for _, d in imports(module)}
        for head, dot, rest in (ast.unparse(b).partition("[")[0].partition(".") for b in node.bases):
            parent = origin.get(head, f"{module.name}.{head}") + dot + rest
            concrete = parent in classes and not {"Protocol", "ABC"} & {ast.unparse(b) for b in classes[parent].bases}
            if concrete and parent not in ABSTRACT and parent.rpartition(".")[0] not in OPEN_TREES:
                yield module, node.lineno, f"{node.name} subclasses {parent}, which is concrete; compose instead"


def only_the_root_re_exports(tree: Tree) -> Violations:
    for module in tree.modules.values():
        named = [n for n in module.tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"]
        if module.name == "everlearn":
            listed = set(ast.literal_eval(named[0].value)) if named else set()
            there = {d.rpartition(".")[2] for _, d in imports(module) if d.startswith("everlearn.")}
            if listed ^ there:
                yield module, 1, f"__all__ and what is imported differ in {sorted(listed ^ there)}"
        elif named:
            yield module, named[0].lineno, "has an __all__; only the root re-exports"
        elif module.name in SHORT_NAMES:
            if {dotted for _, dotted in imports(module)} != SHORT_NAMES[module.name]:
                yield module, 1, f"imports more or less than {sorted(SHORT_NAMES[module.name])}"
        elif module.path.name == "__init__.py" and len(module.tree.body) > 1:
            yield module, 1, "holds more than a docstring; a package's __init__ is empty"


def tests_mirror_the_package(tree: Tree) -> Violations:
    for path, test in tree.tests.items():
        name = path.stem.removeprefix("test_")
        mirrored = ".".join(("everlearn", *path.parts[:-1], name))
        recipe = REPOSITORY / "recipes" / path.with_name(f"{name}.py")
        known = mirrored in tree.modules or name in WHOLE or recipe.exists()
        if path.stem.startswith("test_") and not known:
            yield test, 1, "mirrors no module and no recipe; name it after the one it tests"


def every_module_is_tested(tree: Tree) -> Violations:
    tested = {tree.inside(dotted) for test in tree.tests.values() for _, dotted in imports(test)}
    for module in tree.modules.values():
        if module.path.name != "__init__.py" and module.name not in tested:
            yield module, 1, "is imported by no test"


RULES: tuple[Callable[[Tree], Violations], ...] = (
    every_module_has_a_place,
    imports_point_down,
    imports_make_no_cycle,
    imports_are_absolute_and_at_the_top,
    only_some_files_know,
    dependencies_are_declared,
    an_optional_dependency_stays_in_one_file_that_is_asked_for,
    files_and_functions_are_short,
    functions_take_few_arguments,
    nothing_is_looked_up_in_the_dark,
    public_things_have_docstrings,
    methods_cite_their_paper,
    classes_are_abstract_or_final,
    only_the_root_re_exports,
    tests_mirror_the_package,
    every_module_is_tested,
)
