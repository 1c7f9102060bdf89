"""The cells on a local Ray of two workers, one of which is killed."""

from dataclasses import replace
from pathlib import Path

import pytest

from everlearn.errors import ConfigError
from everlearn.grid.compare import compare
from everlearn.grid.executors import Executor
from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.types import Silent
from tests.grid.toy_grid import Deadly, toy_grid


def cluster(address: str, workers: int | None) -> Executor:
    pytest.importorskip("ray", reason="needs Ray, and it is not installed: pip install 'everlearn[ray]'.")
    from everlearn.grid.ray_cluster import RayCluster

    return RayCluster(address, workers)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray leaves sockets and files to the garbage collector
def test_a_grid_on_ray_survives_the_loss_of_a_worker(tmp_path: Path) -> None:
    executor = cluster("local", 2)
    grid = toy_grid(tmp_path / "model", seeds=(0,))
    mortal = chain(LoRA(rank=4), Deadly(str(tmp_path / "marker")))
    found = compare(replace(grid, methods=dict(grid.methods) | {"mortal": mortal}), tmp_path / "grid", executor)
    assert (tmp_path / "marker").exists(), "no worker was killed"
    assert found.failures == {}
    assert found.matrices["mortal"][0] == found.matrices["plain"][0]


def test_a_ray_cluster_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    executor = cluster("auto", None)  # the one that this machine belongs to
    with pytest.raises(ConfigError, match="no Ray cluster at 'auto'"):
        list(executor.each(toy_grid(tmp_path / "model").cells(tmp_path), Silent()))


def test_a_ray_cluster_without_workers_is_refused() -> None:
    with pytest.raises(ConfigError, match="1 or more"):
        cluster("local", 0)
