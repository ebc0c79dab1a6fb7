"""What is whole of a database and its snapshots, found by reading all of it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model.problems import InputProblem
from service.gallery.data_dir import SNAPSHOT_SUFFIX, SNAPSHOTS
from service.gallery.records import ArchivedCrop
from service.gallery.snapshot_file import read_snapshot
from service.gallery.sqlite.checked_reading import Damage, archived_crops
from service.gallery.sqlite.checksums import changed_rows, register
from service.gallery.sqlite.galleries import searched_side
from service.gallery.sqlite.schema import MIGRATIONS
from service.high_water import SUFFIX, HighWaterMark
from service.problems import DamagedSnapshot

PAGE_PROBLEMS = 20


@dataclass(frozen=True)
class GalleryFound:
    """A gallery as far as it can be read: how many crops are whole, and what is wrong with others.

    Attributes:
        gallery_id, name: of the gallery.
        whole: crops that are as they were written.
        damage: a line for each of the others, and for what kept from reading on.
    """

    gallery_id: int
    name: str
    whole: int
    damage: tuple[str, ...]


@dataclass(frozen=True)
class SnapshotFound:
    """A snapshot's file: how many crops it holds, and what is wrong with it; None for nothing."""

    path: Path
    crops: int
    problem: str | None


@dataclass(frozen=True)
class StoreFound:
    """A data directory's record.

    Attributes:
        problems: with the database as a whole; nothing, where all of it can be read.
        galleries: by name.
        snapshots: of every gallery, also of those that are gone.
    """

    problems: tuple[str, ...]
    galleries: tuple[GalleryFound, ...]
    snapshots: tuple[SnapshotFound, ...]

    @property
    def whole(self) -> bool:
        """Whether everything is as it was written."""
        return not (
            self.problems
            or any(gallery.damage for gallery in self.galleries)
            or any(snapshot.problem for snapshot in self.snapshots)
        )


def verify_store(database: Path) -> StoreFound:
    """Reads everything, also while it is served.

    Args:
        database: the SQLite file; its snapshots lie beside it.

    Raises:
        InputProblem: for a file of another format.
    """
    problems: list[str] = []
    galleries: list[GalleryFound] = []
    if not database.is_file() or not database.stat().st_size:
        problems.append("it is gone")
    else:
        try:
            with opened_for_reading(database) as connection:
                problems += _problems(database, connection)
                galleries += _galleries(connection)
        except sqlite3.DatabaseError as error:
            problems.append(f"it cannot be read ({error})")
    return StoreFound(tuple(problems), tuple(galleries), tuple(verify_snapshots(database.parent)))


def verify_snapshots(data_dir: Path) -> list[SnapshotFound]:
    """Every snapshot's file of a data directory, oldest first."""
    return [_snapshot(path) for path in snapshot_files(data_dir)]


def snapshot_files(data_dir: Path) -> list[Path]:
    """Where they are, oldest first: a snapshot's id begins with its time."""
    files = data_dir.glob(f"{SNAPSHOTS}/*/*{SNAPSHOT_SUFFIX}")
    return sorted(files, key=lambda path: (path.parent.name, path.name))


@contextlib.contextmanager
def opened_for_reading(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection that changes nothing.

    Raises:
        InputProblem: for a file of another format.
        sqlite3.DatabaseError: for one that is none.
    """
    place = f"{database.resolve().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(place, uri=True, isolation_level=None)) as connection:
        register(connection)
        # What is no text any more has to be read to be named.
        connection.text_factory = lambda text: text.decode(errors="surrogateescape")
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version != len(MIGRATIONS):
            raise InputProblem(
                f"{database}: has format version {version}, and this program checks "
                f"{len(MIGRATIONS)}; an older one is brought to it by gmn serve, a newer one is "
                "for the program version that wrote it"
            )
        connection.execute("BEGIN")
        yield connection


def readable_crops(
    connection: sqlite3.Connection, gallery_id: int
) -> Iterator[ArchivedCrop | Damage]:
    """Every crop that is whole; damage in the place of the others."""
    try:
        side = searched_side(connection, gallery_id)
        yield from archived_crops(connection, gallery_id, side)
    except sqlite3.DatabaseError as error:
        yield Damage(f"the crops after that cannot be read ({error})")


def _problems(database: Path, connection: sqlite3.Connection) -> list[str]:
    found = [row[0] for row in connection.execute(f"PRAGMA integrity_check({PAGE_PROBLEMS})")]
    problems = [*([] if found == ["ok"] else found), *changed_rows(connection)]
    held = int(connection.execute("SELECT number FROM commits").fetchone()[0])
    acknowledged = HighWaterMark(database.with_suffix(SUFFIX)).read()
    # While it is served the mark may be newer than what this connection sees.
    if held < acknowledged and not database.with_name(f"{database.name}-wal").exists():
        problems.append(f"it holds commits up to {held}, and {acknowledged} were acknowledged")
    return problems


def _galleries(connection: sqlite3.Connection) -> list[GalleryFound]:
    names = connection.execute("SELECT gallery_id, name FROM galleries ORDER BY name").fetchall()
    found = []
    for gallery_id, name in names:
        whole, damage = 0, []
        for crop in readable_crops(connection, gallery_id):
            if isinstance(crop, Damage):
                damage.append(crop.what)
            else:
                whole += 1
        found.append(GalleryFound(gallery_id, name, whole, tuple(damage)))
    return found


def _snapshot(path: Path) -> SnapshotFound:
    crops = 0
    try:
        for _ in read_snapshot(path):
            crops += 1
    except DamagedSnapshot as problem:
        return SnapshotFound(path, crops, problem.reason)
    return SnapshotFound(path, crops, None)
