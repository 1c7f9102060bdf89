"""The ledger: what happened to each version, in order; events are added and never changed.

SQLAlchemy Core, so that the same ledger is a file on one machine (SQLite) or a table for a team (PostgreSQL, by URL).
A connection lives as long as one call: a ledger needs no closing, and processes do not wait for each other's idle ones.
In SQLite the database itself refuses to change or delete an event.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Column,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    insert,
    inspect,
    select,
)
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateTable

from everlearn.errors import ConfigError, RegistryError

Kind = Literal["commit", "reject", "promote", "rollback"]
Scores = Mapping[str, float | None]

HEADS = ("commit", "promote", "rollback")
"""The kinds of event after which the head is their version."""

EVENTS = Table(
    "everlearn_events",
    MetaData(),
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("time", String(40), nullable=False),
    Column("kind", String(16), CheckConstraint(f"kind IN {get_args(Kind)}"), nullable=False),
    Column("version", String(64), nullable=False),
    Column("parent", String(64)),
    Column("experience", Text, nullable=False),
    Column("scores", JSON, nullable=False),
    Column("reason", Text, nullable=False),
    sqlite_autoincrement=True,  # an id is never used twice
)
EXAMPLES = "sqlite:///FOLDER/ledger.sqlite or postgresql+psycopg://USER@HOST/DATABASE"
WAIT = 30.0
"""Seconds to wait for another process that is writing."""


@dataclass(frozen=True)
class Event:
    """One thing that happened to a version.

    Args:
        id: place in the ledger, ascending.
        time: when, in UTC, as ISO 8601.
        kind: "commit" and "reject" are a gate's verdicts; "promote" and "rollback" choose a committed version.
        version: whose event it is.
        parent: the version it was learned from, or that was the head before; None for the first.
        experience: what was learned; empty where nothing was.
        scores: by experience or ability, in [0, 1]; None where it was not measured.
        reason: one sentence.
    """

    id: int
    time: str
    kind: Kind
    version: str
    parent: str | None
    experience: str
    scores: Scores
    reason: str


@dataclass(frozen=True)
class Ledger:
    """An append-only list of events; safe with several processes at once.

    Reading a ledger that does not exist yet finds no events, and makes nothing.

    Args:
        url: SQLAlchemy's, such as "sqlite:///runs/x/ledger.sqlite" or "postgresql+psycopg://host/team".
    """

    url: str

    def append(
        self, kind: Kind, version: str, parent: str | None, experience: str, scores: Scores, reason: str
    ) -> Event:
        """Add an event in one transaction and return it with its id and time; the arguments are `Event`'s.

        Raises:
            RegistryError: if a version is promoted or rolled back to that was never committed, if the scores are not
                JSON, or if this is no ledger or cannot be written.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        event = Event(0, now, kind, version, parent, experience, _plain(scores), reason)
        values = {name: value for name, value in asdict(event).items() if name != "id"}
        with self._connected(write=True) as connection:
            if kind in ("promote", "rollback"):
                _require_committed(connection, kind, version)
            key = connection.execute(insert(EVENTS).values(values)).inserted_primary_key
            connection.commit()
        assert key is not None, "a table with a primary key gives the new row's"
        return replace(event, id=key[0])

    def rollback(self, to: str, reason: str) -> Event:
        """Make a version that was committed the head again; nothing is deleted.

        Raises:
            RegistryError: if that version was never committed here.
        """
        return self.append("rollback", to, self.head(), "", {}, reason)

    def events(self, experience: str | None = None, kind: Kind | None = None) -> list[Event]:
        """All events in order, or those of one experience, of one kind, or both.

        Raises:
            RegistryError: if this is no ledger, or it cannot be read.
        """
        query = select(EVENTS).order_by(EVENTS.c.id)
        if experience is not None:
            query = query.where(EVENTS.c.experience == experience)
        if kind is not None:
            query = query.where(EVENTS.c.kind == kind)
        with self._connected() as connection:
            rows = connection.execute(query).all() if _is_ledger(connection) else []
            return [Event(*row) for row in rows]

    def head(self) -> str | None:
        """The version of the last commit, promotion or rollback; None before the first.

        Raises:
            RegistryError: if this is no ledger, or it cannot be read.
        """
        query = select(EVENTS.c.version).where(EVENTS.c.kind.in_(HEADS)).order_by(EVENTS.c.id.desc()).limit(1)
        with self._connected() as connection:
            return connection.execute(query).scalar() if _is_ledger(connection) else None

    @contextmanager
    def _connected(self, write: bool = False) -> Iterator[Connection]:
        url = _url(self.url)
        file = Path(url.database or "") if url.get_backend_name() == "sqlite" else None
        if file and write:
            file.parent.mkdir(parents=True, exist_ok=True)
        if file and not write and not file.exists():
            url = make_url("sqlite://")  # an empty database in memory: connecting to the file would make it
        try:
            engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": WAIT} if file else {})
        except ImportError as error:
            raise ConfigError(
                f"{url}: {error}; install the driver, PostgreSQL's by: pip install 'everlearn[postgres]'"
            ) from error
        try:
            with engine.connect() as connection:
                if write:
                    _prepare(connection)
                yield connection
        except DBAPIError as error:
            raise RegistryError(
                f"{url}: {error.orig}; check that this is a ledger, that it can be written, and that nobody holds it."
            ) from error


def _url(text: str) -> URL:
    try:
        url = make_url(text)
        url.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:  # the text is not repeated: it may hold a password
        raise ConfigError(f"the ledger's URL is not understood: {error}; write {EXAMPLES}.") from error
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise ConfigError(f"{url} is in memory and keeps nothing; write {EXAMPLES}.")
    return url


def _is_ledger(connection: Connection) -> bool:
    """Whether there are events to read.

    Raises:
        RegistryError: if the database belongs to something else.
    """
    inspector = inspect(connection)
    tables = inspector.get_table_names()
    if EVENTS.name in tables:
        if {column["name"] for column in inspector.get_columns(EVENTS.name)} == set(EVENTS.c.keys()):
            return True
    elif not tables or connection.dialect.name != "sqlite":
        return False
    raise RegistryError(f"{connection.engine.url} is no ledger: it holds the tables {tables}; name another file.")


def _prepare(connection: Connection) -> None:
    """Make the table where it is missing; each statement can be repeated, also by another process at the same time."""
    sqlite = connection.dialect.name == "sqlite"
    _is_ledger(connection)
    if sqlite:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    connection.execute(CreateTable(EVENTS, if_not_exists=True))
    for change in ("UPDATE", "DELETE") if sqlite else ():
        connection.exec_driver_sql(
            f"CREATE TRIGGER IF NOT EXISTS {EVENTS.name}_no_{change.lower()} BEFORE {change} ON {EVENTS.name} "
            "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: add an event instead'); END"
        )
    connection.commit()


def _plain(scores: Scores) -> dict[str, float | None]:
    try:
        json.dumps(dict(scores), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RegistryError(
            f"scores {dict(scores)} are not JSON: {error}; give numbers, None where unmeasured."
        ) from error
    return dict(scores)


def _require_committed(connection: Connection, kind: Kind, version: str) -> None:
    commits = select(EVENTS.c.version).where(EVENTS.c.kind == "commit")
    if connection.execute(commits.where(EVENTS.c.version == version).limit(1)).first() is None:
        known = list(connection.execute(commits.order_by(EVENTS.c.id.desc()).limit(5)).scalars())
        raise RegistryError(
            f"{kind} to {version!r}: it was never committed here; name a committed version, such as {known}."
        )
