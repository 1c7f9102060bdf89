"""The package keeps the rules of `architecture.py`, and each rule notices a planted violation."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import everlearn
from tests.architecture import REPOSITORY, RULES, Tree, Violations, imports, read

Rule = Callable[[Tree], Violations]
DOC = '"""A docstring."""\n'
LONG_BODY = "    x = 0\n"

CLEAN = {
    "pyproject.toml": '[project]\ndependencies = ["torch>=2"]\noptional-dependencies = {hub = ["datasets>=4"]}\n',
    "everlearn/__init__.py": DOC + 'if True:\n    from everlearn.types import Batch\n__all__ = ["Batch"]\n',
    "everlearn/errors.py": DOC,
    "everlearn/types.py": DOC + f"import everlearn.errors\nclass Batch:\n    {DOC}",
    "everlearn/data/__init__.py": DOC,
    "everlearn/data/hub.py": DOC + "import datasets\n",
    "everlearn/models/__init__.py": DOC,
    "everlearn/models/parallel.py": DOC + "import torch.distributed\n",
    "everlearn/method.py": DOC + f"from everlearn.types import Batch\nclass Method:\n    {DOC}    batch: Batch\n",
    "everlearn/methods/__init__.py": DOC,
    "everlearn/methods/anchors.py": DOC
    + "from everlearn.method import Method\n"
    + 'class EWC(Method):\n    """Stay close (Kirkpatrick et al. 2017, arXiv:1612.00796)."""\n',
    "tests/test_types.py": "from everlearn import errors, method, types\n",
    "tests/data/test_hub.py": "import everlearn.data.hub\n",
    "tests/methods/test_anchors.py": "from everlearn.methods.anchors import EWC\n",
    "tests/conftest.py": "from everlearn.models import parallel\n",
}

PLANTED = {  # rule: (file, its text, what the rule has to say), several times
    "every_module_has_a_place": [
        ("everlearn/surprise.py", DOC, "stands in no group"),
        ("everlearn/data/utils.py", DOC, "name that says nothing"),
    ],
    "imports_point_down": [
        (
            "everlearn/types.py",
            "from everlearn.methods.anchors import EWC\n",
            "everlearn.methods.anchors is above",
        ),
        ("everlearn/types.py", "from everlearn import method\n", "everlearn.method is above"),
        ("everlearn/types.py", "import everlearn.method\n", "everlearn.method is above"),
        ("everlearn/method.py", "from everlearn import Batch\n", "and everlearn is above"),
        ("everlearn/types.py", "def f():\n    from everlearn import method\n", "everlearn.method is above"),
    ],
    "imports_make_no_cycle": [
        ("everlearn/types.py", "from everlearn import method\n", "is in a cycle"),
        ("everlearn/errors.py", "import everlearn.types\n", "is in a cycle"),
    ],
    "imports_are_absolute_and_at_the_top": [
        ("everlearn/data/hub.py", "from .. import types\n", "imports relatively"),
        ("everlearn/data/hub.py", "def f():\n    import torch\n", "below the top"),
        ("everlearn/data/hub.py", "try:\n    import torch\nexcept ImportError:\n    pass\n", "below the top"),
        ("everlearn/data/hub.py", "if True:\n    import torch\n", "below the top"),
    ],
    "only_some_files_know": [
        ("everlearn/methods/anchors.py", "import transformers\n", "imports transformers"),
        ("everlearn/methods/anchors.py", "from transformers.utils import x\n", "imports transformers"),
        ("everlearn/models/loader.py", "from transformers import x\n", "imports transformers"),
        ("everlearn/method.py", "from torch import distributed\n", "imports torch.distributed"),
        ("everlearn/method.py", "import torch\ntorch.distributed.barrier()\n", "imports torch.distributed"),
        ("everlearn/data/hub.py", "import urllib.request\n", "imports urllib.request"),
        ("everlearn/data/hub.py", "from accelerate import Accelerator\n", "imports accelerate"),
    ],
    "dependencies_are_declared": [("everlearn/method.py", "import scipy.stats\n", "imports scipy")],
    "an_optional_dependency_stays_in_one_file_that_is_asked_for": [
        ("everlearn/data/more.py", "from datasets import load_dataset\n", "one file may"),
        ("everlearn/method.py", "from everlearn.data.hub import read\n", "resolve it when asked for"),
    ],
    "files_and_functions_are_short": [
        ("everlearn/types.py", "x = 0\n" * 301, "more than 300 lines"),
        ("everlearn/types.py", "def f():\n" + LONG_BODY * 31, "f has 31 lines"),
        ("everlearn/types.py", "def f():\n    def g():\n" + ("    " + LONG_BODY) * 30, "f has 31 lines"),
        ("everlearn/types.py", "async def f():\n" + LONG_BODY * 21, "95th percentile"),
    ],
    "functions_take_few_arguments": [
        ("everlearn/types.py", "def f(a, b, c, d, e, f, g): ...\n", "f takes 7 arguments"),
        ("everlearn/types.py", "def f(a, /, b, *c, d, e, f, g): ...\n", "f takes 7 arguments"),
        ("everlearn/types.py", "class A:\n    def f(self, a, b, c, d, e, f, g): ...\n", "f takes 7 arguments"),
        ("everlearn/types.py", "def f(**options): ...\n", "takes **options"),
        ("everlearn/types.py", "f = lambda **options: 0\n", "takes **options"),
    ],
    "nothing_is_looked_up_in_the_dark": [
        ("everlearn/types.py", "hasattr(1, 'x')\n", "calls hasattr"),
        ("everlearn/types.py", "eval('1')\n", "calls eval"),
        ("everlearn/types.py", "exec('1')\n", "calls exec"),
        *(
            ("everlearn/types.py", f"try:\n    x = 0\nexcept{error}:\n    x = 1\n", "catches everything")
            for error in ("", " Exception", " BaseException as e", " (ValueError, Exception)")
        ),
        (
            "everlearn/types.py",
            "import contextlib\nwith contextlib.suppress(Exception):\n    x = 0\n",
            "catches everything",
        ),
    ],
    "public_things_have_docstrings": [
        ("everlearn/types.py", "x = 0\n", "has no docstring"),
        ("everlearn/types.py", DOC + "class A: ...\n", "A has no docstring"),
        ("everlearn/types.py", DOC + "def f(): ...\n", "f has no docstring"),
        ("everlearn/types.py", DOC + f"class A:\n    {DOC}    async def f(self): ...\n", "f has no docstring"),
    ],
    "methods_cite_their_paper": [
        ("everlearn/methods/anchors.py", f"class EWC:\n    {DOC}", "EWC cites no paper"),
        ("everlearn/methods/anchors.py", 'class EWC:\n    """From a paper of 2017."""\n', "EWC cites no paper"),
    ],
    "classes_are_abstract_or_final": [
        ("everlearn/types.py", "class A: ...\nclass B(A): ...\n", "B subclasses everlearn.types.A"),
        ("everlearn/method.py", "from everlearn.types import Batch\nclass B(Batch): ...\n", "B subclasses"),
        ("everlearn/method.py", "from everlearn import types\nclass B(types.Batch): ...\n", "B subclasses"),
        ("everlearn/methods/more.py", "from everlearn.methods.anchors import EWC\nclass B(EWC): ...\n", "B subclasses"),
    ],
    "only_the_root_re_exports": [
        ("everlearn/__init__.py", 'from everlearn.types import Batch\n__all__ = ["Batch", "Lost"]\n', "['Lost']"),
        ("everlearn/__init__.py", "from everlearn.types import Batch\n__all__ = []\n", "['Batch']"),
        ("everlearn/data/__init__.py", DOC + "from everlearn.types import Batch\n", "more than a docstring"),
        ("everlearn/types.py", '__all__ = ["Batch"]\n', "only the root re-exports"),
        ("everlearn/testing/__init__.py", DOC + "from everlearn.types import Batch\n", "more or less than"),
    ],
    "tests_mirror_the_package": [
        ("tests/test_nothing.py", "", "mirrors no module"),
        ("tests/data/test_types.py", "", "mirrors no module"),
    ],
    "every_module_is_tested": [("everlearn/data/files.py", DOC, "is imported by no test")],
}


def plant(folder: Path, files: dict[str, str]) -> Tree:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return read(folder)


@pytest.fixture(scope="module")
def tree() -> Tree:
    return read(REPOSITORY)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Rule, tree: Tree) -> None:
    found = {f"{module.path.relative_to(REPOSITORY)}:{line}: {what}": None for module, line, what in rule(tree)}
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_clean_package_breaks_no_rule(rule: Rule, tmp_path: Path) -> None:
    assert list(rule(plant(tmp_path, CLEAN))) == []


@pytest.mark.parametrize(
    ("rule", "file", "text", "says"),
    [(rule, *planted) for rule in RULES for planted in PLANTED[rule.__name__]],
    ids=[f"{rule.__name__}-{i}" for rule in RULES for i in range(len(PLANTED[rule.__name__]))],
)
def test_a_planted_violation_is_noticed(rule: Rule, file: str, text: str, says: str, tmp_path: Path) -> None:
    found = [what for _, _, what in rule(plant(tmp_path, CLEAN | {file: text}))]
    assert any(says in what for what in found), found


def test_every_public_name_is_what_the_type_checker_takes_it_for(tree: Tree) -> None:
    homes = {name.rpartition(".")[2]: name for _, name in imports(tree.modules["everlearn"]) if "everlearn." in name}
    assert set(homes) == set(everlearn.__all__) <= set(dir(everlearn))
    for name, home in homes.items():
        assert getattr(everlearn, name) is resolve_name(":".join(home.rpartition(".")[::2]))


def test_the_lock_pins_what_the_project_asks_for() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lock = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    pins = {canonicalize_name(name): pin for name, pin in re.findall(r"^([\w.-]+)==(\S+)$", lock, re.M)}
    for asked in map(Requirement, [*project["dependencies"], *extras["hub"], *extras["test"]]):
        assert pins.get(canonicalize_name(asked.name), "0") in asked.specifier, asked
    assert not [pin for pin in pins.values() if "+" in pin], "a local version is not on every machine"


def test_what_is_no_module_is_packaged_too() -> None:
    """A wheel holds the page of a report and the shipped suite: an editable installation would not miss them."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["*"]
    inside = [p for p in (REPOSITORY / "everlearn").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    left_out = [p.name for p in inside if p.suffix != ".py" and not any(p.match(pattern) for pattern in patterns)]
    assert not left_out
