"""The SQLite file's tables, its version, and how an older file becomes a newer one."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from model.problems import InputProblem
from service.gallery.sqlite.checksums import OF_RECORD, WATCHED, Watched, differing, watching
from service.gallery.stored_values import log_dropped_calibrations

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

# Two sides for vectors, of which a gallery's `side` names the one that is searched: a reindex fills
# the other, and switching is one small write. Pictures may be kept elsewhere or not at all.
VERSION_3 = """
ALTER TABLE galleries ADD COLUMN side TEXT NOT NULL DEFAULT 'a';
ALTER TABLE galleries ADD COLUMN staged_fingerprint TEXT;
ALTER TABLE galleries ADD COLUMN retention_days INTEGER;
ALTER TABLE galleries ADD COLUMN recalibration INTEGER NOT NULL DEFAULT 1;
ALTER TABLE galleries ADD COLUMN calibration TEXT;
CREATE TABLE vectors_a (
    row_id INTEGER PRIMARY KEY REFERENCES crops ON DELETE CASCADE,
    vector BLOB NOT NULL
);
CREATE TABLE vectors_b (
    row_id INTEGER PRIMARY KEY REFERENCES crops ON DELETE CASCADE,
    vector BLOB NOT NULL
);
INSERT INTO vectors_a SELECT row_id, vector FROM crops ORDER BY row_id;
ALTER TABLE crops DROP COLUMN vector;
ALTER TABLE crops ADD COLUMN image_bytes INTEGER NOT NULL DEFAULT 0;
UPDATE crops SET image_bytes = coalesce(
    (SELECT length(content) FROM pictures WHERE pictures.row_id = crops.row_id), 0);
