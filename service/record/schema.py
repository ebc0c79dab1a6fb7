"""The tables of the record and of each slice, and conversions of the values in their columns."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

FORMAT = 2
# Digests of the tables of the former formats, which the first start turns into those of this one.
FORMER = {1: "69747643aca9f754"}
SERVICE = Path(__file__).parents[1]
# Row counts told to SQLite's planner: of a table, of a gallery, and of equal values in a gallery.
ROWS = 1_000_000
ROWS_OF_GALLERY = 100_000
ROWS_ALIKE = 10
NUMBER = re.compile(r"0*([0-9]+)")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class StoredRow(Protocol):
    """A row as it is stored: values by position, or by the column's name."""

    def __getitem__(self, key: Any, /) -> Any: ...

    def keys(self) -> Iterable[str]: ...


@dataclass(frozen=True)
class Table:
    """A table of the record.

    Attributes:
        columns: names of the columns.
        key: those of the primary key.
        is_of_galleries: whether its rows are deleted with their gallery.
    """

    name: str
    columns: list[str]
    key: list[str]
    is_of_galleries: bool

    @cached_property
    def selection(self) -> str:
        return ", ".join(f"{self.name}.{column}" for column in self.columns)


def as_micros(moment: datetime) -> int:
    """Return a time as microseconds since 1970, UTC, as stored in the tables."""
    return (moment - EPOCH) // MICROSECOND


# Statements take times as values.
sqlite3.register_adapter(datetime, as_micros)


def as_moment(micros: int) -> datetime:
    return EPOCH + micros * MICROSECOND


def natural_order(name: str) -> str:
    """Return a sort key for names: case-insensitive, with numbers in numeric order."""
    return NUMBER.sub(lambda match: f"{len(match[1]):03}{match[1]}", name.casefold())


def now_micros() -> int:
    return as_micros(datetime.now(UTC))


def schema_files() -> list[Path]:
    """Return the `schema.sql` of the record, and after it that of each other folder of the service.

    The tables of a slice refer to those of the record, and never the other way round.
    """
    own = Path(__file__).with_name("schema.sql")
    return [own, *sorted(set(SERVICE.glob("*/schema.sql")) - {own})]


def schema_statements() -> Iterator[str]:
    """Yield the statements that create all tables, without the comments before them."""
    for path in schema_files():
        yield from _statements_of(path.read_text(encoding="utf-8"))


def changing_statements(former: int) -> Iterator[str]:
    """Yield the statements that turn the tables of a former format into those of this one.

    The file `from_N.sql` beside a `schema.sql` leads from format N to the next one.
    """
    for number in range(former, FORMAT):
        for schema in schema_files():
            path = schema.with_name(f"from_{number}.sql")
            if path.exists():
                yield from _statements_of(path.read_text(encoding="utf-8"))


def _statements_of(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        if not statement and (line.startswith("--") or not line.strip()):
            continue
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement.rstrip().removesuffix(";")
            statement = ""


def create_tables(connection: sqlite3.Connection) -> None:
    """Create all tables of a new record, in the open transaction."""
    # `executescript` would commit that transaction first.
    for statement in schema_statements():
        connection.execute(statement)
    describe_sizes(connection)
    connection.execute(f"PRAGMA user_version = {FORMAT}")


def describe_sizes(connection: sqlite3.Connection) -> None:
    """Tell SQLite's planner in advance that galleries are large.

    Otherwise it would scan a whole gallery rather than use an index.
    """
    # ANALYZE creates the table that is filled here, and reads it.
    connection.execute("ANALYZE sqlite_schema")
    connection.execute("DELETE FROM sqlite_stat1")
    for _, table, kind, _, without_rowid, _ in connection.execute("PRAGMA table_list").fetchall():
        if kind != "table" or table.startswith("sqlite_"):
            continue
        indexes = connection.execute(f"PRAGMA index_list({table})").fetchall()
        for _, index, is_unique, origin, _ in indexes:
            columns = connection.execute(f"PRAGMA index_info({index})").fetchall()
            equal_rows = [ROWS_ALIKE] * len(columns)
            if columns[0][2] == "gallery_id":
                equal_rows[0] = ROWS_OF_GALLERY
            if is_unique:
                equal_rows[-1] = 1
            # The primary key of a WITHOUT ROWID table is listed under the table's name.
            name = table if without_rowid and origin == "pk" else index
            sizes = " ".join(str(number) for number in (ROWS, *equal_rows))
            connection.execute("INSERT INTO sqlite_stat1 VALUES (?, ?, ?)", (table, name, sizes))
    connection.execute("ANALYZE sqlite_schema")


def read_schema(connection: sqlite3.Connection) -> list[tuple[str, ...]]:
    """Return the tables, indexes and triggers of a database, each as SQL on one line.

    A changed table has the text of a new one, with other white space.
    """
    statement = (
        "SELECT type, name, tbl_name, sql FROM sqlite_master "
        "WHERE name NOT LIKE 'sqlite_stat%' ORDER BY type, name"
    )
    rows = connection.execute(statement).fetchall()
    return [(*names, sql and " ".join(sql.split())) for *names, sql in rows]


def digest_of(schema: Sequence[Sequence[str]]) -> str:
    return hashlib.sha256(json.dumps(schema).encode()).hexdigest()[:16]


def index_names(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'index' ORDER BY name")
    return [name for (name,) in rows]


def _create_in_memory() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    for statement in schema_statements():
        connection.execute(statement)
    return connection


@functools.cache
def schema_of_format() -> list[tuple[str, ...]]:
    with contextlib.closing(_create_in_memory()) as connection:
        return read_schema(connection)


def _read_tables() -> dict[str, Table]:
    names = (
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' "
        "ORDER BY rowid"
    )
    columns = "SELECT name FROM pragma_table_info(?)"
    key = "SELECT name FROM pragma_table_info(?) WHERE pk ORDER BY pk"
    deleted_with = "SELECT \"table\" FROM pragma_foreign_key_list(?) WHERE on_delete = 'CASCADE'"
    with contextlib.closing(_create_in_memory()) as connection:

        def read(statement: str, table: str) -> list[str]:
            return [name for (name,) in connection.execute(statement, (table,))]

        return {
            table: Table(
                table,
                read(columns, table),
                read(key, table),
                "galleries" in read(deleted_with, table),
            )
            for (table,) in connection.execute(names).fetchall()
        }


TABLES = _read_tables()
