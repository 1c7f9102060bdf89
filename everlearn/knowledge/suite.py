"""The check that facts hold in forms that were never trained on, and facts in turn as a stream."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from everlearn.errors import ConfigError, DataError
from everlearn.evaluate import Exam, sit
from everlearn.examples import Example
from everlearn.knowledge.facts import FORMS, TEXTS, Fact, Form, require_apart
from everlearn.metrics.likelihood import TokenAccuracy
from everlearn.metrics.text import Contains
from everlearn.models.language_model import LanguageModel
from everlearn.objectives.next_token import NextToken
from everlearn.statistics import mean_interval
from everlearn.types import Experience, Metric, Outcome, Progress, Stream

EVERY = "every"
"""The name of the line that counts a fact only where all its items are right."""


@dataclass(frozen=True)
class Held:
    """How well facts hold in one form.

    Args:
        form: or "every", where a fact scores what its worst item does.
        learned: whether the form is one that is learned from.
        facts: that have the form, and were asked.
        items: of them all.
        score: the mean over facts, a fact's being the mean of its items.
        low: lower end of the interval over facts: Wilson's where each is 0 or 1, else the bootstrap's.
        high: upper end.
    """

    form: str
    learned: bool
    facts: int
    items: int
    score: float
    low: float
    high: float


@dataclass(frozen=True)
class FactSuite:
    """Facts, the forms that are learned from, and those that are tested.

    Args:
        facts: with different names.
        learned: forms that are learned from.
        tested: forms that are tested; None tests all others.
        asked: how answers are judged.
        read: how documents are judged.

    Raises:
        ConfigError: if a form is not known or both learned and tested, names stand twice, or there is nothing to test.
        DataError: if an item that is tested says what one that is learned says, whatever fact it belongs to.
    """

    facts: tuple[Fact, ...]
    learned: tuple[Form, ...] = ("statement",)
    tested: tuple[Form, ...] | None = None
    asked: Metric = field(default_factory=Contains)
    read: Metric = field(default_factory=TokenAccuracy)

    def __post_init__(self) -> None:
        """Refuse forms that are not apart."""
        unknown = sorted({*self.learned, *(self.tested or ())} - set(FORMS))
        both = sorted(set(self.learned) & set(self.tested or ()))
        twice = sorted(name for name, count in Counter(fact.name for fact in self.facts).items() if count > 1)
        wrong = [f"there is no form {form!r}, only {FORMS}" for form in unknown]
        wrong += [f"{form!r} is learned and tested; leave it to one of them" for form in both]
        wrong += [f"two facts are called {name!r}; rename one" for name in twice]
        wrong += [] if self.learned else ["no form is learned from; name one"]
        if wrong:
            raise ConfigError(f"learned={self.learned}, tested={self.tested}: {wrong[0]}.")
        learned = [item for fact in self.facts for form in self.learned for item in fact.items(form)]
        tested = [item for form in self.forms for item in self.items(form)]
        if not tested:
            raise ConfigError(f"none of {len(self.facts)} facts has a form to be tested in; add questions.")
        require_apart(learned, tested)

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms that are tested and that some fact has."""
        wanted = self.tested if self.tested is not None else tuple(f for f in FORMS if f not in self.learned)
        return tuple(form for form in wanted if self.items(form))

    def items(self, form: Form) -> tuple[Example, ...]:
        """All facts in a form."""
        return tuple(item for fact in self.facts for item in fact.items(form))

    def exams(self, learned: bool = False) -> list[Exam]:
        """An exam for each form that is tested.

        Args:
            learned: whether those that are learned from are asked too, to see that there was something to hold.
        """
        forms = (*(self.learned if learned else ()), *self.forms)
        return [Exam(f, self.items(f), self.read if f in TEXTS else self.asked) for f in forms if self.items(f)]

    def ask(self, model: LanguageModel, learned: bool = True, progress: Progress | None = None) -> tuple[Held, ...]:
        """How well a model knows the facts, form by form."""
        return self.held(o for exam in self.exams(learned) for found in sit(model, [exam], progress) for o in found)

    def held(self, outcomes: Iterable[Outcome], level: float = 0.95) -> tuple[Held, ...]:
        """Outcomes by form, and over the tested forms together, with intervals over facts.

        Args:
            outcomes: such as those of one row of the matrix, `(o for cell in row.outcomes for o in cell)`; not all
                facts and not all forms need to be among them.
            level: of the intervals.

        Raises:
            DataError: if an outcome is of no item of these facts.
        """
        places, scores = self._places(), dict[str, dict[str, dict[str, float]]]()
        for outcome in outcomes:
            if outcome.key not in places:
                raise DataError(f"an outcome of the item {outcome.key} is of none of these facts; give their own.")
            for form, fact in places[outcome.key]:
                scores.setdefault(form, {}).setdefault(fact, {})[outcome.key] = outcome.score
        worst: dict[str, dict[str, float]] = {}
        for form in scores.keys() - set(self.learned):
            for fact, items in scores[form].items():
                worst.setdefault(fact, {}).update(items)
        found = [self._held(form, list(scores[form].values()), fmean, level) for form in FORMS if form in scores]
        return (*found, *([self._held(EVERY, list(worst.values()), min, level)] if worst else ()))

    def stream(self, size: int = 1, name: str = "facts") -> Stream:
        """The facts in turn, some in each experience: learned in one form, tested where they are asked in others.

        The matrix then says what sequential edits do: its diagonal whether each fact was taken up, what lies below
        whether it is still held. An experience has one metric, so that documents are tested only where no tested form
        asks; `ask` tests both.

        Args:
            size: facts in an experience.
            name: of the stream.

        Raises:
            ConfigError: if `size` is below 1.
            DataError: if there is nothing to test facts of an experience by.
        """
        if size < 1:
            raise ConfigError(f"size is {size}; an experience has one fact at least.")
        forms = [form for form in self.forms if form not in TEXTS] or list(self.forms)
        groups = [self.facts[start : start + size] for start in range(0, len(self.facts), size)]
        return Stream(tuple(self._experience(group, forms) for group in groups), name=name)

    def _experience(self, facts: Sequence[Fact], forms: Sequence[Form]) -> Experience:
        name = facts[0].name if len(facts) == 1 else f"{facts[0].name}-to-{facts[-1].name}"
        learned, tested = (_items(facts, some) for some in (self.learned, forms))
        if not learned or not tested:
            raise DataError(f"{name}: no form to {'test' if learned else 'learn'} it in; add one, or leave it out.")
        metric = self.read if forms[0] in TEXTS else self.asked
        return Experience(name, learned, tested, NextToken(), metric)

    def _places(self) -> dict[str, list[tuple[str, str]]]:
        """By an item's key the forms and facts that it belongs to."""
        places: dict[str, list[tuple[str, str]]] = {}
        for form in FORMS:
            for item in self.items(form):
                places.setdefault(item.key, []).append((form, item.metadata["fact"]))
        return places

    def _held(
        self, form: str, facts: Sequence[Mapping[str, float]], of: Callable[[Iterable[float]], float], level: float
    ) -> Held:
        scores = [of(items.values()) for items in facts]
        low, high = mean_interval(scores, level)
        return Held(form, form in self.learned, len(facts), sum(map(len, facts)), fmean(scores), low, high)


def _items(facts: Sequence[Fact], forms: Sequence[Form]) -> tuple[Example, ...]:
    return tuple(item for fact in facts for form in forms for item in fact.items(form))
