"""The command that compares: its help answers at once; what it does is tested with grids."""

import inspect
import subprocess
import sys

from typer.testing import CliRunner

from everlearn.cli import app
from everlearn.compare_command import compare
from everlearn.console import OK
from everlearn.references import SHOTS


def test_help_answers_without_loading_torch() -> None:
    code = "import sys; import everlearn.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == OK


def test_it_keeps_its_place_in_the_list_of_commands() -> None:
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert names[:4] == ["demo", "run", compare.__name__, "audit"]
    assert CliRunner().invoke(app, ["compare", "--help"]).exit_code == OK


def test_as_many_demonstrations_are_shown_as_from_python() -> None:
    assert inspect.signature(compare).parameters["shots"].default == SHOTS
