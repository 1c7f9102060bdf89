"""Who looks on while an experience is learned."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everlearn.types import Progress, Silent


@dataclass
class Watch:
    """Who looks on while an experience is learned.

    Args:
        checkpoint: where unfinished work is kept; None keeps none.
        every: seconds between two checkpoints.
        progress: told after each step.
        log: given a row of numbers after each step.
        trace: given plain data about what the model did, where it learns from its own attempts.
        stop: asked after each step; True ends the work with a checkpoint.
        enough: asked after each step; True ends the experience there, as if its examples were at an end.
    """

    checkpoint: Path | None = None
    every: float = 60.0
    progress: Progress = field(default_factory=Silent)
    log: Callable[[Mapping[str, Any]], None] = lambda row: None
    trace: Callable[[Mapping[str, Any]], None] = lambda row: None
    stop: Callable[[], bool] = lambda: False
    enough: Callable[[], bool] = lambda: False
