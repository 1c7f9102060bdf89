"""What all tests share: one thread, no hub, and the two things that a machine may lack."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # on a shared machine several threads are slower than one, and one is deterministic
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.accelerator.is_available():
        pytest.skip("needs an accelerator, and this machine has none.")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data sets beside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real data sets in ../shared/data beside the repository, and they are not there.")
    return folder


@pytest.fixture(scope="session")
def embedded() -> Path:
    """The folder of the embedded model, fetched into the user's cache on first use."""
    from everlearn.errors import ModelError
    from everlearn.models.embedded import embedded_folder

    try:
        return embedded_folder()
    except ModelError as error:
        pytest.skip(f"needs the embedded model, and neither cache nor network has it: {error}")
