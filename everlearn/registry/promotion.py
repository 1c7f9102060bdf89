"""Whether a version that was compared with another one is kept."""

from collections.abc import Mapping
from dataclasses import dataclass

from everlearn.errors import ConfigError
from everlearn.registry.gates import Verdict
from everlearn.rewards.win_rate import WinRate
from everlearn.statistics import ROUNDING


@dataclass(frozen=True)
class Promotion:
    """Keep a version that wins, and forgets little.

    Args:
        margin: its win rate over the version before has to be above 1/2 by more than this, in [0, 1/2).
        drop: the largest fall allowed in the mean of a regression suite, from the best version that was kept.
    """

    margin: float = 0.0
    drop: float = 0.1

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        if not 0 <= self.margin < 0.5 or not 0 <= self.drop <= 1:
            raise ConfigError(f"{self}: margin lies in [0, 0.5), and drop in [0, 1].")

    def judge(self, won: WinRate, best: Mapping[str, float], now: Mapping[str, float]) -> Verdict:
        """Decide, and say why.

        Args:
            won: over the version before.
            best: by suite, the best mean of a version that was kept.
            now: by suite, the candidate's mean.
        """
        against = []
        if won.share <= 0.5 + self.margin + ROUNDING:
            against.append(f"it wins {won}, and more than {0.5 + self.margin:.3f} is asked")
        for name, score in now.items():
            if best.get(name, score) - score > self.drop + ROUNDING:
                against.append(f"{name} falls from {best[name]:.3f} to {score:.3f}, and {self.drop:.3f} is allowed")
        if against:
            return Verdict(False, f"Taken back: {'; '.join(against)}.")
        return Verdict(True, f"Promoted: it wins {won}, and {len(now)} regression suites are held.")