CREATE INDEX crops_by_external_id ON crops (gallery_id, external_id, row_id);
CREATE INDEX crops_by_age ON crops (gallery_id, coalesce(captured_at, created_at));
CREATE TABLE tombstones (
    crop_id TEXT PRIMARY KEY,
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    removed_at TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX tombstones_by_gallery ON tombstones (gallery_id);
CREATE TABLE stray_pictures (
    crop_id TEXT PRIMARY KEY,
    gallery_id INTEGER NOT NULL,
    removable_from TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE requests (
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    key TEXT NOT NULL,
    digest TEXT NOT NULL,
    version INTEGER NOT NULL,
    landed TEXT NOT NULL,
    problems TEXT NOT NULL,
    happened_at TEXT NOT NULL,
    PRIMARY KEY (gallery_id, key)
) WITHOUT ROWID;
CREATE INDEX requests_by_age ON requests (happened_at);
CREATE TABLE jobs (
    job_id TEXT PRIMARY KEY,
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    parameters TEXT NOT NULL,
    progress TEXT NOT NULL,
    cancelling INTEGER NOT NULL DEFAULT 0,
    worker TEXT,
    lease_until TEXT,
    detail TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
);
CREATE INDEX jobs_by_gallery ON jobs (gallery_id, created_at);
CREATE TABLE job_problems (
    job_id TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    position INTEGER NOT NULL,
    source TEXT NOT NULL,
    code TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (job_id, position)
) WITHOUT ROWID;
CREATE TABLE api_keys (
    key_id TEXT PRIMARY KEY,
    secret_sha256 TEXT NOT NULL,
    scopes TEXT NOT NULL,
    gallery TEXT,
    note TEXT NOT NULL,
    created_at TEXT NOT NULL
);
CREATE TABLE snapshots (
    snapshot_id TEXT PRIMARY KEY,
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    version INTEGER NOT NULL,
    embedding_fingerprint TEXT NOT NULL,
    crops INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    created_at TEXT NOT NULL
);
"""

# The watched tables as they were in version 4.
WATCHED_IN_4: Watched = {
    "galleries": (
        "gallery_id",
        "name, embedding_fingerprint, version, created_at, side, staged_fingerprint, "
        "retention_days, recalibration, calibration",
    ),
    "tombstones": ("crop_id", "gallery_id, removed_at"),
    "api_keys": ("key_id", "secret_sha256, scopes, gallery, note, created_at"),
    "snapshots": (
        "snapshot_id",
        "gallery_id, version, embedding_fingerprint, crops, bytes, sha256, created_at",
    ),
}

# A checksum of everything that is answered, and how many commits there were. Of version 3 there was
# one without `stray_pictures`.
VERSION_4 = f"""
CREATE TABLE IF NOT EXISTS stray_pictures (
    crop_id TEXT PRIMARY KEY,
    gallery_id INTEGER NOT NULL,
    removable_from TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE checksums (
    row_id INTEGER PRIMARY KEY REFERENCES crops ON DELETE CASCADE,
    gallery_id INTEGER NOT NULL,
    record INTEGER NOT NULL,
    picture INTEGER,
    vectors_a INTEGER,
    vectors_b INTEGER
);
CREATE INDEX checksums_by_gallery ON checksums (gallery_id);
INSERT INTO checksums SELECT row_id, gallery_id, {OF_RECORD},
    (SELECT content_checksum(content) FROM pictures WHERE pictures.row_id = crops.row_id),
    (SELECT content_checksum(vector) FROM vectors_a WHERE vectors_a.row_id = crops.row_id),
    (SELECT content_checksum(vector) FROM vectors_b WHERE vectors_b.row_id = crops.row_id)
    FROM crops ORDER BY row_id;
CREATE TABLE commits (number INTEGER NOT NULL);
INSERT INTO commits VALUES (0);
CREATE TABLE row_checksums (
    kind TEXT NOT NULL,
    key NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (kind, key)
) WITHOUT ROWID;
{watching(WATCHED_IN_4)}
"""

# A gallery's calibration leaves its row, whose checksum was computed anew at every change of the
# gallery. What was learnt by then is dropped: it means nothing to the new estimator. A row that was
# damaged before gets no checksum that fits, so that it is refused afterwards.
CHANGED_IN_5 = {table: WATCHED[table] for table in ("galleries", "api_keys")}
DAMAGED_BEFORE_5 = " UNION ALL ".join(
    f"SELECT '{table}' AS kind, {table}.{WATCHED_IN_4[table][0]} AS key "
    f"{differing(table, *WATCHED_IN_4[table])}"
    for table in CHANGED_IN_5
)
UNWATCHED_IN_5 = "".join(
    f"DELETE FROM row_checksums WHERE kind = '{table}' AND key IN (SELECT {key} FROM {table});\n"
    + "".join(f"DROP TRIGGER {table}_{event};\n" for event in ("added", "changed", "removed"))
    for table, (key, _) in CHANGED_IN_5.items()
)
VERSION_5 = f"""
CREATE TEMP TABLE damaged_before AS {DAMAGED_BEFORE_5};
{UNWATCHED_IN_5}
ALTER TABLE galleries DROP COLUMN calibration;
ALTER TABLE galleries ADD COLUMN calibration TEXT NOT NULL DEFAULT 'on';
UPDATE galleries SET calibration = 'off' WHERE NOT recalibration;
ALTER TABLE galleries DROP COLUMN recalibration;
ALTER TABLE galleries ADD COLUMN retention_from TEXT NOT NULL DEFAULT 'captured';
ALTER TABLE api_keys ADD COLUMN learn INTEGER NOT NULL DEFAULT 1;
ALTER TABLE api_keys ADD COLUMN expires_at TEXT;
CREATE INDEX crops_by_enrolment ON crops (gallery_id, created_at);
CREATE TABLE calibration_searches (
    place INTEGER PRIMARY KEY,
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    subject TEXT NOT NULL,
    key TEXT NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (gallery_id, subject, key)
);
CREATE INDEX calibration_searches_in_order ON calibration_searches (gallery_id, subject, place);
CREATE TABLE published_calibrations (
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    subject TEXT NOT NULL,
    version INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (gallery_id, subject)
) WITHOUT ROWID;
{watching(CHANGED_IN_5)}
UPDATE row_checksums SET checksum = -1
    WHERE EXISTS (SELECT 1 FROM damaged_before AS damaged
        WHERE damaged.kind = row_checksums.kind AND damaged.key = row_checksums.key);
DROP TABLE damaged_before;
"""

VERSION_6 = "CREATE TABLE runtimes (embedder TEXT PRIMARY KEY, choice TEXT NOT NULL) WITHOUT ROWID;"

# Migration i turns a file of version i into one of version i + 1.
MIGRATIONS: tuple[str, ...] = (VERSION_1, VERSION_2, VERSION_3, VERSION_4, VERSION_5, VERSION_6)


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
        dropped = 0
        if number == 4:
            learnt = "SELECT count(*) FROM galleries WHERE calibration IS NOT NULL"
            dropped = int(connection.execute(learnt).fetchone()[0])
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{MIGRATIONS[number]}\nPRAGMA user_version = {number + 1};\nCOMMIT;"
        )
        log_dropped_calibrations(dropped)
