"""The most memory that a cell took, kept in its folder."""

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from everlearn.files import read_json, write_json
from everlearn.models.engine import give_back

FILE = "peak.json"
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@contextmanager
def peak_kept(folder: Path) -> Iterator[None]:
    """Measure what is done inside, and keep the largest value of all tries in `folder`.

    On CUDA it is what tensors take there; otherwise the process's resident set, from Linux's own mark, which is set
    back first. What earlier work still holds counts; what it freed is given back before. Where there is no such mark
    nothing is kept.

    Args:
        folder: of a cell; it exists.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif RESET.exists():
        gc.collect()
        give_back()
        RESET.write_text("5")
    try:
        yield
    finally:
        found = _peak()
        if found is not None:
            write_json(folder / FILE, {"bytes": max(found, peak_of(folder) or 0.0)})


def peak_of(folder: Path) -> float | None:
    """Bytes that `peak_kept` has kept, if any."""
    file = folder / FILE
    return float(read_json(file)["bytes"]) if file.exists() else None


def _peak() -> float | None:
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text()) if STATUS.exists() else None
    return 1024.0 * int(found[1]) if found else None
