"""Unfinished work comes back as it was, to the experience and the kind of launch that it belongs to."""

from pathlib import Path

import pytest
import torch

from everlearn.checkpoint import find, keep
from everlearn.errors import ConfigError
from everlearn.files import read_json, write_json
from everlearn.models.parallel import Processes

ALONE = Processes()
WORK = {"step": 3, "memory": (None, [torch.arange(4.0)])}


def test_work_comes_back(tmp_path: Path) -> None:
    assert find(None, 1, ALONE) is None
    assert find(tmp_path / "c", 1, ALONE) is None
    keep(tmp_path / "c", 1, WORK, ALONE)
    found = find(tmp_path / "c", 1, ALONE)
    assert found["step"] == 3
    assert found["memory"][1][0].equal(torch.arange(4.0))
    assert find(tmp_path / "c", 2, ALONE) is None


def test_work_of_sharded_processes_is_refused_by_others(tmp_path: Path) -> None:
    keep(tmp_path / "c", 1, WORK, ALONE)
    file = tmp_path / "c" / "work.json"
    write_json(file, read_json(file) | {"sharding": "sharded"})
    with pytest.raises(ConfigError, match="kept with parameters sharded"):
        find(tmp_path / "c", 1, ALONE)
