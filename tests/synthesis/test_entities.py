"""Statements by entity, and clusters of entities."""

from pathlib import Path

from everlearn.examples import Example
from everlearn.synthesis.answers import Answers
from everlearn.synthesis.entities import EntityMemory, Statement, remember
from everlearn.testing.toys import question
from tests.synthesis.scripted import DOCUMENTS, scripted


def test_documents_become_statements_by_entity_with_their_source(tmp_path: Path) -> None:
    answers = Answers(scripted, tmp_path, "m")
    memory = remember([*DOCUMENTS, question("a", "b")], answers)
    assert memory.statements == {
        "Elna Varg": (Statement("Elna Varg was born in Oslo.", "1912", "notes:1"),),
        "oslo": (Statement("The Fram Museum stands in Oslo.", "", "notes:1"),),
        "Fram Museum": (Statement("The Fram Museum opened in 1936.", "1936", "notes:2"),),
    }
    counts = answers.counts["statements"]
    assert (counts["conversations"], counts["broken"], counts["repeated"], counts["kept"]) == (1, 1, 1, 3)


def test_rows_that_are_no_statements_are_counted(tmp_path: Path) -> None:
    answers = Answers(lambda messages: '[1, {"entity": 2, "statement": "x"}, {"entity": "x"}]', tmp_path, "m")
    assert remember([Example(text="x")], answers).statements == {}
    assert answers.counts["statements"]["broken"] == 3
    silent = Answers(lambda messages: "I would rather not.", tmp_path, "silent")
    assert remember([Example(text="x")], silent).statements == {}
    assert silent.counts["statements"]["unread"] == 1


def test_a_cluster_is_an_entity_with_some_that_share_its_sources() -> None:
    one, two, three, four = (Statement(f"{n}.", source=s) for n, s in (("1", "s"), ("2", "s"), ("3", "s"), ("4", "t")))
    memory = EntityMemory({"a": (one,), "b": (two, four), "c": (three,), "d": (Statement("5.", source="u"),)})
    found = {cluster.entities[0]: cluster for cluster in memory.clusters(2, 2, seed=1)}
    assert found["a"].entities[1] in "bc"
    assert found["b"].statements == (two, four)  # its own come first, and there is room for two
    assert found["b"].sources == ["s", "t"]
    assert found["d"].entities == ("d",)
    assert list(memory.clusters(2, 2, seed=1)) == list(found.values())
    drawn = {next(memory.clusters(2, 2, seed)).entities[1] for seed in range(20)}
    assert drawn == {"b", "c"}
    assert Statement("It opened.", "1936").line == "- It opened. (1936)"
