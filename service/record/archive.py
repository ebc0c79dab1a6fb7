"""Archives: copies of a record, or of one gallery's crops, written while the record is served.

An archive is a folder with the tables, the vector files and `archive.json`, which describes them. A
backup is an archive of everything. A snapshot is an archive of one gallery without keys, searches
and jobs. A folder gets its final name only when it is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from model.problems import InputProblem
from service.errors import (
    DamagedRecord,
    DamagedSnapshot,
    RecordUnavailable,
    ServiceError,
    StorageFailed,
)
from service.ops.data_directory import (
    UNFINISHED,
    put_in_place,
    snapshot_name,
    sync,
    unfinished_folder,
)
from service.ops.failpoints import failpoint
from service.record.crops import Crops
from service.record.database import FILE, Database
from service.record.feeds import read_feeds, slots_of
from service.record.galleries import require_entry
from service.record.marks import Mark
from service.record.reading import StoredRecord
from service.record.schema import (
    CHECKSUMS,
    CROPS,
    FEEDS,
    FORMAT,
    GALLERIES,
    PEOPLE,
    PICTURES,
    TRACKS,
)
from service.record.staged import end_staging
from service.record.transaction import AMONG, Reader, Transaction, as_json, batches
from service.record.values import Snapshot
from service.record.vectors import VectorFiles
from service.record.verify import verify

DESCRIPTION = "archive.json"
ROWS_AT_ONCE = 500
OF_SNAPSHOT = (FEEDS, GALLERIES, PEOPLE, CROPS, TRACKS, CHECKSUMS, PICTURES)
# Files that `Database` creates beside an open record.
OF_OPEN_RECORD = ("record.acknowledged", "record.lock", "record.turn", "deleted.ids")

Kind = Literal["backup", "snapshot"]


@dataclass(frozen=True)
class GalleryInArchive:
    """A gallery in an archive as of its creation; `crops` excludes forgotten ones."""

    gallery_id: int
    name: str
    embedder: str
    version: int
    crops: int


@dataclass(frozen=True)
class Description:
    """The contents of an archive.

    Attributes:
        record_id: id of the record that was copied.
        files: SHA-256 of each file by name. Empty while crops are being removed: then only rows and
            vectors can be verified, against their own checksums.
    """

    kind: Kind
    record_id: str
    created_at: datetime
    galleries: list[GalleryInArchive]
    files: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT


def write_archive(database: Database, folder: Path, gallery_id: int | None = None) -> Description:
    """Copy the current state of a record, or of one gallery's crops, to a new folder.

    Crops removed during the copy are omitted. The copy is verified before the folder gets its final
    name.

    Raises:
        UnknownGallery: the gallery was deleted.
        DamagedRecord: the record is damaged.
        StorageFailed: the archive could not be written; nothing is left of it.
        RecordUnavailable: the gallery was reindexed in the meantime.
    """
    try:
        with unfinished_folder(folder) as part:
            description = fill_archive(database, part, gallery_id)
            failpoint("snapshot.written")
            put_in_place(part, folder)
    except (OSError, sqlite3.OperationalError) as error:
        raise StorageFailed(
            f"the {'backup' if gallery_id is None else 'snapshot'} could not be written "
            f"({error}); nothing is left of it, free space there and try again"
        ) from error
    return description


def fill_archive(database: Database, part: Path, gallery_id: int | None = None) -> Description:
    """Write an archive into an empty folder, as in `write_archive`; raises `OSError`."""
    created_at = datetime.now(UTC)
    if gallery_id is None:
        _copy_record(database, part)
    else:
        _copy_gallery(database, part, gallery_id)
    database.overwrite_log()
    with contextlib.closing(StoredRecord(part)) as stored:
        reader = Reader(stored)
        feeds = read_feeds(reader)
        record_id = reader.value("SELECT value FROM record WHERE name = 'record_id'")
        rows = reader.rows(GALLERIES, "WHERE name IS NOT NULL ORDER BY gallery_id")
    _copy_vectors(database, part, rows)
    with contextlib.closing(Database(part)) as copy:
        for row in rows:
            _remove_deleted(copy, database, row["gallery_id"], feeds[row["gallery_id"]])
    kind: Kind = "backup" if gallery_id is None else "snapshot"
    galleries = [
        GalleryInArchive(
            row["gallery_id"], row["name"], row["embedder"], row["version"], row["crops"]
        )
        for row in rows
    ]
    description = describe_archive(part, Description(kind, record_id, created_at, galleries))
    if damage := verify(part).damage:
        raise DamagedRecord(database.path, damage[0])
    return description


def read_description(folder: Path) -> Description:
    """Read the description of an archive; raises `DamagedSnapshot` if it is unreadable."""
    try:
        description = DESCRIPTIONS.validate_json((folder / DESCRIPTION).read_bytes())
    except (OSError, ValueError) as error:
        raise DamagedSnapshot(folder, f"{DESCRIPTION} cannot be read ({error})") from error
    if description.format > FORMAT:
        why = f"it has format {description.format}, this program reads up to {FORMAT}"
        raise DamagedSnapshot(folder, why)
    return description


def check_archive(folder: Path) -> Description:
    """Verify all contents of an archive and return its description.

    Raises:
        DamagedSnapshot: names the first file, row or vector that differs from its checksum.
    """
    description = read_description(folder)
    for name, sha256 in description.files.items():
        path = folder / name
        if not path.is_file() or file_sha256(path) != sha256:
            raise DamagedSnapshot(folder, f"{name} is missing or corrupt")
    try:
        damage = verify(folder).damage
    except (InputProblem, sqlite3.DatabaseError) as error:
        damage = [str(error)]
    if damage:
        raise DamagedSnapshot(folder, damage[0])
    return description


def check_snapshots(data_dir: Path) -> dict[Path, Description | ServiceError]:
    """Verify every snapshot of a data directory; return its description or its damage.

    Snapshots are sorted by time, with which their ids begin.
    """
    results: dict[Path, Description | ServiceError] = {}
    for folder in sorted(data_dir.glob(snapshot_name("[0-9]*", "*"))):
        try:
            results[folder] = check_archive(folder)
        except DamagedSnapshot as error:
            results[folder] = error
    return results


def describe_snapshot(folder: Path, created_at: datetime) -> Snapshot:
    """Return the record's entry for a snapshot's archive; raises `DamagedSnapshot`."""
    description = read_description(folder)
    (gallery,) = description.galleries
    return Snapshot(
        snapshot_id=folder.stem,
        gallery_id=gallery.gallery_id,
        version=gallery.version,
        embedding_fingerprint=gallery.embedder,
        crops=gallery.crops,
        bytes=archive_bytes(folder),
        sha256=hashlib.sha256((folder / DESCRIPTION).read_bytes()).hexdigest(),
        created_at=created_at,
    )


def archive_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def open_archive(folder: Path) -> Iterator[Reader]:
    """Open an archive read-only; raises `DamagedSnapshot`."""
    read_description(folder)
    try:
        with contextlib.closing(StoredRecord(folder)) as stored:
            yield Reader(stored)
    except (DamagedRecord, FileNotFoundError, sqlite3.DatabaseError) as error:
        raise DamagedSnapshot(folder, getattr(error, "why", str(error))) from error


def archived_ids(folder: Path, identity: str | None = None) -> list[str]:
    """Return the crop ids of a snapshot or of one identity in it; raises `DamagedSnapshot`."""
    condition = "" if identity is None else "WHERE people.name = ?"
    statement = f"SELECT crop_id FROM crops LEFT JOIN people USING (person_id) {condition}"
    with open_archive(folder) as reader:
        rows = reader.execute(f"{statement} ORDER BY slot", [] if identity is None else [identity])
        return [crop_id for (crop_id,) in rows]


def remove_from_archive(folder: Path, gallery_id: int, crop_ids: Sequence[str]) -> Description:
    """Remove crops with their vectors and pictures from an archive.

    After a power cut the crops are either present or removed; nothing of them is left when this
    returns. An interrupted removal is finished, even if `crop_ids` is empty.

    Raises:
        DamagedSnapshot: the archive cannot be read.
        StorageFailed: the disk fails.
    """
    description = read_description(folder)
    if description.files and not crop_ids:
        return description
    write_description(folder, replace(description, files={}))
    failpoint("snapshot-rewrite.begun")
    try:
        with contextlib.closing(Database(folder)) as archive:
            for batch in batches(crop_ids, ROWS_AT_ONCE):
                Crops(archive).remove(gallery_id, batch)
    except (DamagedRecord, InputProblem) as error:
        raise DamagedSnapshot(folder, getattr(error, "why", str(error))) from error
    failpoint("snapshot-rewrite.removed")
    return describe_archive(folder, description)


def write_description(folder: Path, description: Description) -> None:
    path = folder / DESCRIPTION
    temporary = path.with_suffix(UNFINISHED)
    temporary.write_bytes(DESCRIPTIONS.dump_json(description, indent=1))
    sync(temporary)
    temporary.replace(path)
    sync(folder)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_archive(folder: Path, description: Description) -> Description:
    """Write the description of a closed archive with its current crops and files; return it."""
    close_alone(folder)
    galleries = []
    with contextlib.closing(StoredRecord(folder)) as stored:
        for gallery in description.galleries:
            statement = "SELECT crops FROM galleries WHERE gallery_id = ?"
            crops = Reader(stored).value(statement, (gallery.gallery_id,))
            galleries.append(replace(gallery, crops=crops))
    names = [FILE, *(path.name for path in folder.glob("vectors-*"))]
    files = {name: file_sha256(folder / name) for name in sorted(names)}
    description = replace(description, galleries=galleries, files=files)
    write_description(folder, description)
    return description


def close_alone(folder: Path) -> None:
    """Make the file of a closed record complete without other files beside it."""
    with contextlib.closing(sqlite3.connect(folder / FILE)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    for name in OF_OPEN_RECORD:
        (folder / name).unlink(missing_ok=True)


def _copy_record(database: Database, part: Path) -> None:
    with (
        contextlib.closing(StoredRecord(database.folder)) as source,
        contextlib.closing(sqlite3.connect(part / FILE)) as copy,
    ):
        (part / FILE).chmod(0o600)
        source.connection().backup(copy)


def _copy_gallery(database: Database, part: Path, gallery_id: int) -> None:
    with contextlib.closing(Database(part)) as copy:
        connection = copy.connection()
        # Without a write-ahead log, the rows are not written twice.
        connection.execute("PRAGMA journal_mode = DELETE")
        # Damaged rows are left out, and the verification of the copy names what is missing.
        connection.execute("PRAGMA foreign_keys = OFF")
        copy.write_from(database.folder, _insert_gallery, gallery_id)


def _insert_gallery(transaction: Transaction, gallery_id: int) -> None:
    for table in OF_SNAPSHOT:
        columns = ", ".join(table.columns)
        transaction.change(
            f"INSERT INTO {table.name} ({columns}) SELECT {columns} FROM other.{table.name} "
            f"AS {table.name} WHERE gallery_id = ? AND {table.is_intact}",
            (gallery_id,),
        )
    end_staging(transaction, require_entry(transaction, gallery_id))


def _copy_vectors(database: Database, part: Path, rows: Iterable[sqlite3.Row]) -> None:
    with contextlib.closing(VectorFiles(database.folder, only_read=True)) as files:
        for row in rows:
            for name in ("", "staged_"):
                place = (row["gallery_id"], row[f"{name}side"], row[f"{name}dimension"])
                if None in place:
                    continue
                try:
                    vectors = files.open(*place)
                except FileNotFoundError as error:
                    raise RecordUnavailable(
                        f"the vectors of gallery {row['gallery_id']} were removed when it was "
                        "restored or reindexed"
                    ) from error
                vectors.copy_to(part / vectors.path.name, row["next_slot"])


def _remove_deleted(copy: Database, source: Database, gallery_id: int, since: Mark) -> None:
    removed = Reader(source).execute(
        "SELECT slots FROM changes WHERE gallery_id = ? AND seq > ? "
        "AND kind IN ('removed', 'replaced')",
        (gallery_id, since.seq),
    )
    slots = {slot for (text,) in removed for slot in slots_of(text)}
    clauses = f"WHERE gallery_id = ? AND slot IN {AMONG}"
    rows = Reader(copy).rows(CROPS, clauses, (gallery_id, as_json(slots)))
    for crop_ids in batches([row["crop_id"] for row in rows], ROWS_AT_ONCE):
        Crops(copy).remove(gallery_id, crop_ids)


DESCRIPTIONS = TypeAdapter(Description)
