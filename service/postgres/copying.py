"""The copy of a record from its data directory into PostgreSQL, by `gmn store copy`.

One transaction fills all tables, so that a copy that fails or is killed leaves nothing.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

import psycopg

from model.problems import InputProblem
from service.errors import StorageFailed
from service.opening import open_folder
from service.postgres.address import sentence_of
from service.postgres.connection import BEGIN, PostgresConnection, require_server
from service.postgres.database import KEPT_TOKENS, NOTE_TOKEN, create_tables, describe_format
from service.postgres.locks import CREATORS
from service.record.database import GENERATIONS, NEWEST_DELETION
from service.record.deletions import Deletion, read_deletions
from service.record.keys import ASKED_FOR
from service.record.schema import TABLES, Table
from service.record.transaction import Reader, batches
from service.record.vectors import vector_crc

# Each row of a picture may have a megabyte and more.
ROWS_AT_ONCE = 100
# Tables that each engine keeps in a way of its own.
OF_THE_ENGINE = ("record", "deletions", "checksums")
TABLES_THERE = (
    "SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
    "WHERE nspname = current_schema() AND relkind IN ('r', 'p') ORDER BY relname LIMIT 3"
)
VECTOR_FILES = (
    f"SELECT gallery_id, name, generation, dimension FROM {GENERATIONS} "
    "WHERE name IS NOT NULL AND dimension IS NOT NULL"
)
# Every crop has a vector of the searched generation, and may have one of the generation that a
# reindex prepares.
VECTORS = """
SELECT crops.slot, crop_id, checksum FROM crops
JOIN galleries ON galleries.gallery_id = crops.gallery_id
LEFT JOIN checksums ON checksums.gallery_id = crops.gallery_id
    AND checksums.slot = crops.slot AND checksums.generation = :generation
WHERE crops.gallery_id = :gallery_id
    AND (checksum IS NOT NULL OR galleries.generation = :generation)
