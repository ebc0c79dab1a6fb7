"""Conversion of a record of format 7, or of a backup of one, to tables.

Format 7, written before version 0.5, is one table of keys and values. A key consists of parts that
end with a zero byte: its kind, then numbers of 16 hexadecimal digits and texts. Kinds that are
never listed begin with an exclamation mark. A value is a checksum of its key and body, followed by
the body, usually JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import re
import shutil
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from gmn_client.models import Snapshot
from model.problems import InputProblem
from service.errors import DamagedRecord, DamagedSnapshot
from service.ops.data_directory import DATABASE_NAME, make_folder, snapshot_name
from service.record.archive import describe_snapshot, open_to_change
from service.record.crop_changes import put_crops
from service.record.database import Database
from service.record.desk import find_identifying
from service.record.galleries import add_gallery, as_row
from service.record.record import Record
from service.record.restoring import new_data_directory
from service.record.schema import as_micros
from service.record.transaction import Transaction, batches
from service.record.values import ArchivedCrop, GalleryRecord, StoredCrop

log = logging.getLogger(__name__)
FORMAT = 7
CROPS_AT_ONCE = 200
CHECKSUM_BYTES = 4
# Folder of a backup with the images and vectors that were kept outside the record.
IMAGES = "images"
END = b"\0"
ESCAPED = b"\0\xff"
BETWEEN_PARTS = re.compile(rb"\0(?!\xff)")
GALLERY = TypeAdapter(GalleryRecord)
CROP = TypeAdapter(StoredCrop)
# Kinds of entries that are converted: of the whole record, and of a gallery.
RECORD_KINDS = ("next gallery", "group secret", "runtime", "api key", "api key changes", "key used")
GALLERY_KINDS = (
    "tombstone",
    "request",
    "stray",
    "merge",
    "merged crops",
    "kept query",
    "case",
    "published",
    "searches",
    "search",
)
# These statements fill the tables from `old`, where `name` and `part` are the parts of a key after
# its kind and gallery. The body of a `search` begins with 28 bytes, the subject, and a name.
CONVERSION = """
INSERT OR REPLACE INTO record (name, value)
SELECT 'next_gallery', (body ->> '$') + 1 FROM old WHERE kind = 'next gallery'
UNION ALL SELECT 'group_secret', from_hex(body ->> '$') FROM old WHERE kind = 'group secret'
UNION ALL SELECT 'keys_asked_for', 1 FROM old WHERE kind IN ('api key', 'api key changes');

INSERT INTO runtimes (embedder, choice)
SELECT name, body ->> '$' FROM old WHERE kind = 'runtime';

INSERT INTO api_keys (key_id, gallery, body, used_at)
SELECT keys.name, keys.body ->> '$.gallery', keys.body, micros(used.body ->> '$')
FROM old AS keys LEFT JOIN old AS used ON used.kind = 'key used' AND used.name = keys.name
WHERE keys.kind = 'api key';

INSERT INTO tombstones (gallery_id, crop_id, removed_at)
SELECT gallery_id, name, micros(body ->> '$') FROM old WHERE kind = 'tombstone';

INSERT INTO requests (gallery_id, key, digest, answer, happened_at)
SELECT gallery_id, name, body ->> '$.digest', body, micros(body ->> '$.happened_at')
FROM old WHERE kind = 'request';

INSERT OR REPLACE INTO stray_pictures (gallery_id, name, until)
SELECT gallery_id, name, micros(body ->> '$') FROM old
WHERE kind = 'stray' AND name NOT LIKE '%.f32';

-- If nobody has the name `into`, there is nothing to undo.
INSERT INTO merges (merge_id, gallery_id, identity, into_person, crops, version, merged_at)
SELECT old.name, gallery_id, body ->> '$.identity', person_id, body ->> '$.crops',
    body ->> '$.version', micros(body ->> '$.merged_at')
FROM old JOIN people USING (gallery_id)
WHERE people.name = body ->> '$.into' AND kind = 'merge';

INSERT OR REPLACE INTO merged_crops (merge_id, crop_id)
SELECT name, value FROM old, json_each(body)
WHERE kind = 'merged crops' AND name IN (SELECT merge_id FROM merges);

INSERT INTO searches (query_id, gallery_id, key_id, created_at, request, answer, results, crop_id,
    content_type)
