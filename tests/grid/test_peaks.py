"""The memory that a cell took."""

from pathlib import Path

import pytest
import torch

from everlearn.grid.peaks import RESET, peak_kept, peak_of

pytestmark = pytest.mark.skipif(torch.cuda.is_available() or not RESET.exists(), reason="reads Linux's mark")


def test_the_peak_is_that_of_what_is_done_inside_and_not_of_what_was_done_before(tmp_path: Path) -> None:
    large, small = tmp_path / "large", tmp_path / "small"
    for folder, size in ((large, 200_000_000), (small, 1000)):
        folder.mkdir()
        with peak_kept(folder):
            bytearray(b"x" * size)
    first, second = peak_of(large), peak_of(small)
    assert first is not None
    assert second is not None
    assert first - second > 150_000_000


def test_of_several_tries_the_largest_is_kept(tmp_path: Path) -> None:
    for size in (200_000_000, 1000):
        with peak_kept(tmp_path):
            bytearray(b"x" * size)
        first = peak_of(tmp_path)
    with peak_kept(tmp_path):
        pass
    assert peak_of(tmp_path) == first


def test_where_nothing_was_measured_nothing_is_known(tmp_path: Path) -> None:
    assert peak_of(tmp_path) is None