ORDER BY crops.slot
"""
VECTOR_COLUMNS = ("gallery_id", "slot", "generation", "checksum", "content")
DELETION_COLUMNS = ("kind", "gallery_id", "id", "committed", "noted_at")
CROPS = (
    "SELECT name, (SELECT count(*) FROM crops WHERE crops.gallery_id = galleries.gallery_id) "
    "FROM galleries WHERE name IS NOT NULL ORDER BY name"
)
# The file that an import reads stays in the data directory that received it.
CANCEL_IMPORTS = (
    "UPDATE jobs SET worker = NULL, cancelling = 1, "
    "state = CASE state WHEN 'queued' THEN 'cancelled' ELSE state END "
    "WHERE kind = 'import' AND state IN ('queued', 'running')"
)


@dataclass(frozen=True)
class Copied:
    """The outcome of a copy.

    Attributes:
        crops: numbers of crops by gallery.
        rows: numbers of rows by table.
        vectors: their number, with those that a reindex has prepared.
    """

    crops: dict[str, int]
    rows: dict[str, int]
    vectors: int


def copy_into_postgres(folder: Path, url: str, accepted: Sequence[str] = ()) -> Copied:
    """Copy the record of a data directory into an empty schema of PostgreSQL.

    Args:
        folder: a data directory that no service uses.
        url: as in `PostgresDatabase`.
        accepted: as of `PostgresDatabase`.

    Raises:
        InputProblem: the target is not empty, or a vector is damaged; nothing was copied.
        DamagedRecord: the file of the record is damaged; nothing was copied.
        StorageFailed: PostgreSQL does not answer, or its disk is full; nothing was copied, unless
            the message says otherwise.
    """
    with (
        contextlib.closing(open_folder(folder)) as record,
        record.database.read() as source,
        record.database.naming_errors(),
        _naming_errors(),
        contextlib.closing(_connect(url)) as target,
    ):
        _begin(target, accepted)
        tables = [table for name, table in TABLES.items() if name not in OF_THE_ENGINE]
        rows = {table.name: _copy_table(source, target, table) for table in tables}
        vectors = _copy_vectors(source, target)
        _require_count("vectors", vectors, _count(target, "checksums"))
        _copy_deletions(source, target, read_deletions(record.database.deletions.path))
        _copy_values(source, target)
        target.execute(CANCEL_IMPORTS)
        _commit(target)
        return Copied(dict(source.tuples(CROPS)), rows, vectors)


def _begin(target: PostgresConnection, accepted: Sequence[str]) -> None:
    require_server(target, accepted)
    # A service that starts meanwhile waits for it before it creates tables of its own.
    target.execute(f"SELECT pg_advisory_lock({CREATORS})")
    target.run_script(BEGIN)
    if there := target.fetch_tuples(TABLES_THERE, ()):
        names = ", ".join(name for (name,) in there)
        statement = "SELECT coalesce(current_schema(), 'unknown'), current_database()"
        ((schema, database),) = target.fetch_tuples(statement, ())
        raise InputProblem(
            f"schema {schema} of database {database}: has tables already ({names}); name an empty "
            "database with --into, or a new schema of it by options=-csearch_path=SCHEMA"
        )
    create_tables(target)
    for table in TABLES:
        # The triggers would note each tombstone as a deletion of now; they are back at the end.
        target.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")


def _copy_table(source: Reader, target: PostgresConnection, table: Table) -> int:
    statement = f"SELECT {', '.join(table.columns)} FROM {table.name}"
    for rows in batches(source.database.connection().execute(statement), ROWS_AT_ONCE):
        target.copy_rows(table.name, table.columns, rows)
    count: int = source.value(f"SELECT count(*) FROM {table.name}")
    _require_count(f"rows of {table.name}", count, _count(target, table.name))
    return count


def _copy_vectors(source: Reader, target: PostgresConnection) -> int:
    """Copy the vectors with their checksums; return their number."""
    count = 0
    for gallery_id, name, generation, dimension in source.tuples(VECTOR_FILES):
        file = source.database.vectors.open(gallery_id, generation, dimension)
        values = {"gallery_id": gallery_id, "generation": generation}
        crops = source.database.connection().execute(VECTORS, values)
        for batch in batches(crops, ROWS_AT_ONCE):
            rows = []
            vectors = file.read([slot for slot, _, _ in batch])
            for (slot, crop_id, checksum), vector in zip(batch, vectors, strict=True):
                if vector_crc(crop_id, vector) != checksum:
                    folder = source.database.folder
                    raise InputProblem(
                        f"{folder}: the vector of crop {crop_id} in gallery {name} is damaged; "
                        f"nothing was copied, gmn store verify --data-dir {folder} lists all "
                        "damage; delete damaged crops and enroll them again, or restore a backup"
                    )
                rows.append((gallery_id, slot, generation, checksum, vector.tobytes()))
            target.copy_rows("checksums", VECTOR_COLUMNS, rows)
            count += len(rows)
    return count


def _copy_deletions(
    source: Reader, target: PostgresConnection, deletions: Iterator[Deletion]
) -> None:
    """Note deletions, which each machine that joins takes over into its log."""
    commit = source.newest_commit()
    # A service may have answered without a key again, after its last one was removed.
    asks_for_keys = source.row("record", "WHERE name = ?", (ASKED_FOR,)) is not None
    left_out = ("since",) if asks_for_keys else ("since", "keyless")
    # A crash may have left a line twice.
    noted_at = {
        (deletion.kind, deletion.gallery or 0, deletion.id): deletion.at.astimezone(UTC)
        for deletion in deletions
        if deletion.kind not in left_out
    }
    rows = ((*deleted, commit, moment.isoformat()) for deleted, moment in noted_at.items())
    for batch in batches(rows, ROWS_AT_ONCE):
        target.copy_rows("deletions", DELETION_COLUMNS, batch)


def _copy_values(source: Reader, target: PostgresConnection) -> None:
    """Copy the single values of the record, and give its newest commit a token."""
    values = dict(source.tuples("SELECT name, value FROM record")) | {"format": describe_format()}
    # Each machine numbers the lines of its own log of deletions.
    del values[NEWEST_DELETION]
    target.copy_rows("record", ("name", "value"), values.items())
    target.execute(NOTE_TOKEN, (source.newest_commit() % KEPT_TOKENS, secrets.token_hex(8)))


def _count(target: PostgresConnection, table: str) -> int:
    return int(target.fetch_tuples(f"SELECT count(*) FROM {table}", ())[0][0])


def _require_count(what: str, wanted: int, copied: int) -> None:
    if copied != wanted:
        raise StorageFailed(
            f"the copy has {copied:,} {what} instead of {wanted:,} and was dropped; try again, and "
            "look at the disks"
        )


def _commit(target: PostgresConnection) -> None:
    for table in TABLES:
        target.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
        target.execute(f"ANALYZE {table}")
    try:
        target.commit()
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise StorageFailed(
            f"PostgreSQL went away when the copy was committed ({sentence_of(error)}); try again: "
            "if the copy is there, this is refused as there are tables, and it can be served"
        ) from error


def _connect(url: str) -> PostgresConnection:
    try:
        return PostgresConnection(url)
    except psycopg.ProgrammingError as error:
        raise InputProblem(f"the URL of PostgreSQL: {sentence_of(error)}") from error


@contextlib.contextmanager
def _naming_errors() -> Iterator[None]:
    try:
        yield
    except psycopg.errors.LockNotAvailable as error:
        raise InputProblem(
            "another process is creating a record in this schema; name another one with --into"
        ) from error
    except psycopg.errors.DiskFull as error:
        raise StorageFailed(
            f"the disk of PostgreSQL is full ({sentence_of(error)}); nothing was copied, free "
            "space there"
        ) from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise StorageFailed(
            f"PostgreSQL does not answer ({sentence_of(error)}); nothing was copied, try again "
            "once it does"
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise InputProblem(
            f"PostgreSQL: {sentence_of(error)}; name a database, or a schema, that this user owns"
        ) from error
