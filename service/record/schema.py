"""The tables of the record, and conversions of the values in their columns.

Every row has a checksum, which reveals damage in the file.
"""

from __future__ import annotations

import contextlib
import functools
import re
import sqlite3
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, overload

FORMAT = 11
# Earliest format that differs only by tables, which are added or dropped when the record is opened.
EARLIEST_FORMAT = 8
OBSOLETE_TABLES = (
    "incoming_tracks",
    "incoming",
    "restores",
    "collections",
    "unneeded_collections",
)
# Row counts told to SQLite's planner: of a table, of a gallery, and of equal values in a gallery.
ROWS = 1_000_000
ROWS_OF_GALLERY = 100_000
ROWS_ALIKE = 10
NUMBER = re.compile(r"0*([0-9]+)")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
CONSTRAINT = re.compile(r"(PRIMARY|UNIQUE|FOREIGN|CHECK)\b")


@dataclass(frozen=True)
class Table:
    """A table of the record.

    Attributes:
        definition: columns and constraints as in `CREATE TABLE`, one a line.
        indexes: columns of each further index, with the condition of a partial index.
        rowid: keep SQLite's own row numbers, which suits rows with large contents.
    """

    name: str
    definition: str
    indexes: tuple[str, ...] = ()
    rowid: bool = False

    @cached_property
    def columns(self) -> list[str]:
        lines = [line.strip() for line in self.definition.splitlines()]
        return [line.split()[0] for line in lines if line and not CONSTRAINT.match(line)]

    @cached_property
    def checked(self) -> str:
        names = ", ".join(f"{self.name}.{column}" for column in self.columns)
        return f"{names}, {self.is_intact} AS intact"

    @cached_property
    def is_intact(self) -> str:
        names = ", ".join(f"{self.name}.{column}" for column in self.columns)
        return f"{self.name}.crc = row_crc({names})"

    def values(self, row: sqlite3.Row) -> dict[str, Any]:
        return {column: row[column] for column in self.columns}

    def create(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"CREATE TABLE {self._body}")
        for number, index in enumerate(self.indexes):
            name = f"{self.name}_{number}"
            connection.execute(f"CREATE INDEX {name} ON {self.name} {index}")

    def create_stand_in(self, connection: sqlite3.Connection) -> None:
        """Create an empty temporary table on a connection whose record lacks the table."""
        connection.execute(f"CREATE TEMP TABLE {self._body}")

    @property
    def _body(self) -> str:
        columns = ", ".join(self.columns)
        checksum = f"crc INTEGER GENERATED ALWAYS AS (row_crc({columns})) STORED"
        lines = [line.strip().rstrip(",") for line in self.definition.splitlines()]
        constraints = [line for line in lines if CONSTRAINT.match(line)]
        column_lines = [line for line in lines if line and not CONSTRAINT.match(line)]
        body = ", ".join([*column_lines, checksum, *constraints])
        suffix = "" if self.rowid else " WITHOUT ROWID"
        return f"{self.name} ({body}){suffix}"


def row_crc(*values: object) -> int:
    # SQLite calls this function for the generated columns `crc`.
    # Hash bytes first: the repr of a picture would be several times as long.
    hashed = [zlib.crc32(value) if isinstance(value, bytes) else value for value in values]
    return zlib.crc32(repr(hashed).encode("utf-8", "surrogatepass"))


@overload
def as_micros(moment: datetime) -> int: ...


@overload
def as_micros(moment: None) -> None: ...


def as_micros(moment: datetime | None) -> int | None:
    """Return a time as microseconds since 1970, UTC, as stored in the tables."""
    return None if moment is None else (moment - EPOCH) // MICROSECOND


@overload
def as_moment(micros: int) -> datetime: ...


@overload
def as_moment(micros: None) -> None: ...


def as_moment(micros: int | None) -> datetime | None:
    return None if micros is None else EPOCH + micros * MICROSECOND


def natural_order(name: str) -> str:
    """Return a sort key for names: case-insensitive, with numbers in numeric order."""
    return NUMBER.sub(lambda match: f"{len(match[1]):03}{match[1]}", name.casefold())


def now_micros() -> int:
    return as_micros(datetime.now(UTC))


def create_tables(connection: sqlite3.Connection) -> None:
    """Create missing tables and drop obsolete ones, which brings the record to this format."""
    for name in OBSOLETE_TABLES:
        connection.execute(f"DROP TABLE IF EXISTS {name}")
    missing = missing_tables(connection)
    for table in missing:
        table.create(connection)
    if len(missing) == len(TABLES):
        # ANALYZE creates the table that `_describe_sizes` fills.
        connection.execute("ANALYZE")
    _describe_sizes(connection, missing)
    connection.execute(f"PRAGMA user_version = {FORMAT}")


