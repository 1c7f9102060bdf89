"""A gate for tests; it lies in a module of its own so that a run can name it."""

from dataclasses import dataclass

from everlearn.matrix import Matrix
from everlearn.registry.gates import Verdict


@dataclass(frozen=True)
class RefuseSecond:
    """Refuses the second version."""

    def judge(self, matrix: Matrix, t: int) -> Verdict:
        """Say no once."""
        return Verdict(t != 2, f"version {t}")
