"""The data directory and the backup that `make.py` wrote with version 0.5.0."""

import contextlib
import sqlite3
import tarfile
import time
from pathlib import Path

from service.record.schema import row_crc
from service.record.transaction import FILE

JOSE = "José"
ZOE = "Zoé"
CAFE = "Café"
DOOR_KEY = f"gmn_door_{'0' * 64}"
MADE = Path(__file__).with_name("made.tar.xz")
SNAPSHOT = "20260301T120000Z-0000000a"
DAMAGED = "20260301T130000Z-0000000b"


def unpack(folder):
    """Unpack both below a folder; return the data directory and the backup."""
    with tarfile.open(MADE) as packed:
        packed.extractall(folder, filter="data")
    data = folder / "data"
    with open_raw(data) as connection:
        # A merge can be undone for 30 days.
        connection.execute("UPDATE merges SET merged_at = ?", (time.time_ns() // 1000,))
        connection.commit()
    (backup,) = (folder / "backups").iterdir()
    return data, backup


@contextlib.contextmanager
def open_raw(data):
    """Open the file of a record as a program would that knows nothing of it."""
    with contextlib.closing(sqlite3.connect(data / FILE)) as connection:
        connection.create_function("row_crc", -1, row_crc, deterministic=True)
        yield connection


def format_of(data):
    with open_raw(data) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]
