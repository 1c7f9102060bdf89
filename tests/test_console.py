"""What the commands share: a stopped one says how to go on, and JSON is JSON."""

import json
import sys
from pathlib import Path

import pytest

from everlearn.console import print_json, resumable
from everlearn.errors import Interrupted


@pytest.mark.parametrize(
    ("stopped", "says"),
    [(Interrupted("stopped after 1 of 4 cells."), "stopped after 1 of 4 cells."), (KeyboardInterrupt(), "at once")],
)
def test_a_stopped_command_says_where_its_work_is_and_how_to_go_on(
    stopped: BaseException, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["everlearn", "compare", "stream.yaml"])
    with pytest.raises(Interrupted, match="is kept in runs/x") as raised, resumable(Path("runs/x")):
        raise stopped
    assert says in str(raised.value)
    assert str(raised.value).splitlines()[1].startswith("  ")
    assert "compare stream.yaml" in str(raised.value)


def test_json_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": "Zürich", "n": [1, None]})
    said = capsys.readouterr().out
    assert json.loads(said) == {"name": "Zürich", "n": [1, None]}
    assert "Zürich" in said
