import sqlite3
from contextlib import closing
from datetime import datetime, timedelta

import pytest
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from everlearn.errors import ConfigError, RegistryError
from everlearn.registry.ledger import EVENTS, Event, Ledger
from tests.killing import killed_at_random, outcome


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/run/ledger.sqlite")


def sql(ledger: Ledger, statement: str) -> list[tuple]:
    with closing(sqlite3.connect(ledger.url.removeprefix("sqlite:///"))) as connection, connection:
        return connection.execute(statement).fetchall()


def test_a_ledger_that_does_not_exist_is_empty_and_reading_makes_nothing(ledger, tmp_path):
    assert ledger.events() == []
    assert ledger.head() is None
    assert list(tmp_path.iterdir()) == []


def test_events_come_back_as_they_were_added(ledger):
    scores = {"facts": 0.5, "later": None}
    first = ledger.append("commit", "a1", None, "", {}, "the base")
    second = ledger.append("reject", "b2", "a1", "facts", scores, "Forgot «één».")
    assert first == Event(1, first.time, "commit", "a1", None, "", {}, "the base")
    assert second == Event(2, second.time, "reject", "b2", "a1", "facts", scores, "Forgot «één».")
    assert Ledger(ledger.url).events() == [first, second]
    assert datetime.fromisoformat(first.time).utcoffset() == timedelta(0)
    assert first.time <= second.time


def test_events_can_be_asked_for_by_experience_and_kind(ledger):
    for kind, version, experience in [("commit", "a", "x"), ("reject", "b", "y"), ("commit", "c", "y")]:
        ledger.append(kind, version, None, experience, {}, "")
    assert [e.version for e in ledger.events(experience="y")] == ["b", "c"]
    assert [e.version for e in ledger.events(kind="commit")] == ["a", "c"]
    assert [e.version for e in ledger.events(experience="y", kind="commit")] == ["c"]


def test_the_head_is_what_was_last_committed_promoted_or_rolled_back_to(ledger):
    heads = []
    for kind, version in [("commit", "a"), ("commit", "b"), ("reject", "c"), ("promote", "a"), ("commit", "d")]:
        ledger.append(kind, version, None, "", {}, "")
        heads.append(ledger.head())
    assert heads == ["a", "b", "b", "a", "d"]


def test_a_rollback_is_one_more_event(ledger):
    ledger.append("commit", "a", None, "x", {}, "")
    ledger.append("commit", "b", "a", "y", {}, "")
    before = ledger.events()
    event = ledger.rollback("a", "b was worse in use")
    assert (event.kind, event.version, event.parent, event.reason) == ("rollback", "a", "b", "b was worse in use")
    assert ledger.events() == [*before, event]
    assert ledger.head() == "a"


def test_only_a_committed_version_can_be_rolled_back_to_or_promoted(ledger):
    ledger.append("commit", "a", None, "x", {}, "")
    ledger.append("reject", "b", "a", "y", {}, "")
    for version in ("b", "unknown"):
        with pytest.raises(RegistryError, match=rf"rollback to '{version}': it was never committed .* \['a'\]"):
            ledger.rollback(version, "")
        with pytest.raises(RegistryError, match=f"promote to '{version}'"):
            ledger.append("promote", version, None, "", {}, "")
    assert [e.kind for e in ledger.events()] == ["commit", "reject"]


@pytest.mark.parametrize("statement", ["UPDATE everlearn_events SET reason = 'x'", "DELETE FROM everlearn_events"])
def test_the_database_refuses_to_change_or_delete_an_event(ledger, statement):
    event = ledger.append("commit", "a", None, "x", {}, "")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        sql(ledger, statement)
    assert ledger.events() == [event]


def test_the_database_is_in_wal_mode_and_leaves_one_file(ledger, tmp_path):
    ledger.append("commit", "a", None, "x", {}, "")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["ledger.sqlite"]
    assert sql(ledger, "PRAGMA journal_mode") == [("wal",)]


def test_an_unknown_kind_is_refused(ledger):
    with pytest.raises(RegistryError, match="CHECK constraint failed"):
        ledger.append("approve", "a", None, "", {}, "")
    assert ledger.events() == []


@pytest.mark.parametrize("score", [float("nan"), float("inf"), object()])
def test_scores_that_are_not_json_are_refused(ledger, score):
    with pytest.raises(RegistryError, match="are not JSON"):
        ledger.append("commit", "a", None, "", {"x": score}, "")
    assert ledger.events() == []


