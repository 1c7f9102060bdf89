"""What an audit may find, and from where on it matters."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["defect", "warning", "note"]


@dataclass(frozen=True)
class Limits:
    """From where on something is a defect, which spoils a result, or a warning. All but `rows` are shares in [0, 1].

    Args:
        rows: most rows of a part that are looked at; of a larger one, so many drawn by chance.
        near: Jaccard similarity of three-word shingles from which two prompts are nearly the same: a warning.
        leak: of the test rows, how many may stand in train before it is a defect and no longer a warning. Half of
            `effect` or less, or else memory alone can look like the change that one wants to see.
        unique: of the training rows, fewest that are distinct; fewer are a defect, as the count of rows misleads.
        shared: part of the smaller set from which validation and test, or two experiences, are the same: a defect.
        effect: the change in a score that one wants to see; a test too small for it is a warning.
        coarse: a test that cannot show even so large a change is a defect.
        majority: share of the most frequent label from which always answering it looks like skill: a warning.
    """

    rows: int = 20_000
    near: float = 0.8
    leak: float = 0.02
    unique: float = 0.6
    shared: float = 0.5
    effect: float = 0.05
    coarse: float = 0.2
    majority: float = 0.8


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Args:
        severity: "defect" spoils a result, "warning" weakens it, "note" is good to know.
        check: which check.
        experience: where.
        message: what, and what to do.
        examples: where it can be seen, as "file:line"; a few.
        count: rows concerned.
        of: among so many.
    """

    severity: Severity
    check: str
    experience: str
    message: str
    examples: tuple[str, ...] = ()
    count: int = 0
    of: int = 0


@dataclass(frozen=True)
class Audit:
    """What was found, the gravest first."""

    stream: str
    findings: tuple[Finding, ...]

    @property
    def spoils(self) -> bool:
        """Whether a defect would spoil the result."""
        return any(finding.severity == "defect" for finding in self.findings)

    def rows(self) -> list[dict[str, Any]]:
        """The findings as plain data, for JSON and for tables."""
        return [asdict(finding) | {"examples": list(finding.examples)} for finding in self.findings]
