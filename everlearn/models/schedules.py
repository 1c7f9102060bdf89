"""The course of the learning rate inside an experience, and from one experience to the next."""

import math
from dataclasses import dataclass
from typing import Literal

from everlearn.errors import ConfigError

Shape = Literal["cosine", "constant", "linear", "wsd", "infinite"]


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a factor in [0, 1] of its peak, by progress through the experience.

    Every experience has the whole course: it is re-warmed and decays again (arXiv:2403.08763), which costs some of what
    was known when the rate rises. With `rewarm=False` those after the first go on where the rate last stood, without
    the rise: "wsd" at the peak, "infinite" at its constant, "cosine" and "linear" at the floor to the end.

    Args:
        shape: after the warm-up: "cosine" falls along half a cosine, "linear" along a line, "constant" stays, "wsd"
            (warm-up, stable, decay: MiniCPM, arXiv:2404.06395) stays and falls along 1 - sqrt in the last part;
            "infinite" (arXiv:2403.08763, section 7) falls along half a cosine to a constant, stays there, and falls
            exponentially to the floor in the last part.
        warmup: fraction of the experience in which the rate rises linearly from 0.
        decay: fraction of the experience in which "wsd" and "infinite" fall at the end.
        floor: the factor at the end of a falling shape; of "infinite" above 0.
        cooldown: fraction of the experience in which "infinite" falls to its constant.
        constant: the factor of "infinite" between cooldown and decay.
        rewarm: whether experiences after the first have a warm-up, and a cooldown, of their own.
    """

    shape: Shape = "cosine"
    warmup: float = 0.1
    decay: float = 0.2
    floor: float = 0.0
    cooldown: float = 0.3
    constant: float = 0.5
    rewarm: bool = True

    def __post_init__(self) -> None:
        """Refuse fractions that do not fit into one experience, and rates that would be 0 throughout."""
        if not (0 <= self.warmup < 1 and 0 < self.decay <= 1 and 0 <= self.floor <= 1):
            raise ConfigError(f"{self}: warmup is in [0, 1), decay in (0, 1], floor in [0, 1].")
        if self.shape == "infinite" and not (
            self.cooldown >= 0
            and self.warmup + self.cooldown + self.decay <= 1
            and 0 < self.floor <= self.constant <= 1
        ):
            raise ConfigError(
                f"{self}: warmup, cooldown and decay are parts of 1, and 0 < floor <= constant <= 1, such as "
                'Schedule("infinite", floor=0.01).'
            )
        if not self.rewarm and self.shape in ("cosine", "linear") and self.floor == 0:
            raise ConfigError(f"{self}: experiences after the first would go on at a floor of 0; raise it, or re-warm.")

    def factor(self, progress: float, seen: int = 0) -> float:
        """The factor when the fraction `progress` of the experience is done.

        Args:
            progress: in [0, 1].
            seen: experiences that were learned before this one.
        """
        goes_on = seen > 0 and not self.rewarm
        if progress < self.warmup and not goes_on:
            return progress / self.warmup
        rest = min(1.0, (progress - self.warmup) / (1 - self.warmup))
        match self.shape:
            case "constant":
                return 1.0
            case "wsd":
                return self._fallen(math.sqrt(self._annealed(progress)))
            case "infinite":
                return self._infinite(progress, goes_on)
            case "linear":
                return self._fallen(1.0 if goes_on else rest)
            case "cosine":
                return self._fallen(1.0 if goes_on else (1 - math.cos(math.pi * rest)) / 2)

    def _fallen(self, fall: float) -> float:
        return self.floor + (1 - self.floor) * (1 - fall)

    def _annealed(self, progress: float) -> float:
        """The fraction of the last part that is done."""
        return min(1.0, max(0.0, (progress - (1 - self.decay)) / self.decay))

    def _infinite(self, progress: float, goes_on: bool) -> float:
        cooled = self.warmup + self.cooldown
        if progress < cooled and not goes_on:
            rest = (1 + math.cos(math.pi * (progress - self.warmup) / self.cooldown)) / 2
            return self.constant + (1 - self.constant) * rest
        annealed: float = (self.floor / self.constant) ** self._annealed(progress)
        return self.constant * annealed