SELECT name, gallery_id, body ->> '$.key_id', micros(body ->> '$.created_at'),
    body -> '$.request', body -> '$.answer', body -> '$.results', body ->> '$.crop_id',
    body ->> '$.content_type'
FROM old WHERE kind = 'kept query';

INSERT INTO reviews (query_id, crop_id, decision, key_id, reviewed_at)
SELECT name, key, value ->> '$.decision', value ->> '$.key_id', micros(value ->> '$.reviewed_at')
FROM old, json_each(body, '$.reviews') WHERE kind = 'kept query';

INSERT INTO cases (case_id, gallery_id, name, notes, created_at, changed_at, key_id)
SELECT name, gallery_id, body ->> '$.name', body ->> '$.notes',
    micros(body ->> '$.created_at'), micros(body ->> '$.changed_at'), body ->> '$.key_id'
FROM old WHERE kind = 'case';

INSERT INTO case_searches (case_id, query_id, added_at, note)
SELECT name, key, micros(value ->> '$[0]'), value ->> '$[1]'
FROM old, json_each(body, '$.queries')
WHERE kind = 'case' AND key IN (SELECT query_id FROM searches);

INSERT INTO case_deletions (case_id, day, searches)
SELECT name, key, value FROM old, json_each(body, '$.deleted_searches') WHERE kind = 'case';

INSERT INTO calibrations (gallery_id, subject, version, body, searches)
SELECT gallery_id, name, coalesce(max(body ->> '$.version'), 0), max(body ->> '$.body'),
    coalesce(max(body ->> '$.next'), 0)
FROM old WHERE kind IN ('published', 'searches') GROUP BY gallery_id, name;

INSERT INTO calibration_searches (gallery_id, subject, number, name, body)
SELECT gallery_id, subject, part, CAST(substr(named, 1, place - 1) AS TEXT),
    substr(named, place + 1)