def missing_tables(connection: sqlite3.Connection) -> list[Table]:
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    names = {name for (name,) in rows}
    return [table for table in TABLES if table.name not in names]


def _describe_sizes(connection: sqlite3.Connection, tables: Iterable[Table]) -> None:
    """Tell SQLite's planner in advance that galleries are large.

    Otherwise it would scan a whole gallery rather than use an index.
    """
    for table in tables:
        indexes = connection.execute(f"PRAGMA index_list({table.name})").fetchall()
        for _, index, is_unique, origin, _ in indexes:
            columns = connection.execute(f"PRAGMA index_info({index})").fetchall()
            equal_rows = [ROWS_ALIKE] * len(columns)
            if columns[0]["name"] == "gallery_id":
                equal_rows[0] = ROWS_OF_GALLERY
            if is_unique:
                equal_rows[-1] = 1
            # The primary key of a WITHOUT ROWID table is listed under the table's name.
            name = index if table.rowid or origin != "pk" else table.name
            sizes = " ".join(str(number) for number in (ROWS, *equal_rows))
            row = (table.name, name, sizes)
            connection.execute("INSERT INTO sqlite_stat1 VALUES (?, ?, ?)", row)
    connection.execute("ANALYZE sqlite_schema")


OF_GALLERY = "REFERENCES galleries ON DELETE CASCADE"
OF_CROP = "FOREIGN KEY (gallery_id, slot) REFERENCES crops ON DELETE CASCADE"

