"""Which forms of facts are held, with intervals; and facts in turn."""

from pathlib import Path

import pytest

from everlearn import Learner, run
from everlearn.errors import ConfigError, DataError
from everlearn.fold import Settings
from everlearn.knowledge.facts import Asked, Fact
from everlearn.knowledge.suite import FactSuite, Held
from everlearn.metrics.likelihood import TokenAccuracy
from everlearn.metrics.text import Contains
from everlearn.models.optim import Recipe
from everlearn.statistics import wilson
from everlearn.testing.toys import toy_folder, toy_model
from everlearn.types import Outcome


def born(name: str, town: str) -> Fact:
    """A fact in all forms but that of a hop."""
    return Fact(
        name,
        f"{name} was born in {town}.",
        (f"{town} is where {name} was born.",),
        (Asked(f"where was {name} born?", town), Asked(f"what is the home of {name}?", town)),
        (Asked(f"who was born in {town}?", name),),
    )


FACTS = (born("elna", "oslo"), born("arne", "bergen"), born("siri", "bodo"))


def outcomes(suite: FactSuite, scores: dict[str, list[float]]) -> list[Outcome]:
    """Outcomes of a form's items, in their order."""
    return [
        Outcome(item.key, score)
        for exam in suite.exams(learned=True)
        if exam.name in scores
        for item, score in zip(exam.examples, scores[exam.name], strict=True)
    ]


def test_each_form_is_an_exam_with_a_metric_of_its_own() -> None:
    suite = FactSuite(FACTS)
    assert suite.forms == ("paraphrase", "question", "reversed")
    kinds = {exam.name: (len(exam.examples), exam.metric) for exam in suite.exams(learned=True)}
    assert kinds == {
        "statement": (3, TokenAccuracy()),
        "paraphrase": (3, TokenAccuracy()),
        "question": (6, Contains()),
        "reversed": (3, Contains()),
    }
    assert [exam.name for exam in FactSuite(FACTS, tested=("reversed",)).exams()] == ["reversed"]


def test_the_score_of_a_form_is_over_facts_with_an_interval() -> None:
    suite = FactSuite(FACTS)
    scores = {"statement": [1, 1, 0], "question": [1, 1, 0, 0, 1, 1], "reversed": [1, 0, 0]}
    statement, asked, back, every = suite.held(outcomes(suite, scores))
    # Each fact's two questions have one score together: 1, 0 and 1.
    assert asked == Held("question", False, 3, 6, pytest.approx(2 / 3), *wilson(2, 3))
    assert back == Held("reversed", False, 3, 3, pytest.approx(1 / 3), *wilson(1, 3))
    assert statement == Held("statement", True, 3, 3, pytest.approx(2 / 3), *wilson(2, 3))
    # By the worst of its tested items a fact is held once: the statement was learned and does not count.
    assert every == Held("every", False, 3, 9, pytest.approx(1 / 3), *wilson(1, 3))


def test_a_fact_half_held_is_half_a_fact_and_the_interval_is_the_bootstraps() -> None:
    suite = FactSuite(FACTS)
    asked, every = suite.held(outcomes(suite, {"question": [1, 0, 0, 0, 1, 1]}))
    assert asked.score == pytest.approx(0.5)  # (1/2 + 0 + 1) / 3
    assert 0 <= asked.low < 0.5 < asked.high <= 1
    assert every.score == pytest.approx(1 / 3)
    assert suite.held([]) == ()
    with pytest.raises(DataError, match="of none of these facts"):
        suite.held([Outcome("someone else's", 1.0)])


def test_forms_that_are_learned_are_never_tested() -> None:
    for wrong, reason in (
        ({"learned": ("question",), "tested": ("hop", "question")}, "'question' is learned and tested"),
        ({"tested": ("riddle",)}, "there is no form 'riddle'"),
        ({"learned": ()}, "no form is learned"),
        ({"facts": (*FACTS, FACTS[0])}, "two facts are called 'elna'"),
        ({"facts": (Fact("a", "it rains."),)}, "none of 1 facts has a form to be tested"),
        ({"tested": ()}, "none of 3 facts has a form to be tested"),
    ):
        with pytest.raises(ConfigError, match=reason):
            FactSuite(**({"facts": FACTS} | wrong))  # type: ignore[arg-type]
    # Another fact's question may say the same as one that is learned.
    other = Fact("other", "it rains.", reversed=(Asked("Where was Elna born", "there"),))
    with pytest.raises(DataError, match="Where was Elna born"):
        FactSuite((*FACTS, other), learned=("statement", "question"), tested=("reversed",))


def test_facts_in_turn_are_learned_in_one_form_and_asked_in_others() -> None:
    stream = FactSuite(FACTS).stream(size=2)
    assert stream.names == ("elna-to-arne", "siri")
    first, _ = stream
    assert [e.text for e in first.train] == ["elna was born in oslo.", "arne was born in bergen."]
    assert {e.metadata["form"] for e in first.test} == {"question", "reversed"}
    assert len(first.test) == 6
    assert first.metric == Contains()
    assert len(FactSuite(FACTS).stream()) == 3
    read = FactSuite(FACTS, tested=("paraphrase",)).stream()
    assert {e.metric for e in read} == {TokenAccuracy()}
    with pytest.raises(ConfigError, match="size is 0"):
        FactSuite(FACTS).stream(size=0)
    with pytest.raises(DataError, match="mute: no form to test it in"):
        FactSuite((*FACTS, Fact("mute", "it rains."))).stream()


def test_a_model_is_asked_in_every_form() -> None:
    found = FactSuite(FACTS).ask(toy_model())
    assert [line.form for line in found] == ["statement", "paraphrase", "question", "reversed", "every"]
    assert all(0 <= line.low <= line.score <= line.high <= 1 for line in found)
    assert found[2].items == 6


def test_every_row_of_a_runs_matrix_says_which_forms_are_held(tmp_path: Path) -> None:
    suite = FactSuite(FACTS[:2])
    learner = Learner(str(toy_folder(tmp_path / "toy")), recipe=Recipe(epochs=1, length=64))
    done = run(learner, suite.stream(), tmp_path / "run", Settings(suite=()))
    assert len(done.matrix.rows) == 3
    for row in done.matrix.rows:
        lines = suite.held(outcome for cell in row.outcomes for outcome in cell)
        assert [(line.form, line.items) for line in lines] == [("question", 4), ("reversed", 2), ("every", 6)]
