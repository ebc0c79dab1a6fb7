"""The SQLite file's tables, its version, and how an older file becomes a newer one."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from model.problems import InputProblem

# Pictures lie in a table of their own: reading every vector at the start must not page over them.
VERSION_1 = """
CREATE TABLE galleries (
    gallery_id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    embedding_fingerprint TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 0,
    created_at TEXT NOT NULL
);
CREATE TABLE crops (
    row_id INTEGER PRIMARY KEY AUTOINCREMENT,
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    crop_id TEXT NOT NULL UNIQUE,
    sha256 TEXT NOT NULL,
    identity TEXT,
    camera TEXT,
    captured_at TEXT,
    external_id TEXT,
    metadata TEXT,
    content_type TEXT NOT NULL,
    created_at TEXT NOT NULL,
    vector BLOB NOT NULL
);
CREATE INDEX crops_by_content ON crops (gallery_id, sha256);
CREATE INDEX crops_by_identity ON crops (gallery_id, identity, row_id);
CREATE INDEX crops_by_camera ON crops (gallery_id, camera, row_id);
CREATE TABLE pictures (
    row_id INTEGER PRIMARY KEY REFERENCES crops ON DELETE CASCADE,
    content BLOB NOT NULL
);
"""

# Without it SQLite sorts a whole gallery for every page of a listing, and at start every vector.
VERSION_2 = "CREATE INDEX crops_in_order ON crops (gallery_id, row_id);"

# Migration i turns a file of version i into one of version i + 1.
MIGRATIONS: tuple[str, ...] = (VERSION_1, VERSION_2)


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Brings a file to the newest version, one transaction per step.

    Raises:
        InputProblem: for a file that a newer program wrote.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(MIGRATIONS):
        raise InputProblem(
            f"{path}: has format version {version}, this program reads up to {len(MIGRATIONS)}; "
            "serve it with the program version that wrote it"
        )
    for number in range(version, len(MIGRATIONS)):
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{MIGRATIONS[number]}\nPRAGMA user_version = {number + 1};\nCOMMIT;"
        )