FROM (
    SELECT *, instr(named, x'00') AS place FROM (
        SELECT gallery_id, name AS subject, part,
            substr(body, 29 + length(CAST(name AS BLOB))) AS named
        FROM old WHERE kind = 'search'
    )
);
"""


@dataclass
class Upgraded:
    """The outcome: number of crops by gallery name, and snapshots left out as damaged."""

    crops: dict[str, int] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def upgrade(old: Path, into: Path) -> Upgraded:
    """Convert the record of a data directory or backup, writing it into another directory.

    Galleries keep their ids and versions, crops their ids and row numbers. Jobs are left out with
    their results. The old record is only read.

    Args:
        old: a data directory that no service uses, or a folder written by `gmn backup`.
        into: an empty or new folder.

    Raises:
        InputProblem: `old` has no record of format 7, or `into` is not empty.
        DamagedRecord: the old record is damaged; recover it with the version that wrote it.
    """
    if not (old / DATABASE_NAME).is_file():
        raise InputProblem(f"{old}: has no {DATABASE_NAME}; name a data directory or a backup")
    if into.exists() and any(into.iterdir()):
        raise InputProblem(f"{into}: is not empty; name a new directory")
    upgraded = Upgraded()
    with contextlib.closing(OldRecord(old / DATABASE_NAME)) as reader:
        if any(True for _ in reader.entries("pending identity change")):
            raise InputProblem(
                f"{old}: a change of a person was cut off; start the service once with the version "
                "that wrote it, which finishes the change, then upgrade"
            )
        with new_data_directory(into) as part:
            with contextlib.closing(Record(part)) as record:
                galleries = sorted(reader.galleries(), key=lambda gallery: gallery.name)
                for gallery in galleries:
                    _fill_gallery(record.database, gallery, reader.crops(gallery))
                    upgraded.crops[gallery.name] = gallery.crops
                record.database.write(_convert, reader, galleries)
                for gallery in galleries:
                    upgraded.left_out += _copy_snapshots(reader, record, gallery)
            for path in old.glob("audit*"):
                shutil.copy(path, part)
    return upgraded


def _fill_gallery(
    database: Database, gallery: GalleryRecord, crops: Iterable[ArchivedCrop]
) -> None:
    database.write(add_gallery, as_row(gallery))
    for batch in batches(crops, CROPS_AT_ONCE):
        database.write(put_crops, gallery.gallery_id, batch)


def _convert(transaction: Transaction, old: OldRecord, galleries: Sequence[GalleryRecord]) -> None:
    connection = transaction.database.connection()
    connection.create_function(
        "micros", 1, lambda text: text and as_micros(datetime.fromisoformat(text))
    )
    transaction.change("CREATE TEMP TABLE old (kind, gallery_id, name, part, body)")
    for kind in RECORD_KINDS:
        for (name,), body in old.entries(kind):
            transaction.insert("old", {"kind": kind, "name": name, "body": body.decode()})
    for gallery, kind in itertools.product(galleries, GALLERY_KINDS):
        for (name, *numbers), body in old.entries(kind, gallery.gallery_id):
            entry = {
                "kind": kind,
                "gallery_id": gallery.gallery_id,
                "name": name,
                "part": int(numbers[0], 16) if numbers else None,
                "body": body if kind == "search" else body.decode(),
            }
            transaction.insert("old", entry)
    for statement in CONVERSION.split(";\n"):
        transaction.change(statement)
    find_identifying(transaction, transaction.column("SELECT query_id FROM searches"))
    transaction.change_many(
        "INSERT INTO search_pictures (query_id, content) "
        "SELECT query_id, ? FROM searches WHERE query_id = ?",
        ((picture, query_id) for (_, query_id), picture in old.entries("!kept picture")),
    )


def _copy_snapshots(old: OldRecord, record: Record, gallery: GalleryRecord) -> list[str]:
    left_out = []
    for _, body in old.entries("snapshot", gallery.gallery_id):
        snapshot = Snapshot.model_validate_json(body)
        name = snapshot_name(gallery.gallery_id, snapshot.snapshot_id)
        folder = record.database.folder / name
        make_folder(folder)
        try:
            header = open_old_snapshot(old.path.parent / name)
            embedder = header.embedding_fingerprint or gallery.embedding_fingerprint
            copied = replace(gallery, embedding_fingerprint=embedder, version=header.version)
            with open_to_change(folder) as archive:
                _fill_gallery(archive, copied, header.read())
        except DamagedSnapshot as error:
            log.error("%s was left out: %s", name, error.detail)
            left_out.append(name)
            shutil.rmtree(folder, ignore_errors=True)
            continue
        described = describe_snapshot(folder, snapshot.created_at)
        record.snapshots.keep(gallery.gallery_id, described)
    return left_out


class OldRecord:
    """A record of format 7, opened read-only; reads see the state at opening.

    Args:
        path: the file.

    Raises:
        InputProblem: the file is not a record of format 7, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        with self._naming_errors():
            self._connection.execute("BEGIN")
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version != FORMAT:
            raise InputProblem(f"{path}: has format {version} instead of {FORMAT}")

    def close(self) -> None:
        self._connection.close()

    def entries(self, kind: str, *parts: str | int) -> Iterator[tuple[list[str], bytes]]:
        """Yield the parts below a key and the body of each of its entries, in order."""
        prefix = _encode_key(kind, *parts)
        with self._naming_errors():
            rows = self._connection.execute(
                "SELECT key, value FROM entries WHERE key >= ? AND key < ? ORDER BY key",
                (prefix, prefix + b"\xff"),
            )
            for key, value in rows:
                below = BETWEEN_PARTS.split(key[len(prefix) : -1])
                names = [part.replace(ESCAPED, END).decode() for part in below]
                yield names, self._unseal(key, value)

    def galleries(self) -> list[GalleryRecord]:
        galleries = [GALLERY.validate_json(body) for _, body in self.entries("gallery")]
        return [gallery for gallery in galleries if gallery.name]

    def crops(self, gallery: GalleryRecord) -> Iterator[ArchivedCrop]:
        """Yield the crops of a gallery by row, with pictures and the searched vectors.

        Raises:
            DamagedRecord: a picture or a vector is missing.
        """
        for _, body in self.entries("crop", gallery.gallery_id, gallery.at):
            crop = CROP.validate_json(body)
            vector = self._read_vector(gallery, crop)
            picture = self._read_picture(gallery, crop)
            record = replace(crop, inside=picture is not None)
            yield ArchivedCrop(record, np.frombuffer(vector, "<f4"), picture)

    def _read_vector(self, gallery: GalleryRecord, crop: StoredCrop) -> bytes:
        vector = self._read_body(
            "!vector", gallery.gallery_id, gallery.at, gallery.side, crop.row_id
        )
        name = f"{gallery.gallery_id}/{crop.crop_id}.{gallery.side}.f32"
        outside = self.path.with_name(IMAGES) / name
        if vector is None and outside.is_file():
            vector = self._unseal(name.encode(), outside.read_bytes())
        if vector is None:
            raise DamagedRecord(self.path, f"the vector of crop {crop.crop_id} is gone")
        return vector

    def _read_picture(self, gallery: GalleryRecord, crop: StoredCrop) -> bytes | None:
        picture = self._read_body("!picture", gallery.gallery_id, gallery.at, crop.row_id)
        if crop.inside and picture is None:
            raise DamagedRecord(self.path, f"the picture of crop {crop.crop_id} is gone")
        outside = self.path.with_name(IMAGES) / str(gallery.gallery_id) / crop.crop_id
        if picture is None and outside.is_file():
            picture = outside.read_bytes()
        return picture

    def _read_body(self, kind: str, *numbers: int) -> bytes | None:
        return next((body for _, body in self.entries(kind, *numbers)), None)

    @contextlib.contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise InputProblem(
                f"{self.path}: cannot be read ({error}); recover it with the version that wrote it"
            ) from error

    def _unseal(self, key: bytes, value: object) -> bytes:
        if isinstance(value, bytes) and not value:
            return b""
        if isinstance(value, bytes) and len(value) >= CHECKSUM_BYTES:
            body = value[CHECKSUM_BYTES:]
            checksum = zlib.crc32(body, zlib.crc32(key))
            if checksum == int.from_bytes(value[:CHECKSUM_BYTES], "big"):
                return body
        raise DamagedRecord(self.path, f"{key[:40]!r} is not what was written")


