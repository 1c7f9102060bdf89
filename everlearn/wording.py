"""How numbers and measures are written for people: the same in the terminal, in the verdict and in the report."""

from collections.abc import Sequence
from dataclasses import dataclass

from everlearn.matrix import Unit

ABSENT = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
ABILITY = "general_ability_delta_trace"


@dataclass(frozen=True)
class Title:
    """A measure for people.

    Args:
        short: its name; two definitions of one quantity stay apart.
        meaning: half a sentence.
        change: whether it is a difference of scores, written with its sign and counted in points.
        lower: whether lower is better.
    """

    short: str
    meaning: str
    change: bool = True
    lower: bool = False


TITLES = {
    "accuracy": Title("ACC", "mean score of the last version", change=False),
    "accuracy_micro": Title("ACC, micro", "the same, with every test item weighing the same", change=False),
    "average_incremental_accuracy": Title("ACC, incremental", "mean of ACC over the stream", change=False),
    "learning_accuracy": Title("learning accuracy", "mean score of each as it was just learned", change=False),
    "backward_transfer_lopez_paz": Title("BWT (Lopez-Paz)", "change since each was learned; negative is forgetting"),
    "backward_transfer_sapt": Title("BWT (SAPT)", "the same, the last experience counted in as 0"),
    "backward_transfer_trace": Title("BWT (TRACE)", "as SAPT's at the end of the stream"),
    "backward_transfer_clipped": Title("BWT, clipped", "as SAPT's, with gains counted as 0"),
    "forward_transfer_lopez_paz": Title("FWT (Lopez-Paz)", "change before each is learned, against the base model"),
    "forward_transfer_sapt": Title("FWT (SAPT)", "just learned, against learned alone"),
    "forgetting_chaudhry": Title("forgetting (Chaudhry)", "fall from the best earlier score", lower=True),
    "forgetting_signed_cgl": Title("forgetting (CGL)", "as BWT of Lopez-Paz: negative is forgetting"),
    "intransigence_joint_chaudhry": Title("intransigence, joint", "not learned, against all together", lower=True),
    "intransigence_single": Title("intransigence, single", "not learned, against learned alone", lower=True),
    ABILITY: Title("general ability", "change of the general suite since the base model"),
}
"""Every definition, by its name."""

CHIEF = (
    "accuracy",
    "learning_accuracy",
    "backward_transfer_lopez_paz",
    "forgetting_chaudhry",
    "forward_transfer_lopez_paz",
    "intransigence_joint_chaudhry",
    "intransigence_single",
    ABILITY,
)
"""The measures that a reader looks for first."""


def titled(name: str) -> Title:
    """A measure's title; a single general ability goes by its own name."""
    if name in TITLES:
        return TITLES[name]
    return Title(name.removeprefix(f"{ABILITY}[").removesuffix("]"), "change since the base model")


def percent(value: float | None, unit: Unit = "fraction", signed: bool = False) -> str:
    """A score in percent, or a change in points, with one decimal; a dash for what is not there."""
    if value is None:
        return ABSENT
    scaled = round(100 * value if unit == "fraction" else value, 1) + 0.0  # no negative zero
    sign = MINUS if scaled < 0 else "+" if signed and scaled > 0 else ""
    return f"{sign}{abs(scaled):.1f}"


def bracket(low: float | None, high: float | None, unit: Unit = "fraction", signed: bool = False) -> str:
    """An interval in brackets; empty where there is none."""
    if low is None or high is None:
        return ""
    return f"[{percent(low, unit, signed)}, {percent(high, unit, signed)}]"


def chance(p: float | None) -> str:
    """A p-value; empty where there is none."""
    if p is None:
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