# Single values: `record_id`, `group_secret`, `next_gallery`, `keys_asked_for`, `newest_alert`, and
# `commit`, the sequence number and id of the last commit.
RECORD = Table(
    "record",
    """
    name TEXT PRIMARY KEY,
    value NOT NULL
    """,
)
# Number of changes in each gallery; gallery 0 is for jobs, keys and the list of galleries.
FEEDS = Table(
    "feeds",
    """
    gallery_id INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL,
    token BLOB NOT NULL
    """,
)
CHANGES = Table(
    "changes",
    """
    gallery_id INTEGER NOT NULL REFERENCES feeds ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    token BLOB NOT NULL,
    kind TEXT NOT NULL,
    version INTEGER NOT NULL,
    slots TEXT NOT NULL,
    PRIMARY KEY (gallery_id, seq)
    """,
)
# A gallery without a name is being deleted. `side` identifies the searched vectors; `restores`
# counts how often the crops were replaced.
GALLERIES = Table(
    "galleries",
    """
    gallery_id INTEGER PRIMARY KEY,
    name TEXT UNIQUE,
    embedder TEXT NOT NULL,
    settings TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    version INTEGER NOT NULL,
    next_slot INTEGER NOT NULL,
    next_side INTEGER NOT NULL,
    side INTEGER NOT NULL,
    dimension INTEGER,
    staged_embedder TEXT,
    staged_side INTEGER,
    staged_dimension INTEGER,
    staged_slot INTEGER NOT NULL,
    staged_crops INTEGER NOT NULL,
    crops INTEGER NOT NULL,
    people INTEGER NOT NULL,
    unnamed INTEGER NOT NULL,
    image_bytes INTEGER NOT NULL,
    removals INTEGER NOT NULL,
    restores INTEGER NOT NULL
    """,
)
# `sort_key` is the name in natural order: numbers in names sort numerically.
PEOPLE = Table(
    "people",
    f"""
    person_id INTEGER PRIMARY KEY,
    gallery_id INTEGER NOT NULL {OF_GALLERY},
    name TEXT NOT NULL,
    sort_key TEXT NOT NULL,
    UNIQUE (gallery_id, name)
    """,
    indexes=("(gallery_id, sort_key, name)",),
)
# `seen_at` is the time of capture, or of enrollment if that is unknown. Times are microseconds
# since 1970, UTC. `inside` is 1 if the picture is stored in the table `pictures`.
CROPS = Table(
    "crops",
    f"""
    gallery_id INTEGER NOT NULL {OF_GALLERY},
    slot INTEGER NOT NULL,
    crop_id TEXT NOT NULL,
    person_id INTEGER REFERENCES people,
    camera TEXT,
    captured_at INTEGER,
    seen_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    external_id TEXT,
    sha256 BLOB,
    content_type TEXT,
    image_bytes INTEGER NOT NULL,
    inside INTEGER NOT NULL,
    quality REAL,
    metadata TEXT,
    PRIMARY KEY (gallery_id, slot),
    UNIQUE (gallery_id, crop_id)
    """,
    indexes=(
        "(gallery_id, sha256)",
        "(person_id, gallery_id, slot)",
        "(gallery_id, camera, slot)",
        "(gallery_id, seen_at, slot)",
        "(gallery_id, created_at, slot)",
        "(gallery_id, external_id, slot) WHERE external_id IS NOT NULL",
    ),
)
# Tracks of the crops that have one. A track is a tracker's frames of one person in one camera.
TRACKS = Table(
    "tracks",
    f"""
    gallery_id INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    track TEXT NOT NULL,
    PRIMARY KEY (gallery_id, slot),
    {OF_CROP}
    """,
    indexes=("(gallery_id, track, slot)",),
)
# Checksum of each vector and its crop's id. A slot has several while vectors of another embedder
# are prepared, one for each side.
CHECKSUMS = Table(
    "checksums",
    f"""
    gallery_id INTEGER NOT NULL {OF_GALLERY},
    slot INTEGER NOT NULL,
    side INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (gallery_id, slot, side)
    """,
)
PICTURES = Table(
    "pictures",
    f"""
    gallery_id INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (gallery_id, slot),
    {OF_CROP}
    """,
    rowid=True,
)
# Crops removed for good, which no archive may bring back.
TOMBSTONES = Table(
    "tombstones",
    f"""
    gallery_id INTEGER NOT NULL {OF_GALLERY},
    crop_id TEXT NOT NULL,
    removed_at INTEGER NOT NULL,
    PRIMARY KEY (gallery_id, crop_id)
    """,
    indexes=("(gallery_id, removed_at)",),
)
# Answers of processed requests, kept for a day so that repeated requests change nothing.
REQUESTS = Table(
    "requests",
    f"""
    gallery_id INTEGER NOT NULL {OF_GALLERY},
    key TEXT NOT NULL,
    digest TEXT NOT NULL,
    answer TEXT NOT NULL,
    happened_at INTEGER NOT NULL,
    PRIMARY KEY (gallery_id, key)
    """,
    indexes=("(happened_at)",),
)
# `into_person` received the crops of `identity`.
MERGES = Table(
    "merges",
    f"""
    merge_id TEXT PRIMARY KEY,
    gallery_id INTEGER NOT NULL {OF_GALLERY},
    identity TEXT NOT NULL,
    into_person INTEGER NOT NULL REFERENCES people ON DELETE CASCADE,
    crops INTEGER NOT NULL,
    version INTEGER NOT NULL,
    merged_at INTEGER NOT NULL
    """,
    indexes=("(gallery_id, version)", "(into_person)"),
)
MERGED_CROPS = Table(
    "merged_crops",
    """
    merge_id TEXT NOT NULL REFERENCES merges ON DELETE CASCADE,
    crop_id TEXT NOT NULL,
    PRIMARY KEY (merge_id, crop_id)
    """,
)
# The latest grouping of a gallery's unnamed crops.
GROUPS = Table(
    "groups",
    f"""
    gallery_id INTEGER PRIMARY KEY {OF_GALLERY},
    grouping TEXT NOT NULL
    """,
)
SEARCHES = Table(
    "searches",
    f"""
    query_id TEXT PRIMARY KEY,
    gallery_id INTEGER NOT NULL {OF_GALLERY},
    key_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    request TEXT NOT NULL,
    answer TEXT NOT NULL,
    results TEXT NOT NULL,
    crop_id TEXT,
    content_type TEXT
    """,
    indexes=("(gallery_id, query_id)", "(gallery_id, key_id, query_id)"),
    rowid=True,
)
SEARCH_PICTURES = Table(
    "search_pictures",
    """
    query_id TEXT PRIMARY KEY REFERENCES searches ON DELETE CASCADE,
    content BLOB NOT NULL
    """,
    rowid=True,
)
# Crops shown by a kept search, which is deleted when any of their people is forgotten.
SHOWN = Table(
    "shown",
    """
    query_id TEXT NOT NULL REFERENCES searches ON DELETE CASCADE,
    crop_id TEXT NOT NULL,
    PRIMARY KEY (query_id, crop_id)
    """,
    indexes=("(crop_id)",),
)
REVIEWS = Table(
    "reviews",
    """
    query_id TEXT NOT NULL REFERENCES searches ON DELETE CASCADE,
    crop_id TEXT NOT NULL,
    decision TEXT NOT NULL,
    key_id TEXT NOT NULL,
    reviewed_at INTEGER NOT NULL,
    PRIMARY KEY (query_id, crop_id)
    """,
)
CASES = Table(
    "cases",
    f"""
    case_id TEXT PRIMARY KEY,
    gallery_id INTEGER NOT NULL {OF_GALLERY},
    name TEXT NOT NULL,
    notes TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    key_id TEXT NOT NULL
    """,
    indexes=("(gallery_id, case_id)",),
)
CASE_SEARCHES = Table(
    "case_searches",
    """
    case_id TEXT NOT NULL REFERENCES cases ON DELETE CASCADE,
    query_id TEXT NOT NULL REFERENCES searches ON DELETE CASCADE,
    added_at INTEGER NOT NULL,
    note TEXT NOT NULL,
    PRIMARY KEY (case_id, query_id)
    """,
    indexes=("(query_id)",),
)
# Number of searches of a case deleted on a day, with a person or because of their age.
CASE_DELETIONS = Table(
    "case_deletions",
    """
    case_id TEXT NOT NULL REFERENCES cases ON DELETE CASCADE,
    day TEXT NOT NULL,
    searches INTEGER NOT NULL,
    PRIMARY KEY (case_id, day)
    """,
)
JOBS = Table(
    "jobs",
    f"""
    job_id TEXT PRIMARY KEY,
    gallery_id INTEGER NOT NULL {OF_GALLERY},
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    key_id TEXT,
    parameters TEXT NOT NULL,
    progress TEXT NOT NULL,
    problems INTEGER NOT NULL,
    cancelling INTEGER NOT NULL,
    detail TEXT,
    worker TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
    """,
    indexes=("(gallery_id, created_at, job_id)", "(created_at, job_id)", "(state)"),
)
JOB_PROBLEMS = Table(
    "job_problems",
    """
    job_id TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    number INTEGER NOT NULL,
    problem TEXT NOT NULL,
    PRIMARY KEY (job_id, number)
    """,
)
# Calibrations of a gallery, and the searches that they were fitted to, numbered by `number`.
CALIBRATIONS = Table(
    "calibrations",
    f"""
    gallery_id INTEGER NOT NULL {OF_GALLERY},
    subject TEXT NOT NULL,
    version INTEGER NOT NULL,
    body TEXT,
    searches INTEGER NOT NULL,
    PRIMARY KEY (gallery_id, subject)
    """,
)
CALIBRATION_SEARCHES = Table(
    "calibration_searches",
    f"""
    gallery_id INTEGER NOT NULL {OF_GALLERY},
    subject TEXT NOT NULL,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (gallery_id, subject, number),
    UNIQUE (gallery_id, subject, name)
    """,
)
RUNTIMES = Table(
    "runtimes",
    """
    embedder TEXT PRIMARY KEY,
    choice TEXT NOT NULL
    """,
)
API_KEYS = Table(
    "api_keys",
    """
    key_id TEXT PRIMARY KEY,
    gallery TEXT,
    body TEXT NOT NULL,
    used_at INTEGER
    """,
)
SNAPSHOTS = Table(
    "snapshots",
    f"""
    gallery_id INTEGER NOT NULL {OF_GALLERY},
    snapshot_id TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (gallery_id, snapshot_id)
    """,
)
# Files of the data directory that nothing refers to.
UNNEEDED_FILES = Table(
    "unneeded_files",
    """
    path TEXT PRIMARY KEY
    """,
)
# Pictures outside the record whose crops do not exist, or not yet; deleted after a grace period.
STRAY_PICTURES = Table(
    "stray_pictures",
    """
    gallery_id INTEGER NOT NULL,
    name TEXT NOT NULL,
    until INTEGER NOT NULL,
    PRIMARY KEY (gallery_id, name)
    """,
    indexes=("(until)",),
)
# State of each gallery's collection in Milvus.
COLLECTIONS = Table(
    "remote_indexes",
    f"""
    gallery_id INTEGER PRIMARY KEY {OF_GALLERY},
    collection TEXT NOT NULL,
    at INTEGER NOT NULL,
    side INTEGER NOT NULL,
    embedder TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    token BLOB NOT NULL,
    version INTEGER NOT NULL,
    timestamp INTEGER NOT NULL,
    building TEXT NOT NULL,
    builds INTEGER NOT NULL,
    wanted INTEGER NOT NULL,
    lacks_rows INTEGER NOT NULL
    """,
)
# Watch lists that are or were armed, with the forecast at that time. A list is a gallery; a
# different embedder or number of restores shows that its vectors or crops were replaced since.
WATCHES = Table(
    "watches",
    f"""
    gallery_id INTEGER PRIMARY KEY {OF_GALLERY},
    settings TEXT NOT NULL,
    forecast TEXT NOT NULL,
    embedder TEXT NOT NULL,
    restores INTEGER NOT NULL,
    armed_at INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    disarmed_at INTEGER,
    why TEXT
    """,
)
# Histogram of the best scores of a list's tracks for vectors of one embedder (the `subject`).
# Counting starts at `since`, which moves when the list is disarmed.
WATCH_TRAFFIC = Table(
    "watch_traffic",
    f"""
    gallery_id INTEGER PRIMARY KEY {OF_GALLERY},
    subject TEXT NOT NULL,
    histogram BLOB NOT NULL,
    tracks INTEGER NOT NULL,
    since INTEGER NOT NULL
    """,
)
# `number` counts alerts in commit order; `follows` is the id of the person's preceding visit at
# another camera. An alert about the list itself has a `detail` and no person.
ALERTS = Table(
    "alerts",
    f"""
    number INTEGER PRIMARY KEY,
    alert_id TEXT NOT NULL UNIQUE,
    gallery_id INTEGER NOT NULL {OF_GALLERY},
    person_id INTEGER REFERENCES people ON DELETE CASCADE,
    kind TEXT NOT NULL,
    detail TEXT,
    camera TEXT,
    track TEXT,
    first_seen INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    crops INTEGER NOT NULL,
    score REAL,
    threshold REAL,
    probability REAL,
    cohesion REAL,
    calibration_version TEXT,
    crop_id TEXT,
    state TEXT NOT NULL,
    reviewed_by TEXT,
    reviewed_at INTEGER,
    follows TEXT,
    created_at INTEGER NOT NULL
    """,
    indexes=("(gallery_id, number)", "(gallery_id, crop_id)", "(person_id, last_seen)"),
)
ALERT_PICTURES = Table(
    "alert_pictures",
    """
    number INTEGER PRIMARY KEY REFERENCES alerts ON DELETE CASCADE,
    content_type TEXT NOT NULL,
    content BLOB NOT NULL
    """,
    rowid=True,
)
# A webhook without a gallery receives all alerts; `dropped` counts alerts that found it full.
WEBHOOKS = Table(
    "webhooks",
    f"""
    webhook_id TEXT PRIMARY KEY,
    gallery_id INTEGER {OF_GALLERY},
    url TEXT NOT NULL,
    secret TEXT NOT NULL,
    former_secret TEXT,
    former_until INTEGER,
    enabled INTEGER NOT NULL,
    why TEXT,
    note TEXT NOT NULL,
    key_id TEXT NOT NULL,
    dropped INTEGER NOT NULL,
    created_at INTEGER NOT NULL
    """,
    indexes=("(gallery_id)",),
)
# `sent_to` is the last address, kept for when the webhook is deleted.
DELIVERIES = Table(
    "deliveries",
    """
    delivery_id TEXT PRIMARY KEY,
    webhook_id TEXT REFERENCES webhooks ON DELETE SET NULL,
    number INTEGER NOT NULL REFERENCES alerts ON DELETE CASCADE,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    next_at INTEGER NOT NULL,
    status INTEGER,
    error TEXT,
    sent_to TEXT,
    created_at INTEGER NOT NULL
    """,
    indexes=("(webhook_id, state, next_at)", "(number)"),
)