def _encode_key(kind: str, *parts: str | int) -> bytes:
    return b"".join(
        b"%016x\0" % part if isinstance(part, int) else part.encode().replace(END, ESCAPED) + END
        for part in (kind, *parts)
    )


@dataclass(frozen=True)
class OldSnapshot:
    """A snapshot written before version 0.5: the crops of a gallery in one SQLite file.

    Attributes:
        sha256: hash over the checksums of all crops in order.
        embedding_fingerprint, version: its origin; empty in files that lack these.
    """

    path: Path
    crops: int
    sha256: str
    embedding_fingerprint: str = ""
    version: int = 0

    def read(self) -> Iterator[ArchivedCrop]:
        """Yield every crop at a slot of its own, and check each, and the totals at the end.

        Raises:
            DamagedSnapshot: names the first crop that differs from its checksum.
        """
        statement = "SELECT crop_id, record, vector, picture, checksum FROM crops ORDER BY place"
        digest = hashlib.sha256()
        crops = 0
        with _open_file(self.path) as file:
            for crop_id, record, vector, picture, checksum in file.execute(statement):
                readable = isinstance(record, str) and isinstance(vector, bytes)
                if not readable or _checksum(record, vector, picture) != checksum:
                    raise DamagedSnapshot(self.path, f"crop {crop_id} is not what was written")
                digest.update(checksum.encode())
                crops += 1
                crop = replace(CROP.validate_json(record), row_id=crops, inside=picture is not None)
                yield ArchivedCrop(crop, np.frombuffer(vector, "<f4"), picture)
        if (crops, digest.hexdigest()) != (self.crops, self.sha256):
            raise DamagedSnapshot(self.path, f"it has {crops} crops instead of {self.crops}")


def open_old_snapshot(path: Path) -> OldSnapshot:
    with _open_file(path) as file:
        header = dict(file.execute("SELECT name, value FROM header"))
        return TypeAdapter(OldSnapshot).validate_python({**header, "path": path})


@contextlib.contextmanager
def _open_file(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        ) as file:
            yield file
    except (sqlite3.DatabaseError, ValueError) as error:
        raise DamagedSnapshot(path, str(error)) from error


def _checksum(record: str, vector: bytes, picture: bytes | None) -> str:
    digest = hashlib.sha256()
    for part in (record.encode(), vector, picture or b""):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