def test_a_file_that_is_no_database_is_refused(ledger, tmp_path):
    path = tmp_path / "run" / "ledger.sqlite"
    path.parent.mkdir()
    path.write_text("not a database" * 100)
    for use in (ledger.events, ledger.head, lambda: ledger.append("commit", "a", None, "", {}, "")):
        with pytest.raises(RegistryError, match=r"ledger\.sqlite: file is not a database; check that this is a ledger"):
            use()
    assert path.read_text() == "not a database" * 100


@pytest.mark.parametrize("table", ["people (name TEXT)", "everlearn_events (id INTEGER, name TEXT)"])
def test_a_database_of_something_else_is_refused_and_left_alone(ledger, tmp_path, table):
    (tmp_path / "run").mkdir()
    sql(ledger, f"CREATE TABLE {table}")
    before = sql(ledger, "SELECT sql FROM sqlite_master")
    for use in (ledger.events, ledger.head, lambda: ledger.append("commit", "a", None, "", {}, "")):
        with pytest.raises(RegistryError, match=r"ledger\.sqlite is no ledger: it holds the tables"):
            use()
    assert sql(ledger, "SELECT sql FROM sqlite_master") == before


def test_a_ledger_that_lost_its_triggers_gets_them_back(ledger):
    ledger.append("commit", "a", None, "", {}, "")
    sql(ledger, "DROP TRIGGER everlearn_events_no_delete")
    ledger.append("commit", "b", None, "", {}, "")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        sql(ledger, "DELETE FROM everlearn_events")


@pytest.mark.parametrize(
    "url",
    [
        "user:secret@host",
        "unknown://user:secret@host/x",
        "postgresql://u:secret@host:x/y",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_a_url_that_names_no_lasting_database_is_refused_without_its_password(url):
    with pytest.raises(ConfigError, match="write sqlite:///FOLDER") as error:
        Ledger(url).events()
    assert "secret" not in str(error.value)


def test_a_missing_driver_is_a_config_error():
    with pytest.raises(ConfigError, match="install the driver"):
        Ledger("mysql+cymysql://nowhere/x").events()


def test_the_table_can_be_said_in_postgresql():
    text = str(CreateTable(EVENTS).compile(dialect=postgresql.dialect()))
    assert "id SERIAL NOT NULL" in text
    assert "scores JSON NOT NULL" in text


TWO = """
import subprocess, sys
adding = '''
import sys
from everlearn.registry.ledger import Ledger
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    Ledger(sys.argv[1]).append("commit", sys.argv[2] + str(number), None, "x", {"x": 0.5}, "")
'''
start = [sys.executable, "-W", "error", "-c", adding, sys.argv[1]]
both = [subprocess.Popen([*start, who], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for who in "ab"]
for process in both:
    process.stdout.readline()
for process in both:
    process.communicate(b"go", timeout=60)
print([process.returncode for process in both])
"""


def test_two_processes_can_make_and_fill_one_ledger(ledger):
    assert outcome(TWO, ledger.url) == "[0, 0]"
    events = ledger.events()
    assert sorted(e.version for e in events) == sorted(who + str(i) for who in "ab" for i in range(20))
    assert [e.version for e in events if e.version[0] == "a"] == [f"a{i}" for i in range(20)]
    assert [e.id for e in events] == list(range(1, 41))


APPENDING = """
import sys
from everlearn.registry.ledger import Ledger
print("ready", flush=True)
number = len(Ledger(sys.argv[1]).events())
while True:
    number += 1
    Ledger(sys.argv[1]).append("commit", str(number), str(number - 1), "x" * 50_000, {"x": 0.5}, "")
"""


def test_a_reader_finds_whole_events_whenever_their_writer_is_killed(ledger):
    counts = [0]

    def look():
        events = ledger.events()
        assert [e.version for e in events] == [str(number + 1) for number in range(len(events))]
        assert all(len(e.experience) == 50_000 for e in events)
        assert len(events) >= counts[-1]
        counts.append(len(events))

    killed_at_random(APPENDING, look, ledger.url, seeds=range(4))
    assert counts[-1] > 4
    assert ledger.rollback("1", "to see that it can be written").parent == str(counts[-1])