TABLES = (
    RECORD,
    FEEDS,
    CHANGES,
    GALLERIES,
    PEOPLE,
    CROPS,
    TRACKS,
    CHECKSUMS,
    PICTURES,
    TOMBSTONES,
    REQUESTS,
    MERGES,
    MERGED_CROPS,
    GROUPS,
    SEARCHES,
    SEARCH_PICTURES,
    SHOWN,
    REVIEWS,
    CASES,
    CASE_SEARCHES,
    CASE_DELETIONS,
    JOBS,
    JOB_PROBLEMS,
    CALIBRATIONS,
    CALIBRATION_SEARCHES,
    RUNTIMES,
    API_KEYS,
    SNAPSHOTS,
    UNNEEDED_FILES,
    STRAY_PICTURES,
    COLLECTIONS,
    WATCHES,
    WATCH_TRAFFIC,
    ALERTS,
    ALERT_PICTURES,
    WEBHOOKS,
    DELIVERIES,
)


def read_schema(connection: sqlite3.Connection) -> list[tuple[str, ...]]:
    statement = (
        "SELECT type, name, tbl_name, sql FROM sqlite_master "
        "WHERE name NOT LIKE 'sqlite_stat%' ORDER BY type, name"
    )
    return [tuple(row) for row in connection.execute(statement)]


@functools.cache
def schema_of_format() -> list[tuple[str, ...]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.create_function("row_crc", -1, row_crc, deterministic=True)
        for table in TABLES:
            table.create(connection)
        return read_schema(connection)
