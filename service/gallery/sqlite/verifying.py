"""What is whole of a database and its snapshots, found by reading all of it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from model.problems import InputProblem
from service.gallery.records import ArchivedCrop
from service.gallery.sqlite.checked_reading import Damage, archived_crops
from service.gallery.sqlite.checksums import changed_rows, register
from service.gallery.sqlite.galleries import searched_side
from service.gallery.sqlite.schema import MIGRATIONS
from service.gallery.verification import GalleryFound, StoreFound, verify_snapshots
from service.high_water import SUFFIX, HighWaterMark

PAGE_PROBLEMS = 20


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
