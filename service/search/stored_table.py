"""Opening a table as the last checkpoint of its files left it."""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection

import numpy as np

from service.ops.health import heartbeat
from service.search.filters import Rows
from service.search.index_files import DamagedFiles, Stored
from service.search.table import RowTable, vector_sums

ROWS_AT_ONCE = 8192


def open_table(
    table: RowTable,
    stored: Stored,
    gone: Collection[int],
    relabelled: Collection[int],
) -> None:
    """Fills an empty table with what the checkpoint of its files counts; blocks.

    Args:
        stored: the checkpoint of the table's files.
        gone, relabelled: row ids that may not be what they were at the checkpoint.

    Raises:
        DamagedFiles: another row is not what was written.
        OSError: the files cannot be read or mapped.
    """
    columns, files = stored.columns, stored.files
    there = columns["valid"] & ~np.isin(columns["row_ids"], list(gone))
    labelled = there & ~np.isin(columns["row_ids"], list(relabelled))
    _check_vectors(stored, np.flatnonzero(there), table.dimension)
    _check_texts(stored, np.flatnonzero(labelled))
    # What was added after the checkpoint comes from the record again.
    os.ftruncate(files.vectors.fileno(), table.vector_bytes(len(there)))
    os.ftruncate(files.texts.fileno(), stored.named["texts"])
    table.restore(columns, stored.named["cameras"], stored.named["texts"])


def _check_vectors(stored: Stored, rows: Rows, dimension: int) -> None:
    path, size = stored.files.folder / "vectors", len(stored.columns["row_ids"])
    sums = np.empty(size, np.uint64)
    for start in range(0, size, ROWS_AT_ONCE):
        heartbeat()
        part = slice(start, min(start + ROWS_AT_ONCE, size))
        # Read and not mapped: a sector that cannot be read is an error, and not a signal.
        count, offset = (part.stop - start) * dimension, start * dimension * np.float32().nbytes
        content = np.fromfile(path, np.float32, count, offset=offset)
        if len(content) < count:
            raise DamagedFiles(f"{path} is shorter than it was")
        sums[part] = vector_sums(content.reshape(-1, dimension))
    if not np.array_equal(sums[rows], stored.columns["vector_sums"][rows]):
        raise DamagedFiles(f"{path} has other vectors than were written")


def _check_texts(stored: Stored, rows: Rows) -> None:
    path, columns = stored.files.folder / "texts", stored.columns
    rows = rows[np.argsort(columns["text_at"][rows])]
    for first in range(0, len(rows), ROWS_AT_ONCE):
        heartbeat()
        part = rows[first : first + ROWS_AT_ONCE]
        starts = columns["text_at"][part]
        ends = (starts + columns["text_bytes"][part] - starts[0]).tolist()
        content = np.fromfile(path, np.uint8, ends[-1], offset=int(starts[0])).data
        places = zip((starts - starts[0]).tolist(), ends, strict=True)
        sums = [zlib.crc32(content[start:end]) for start, end in places]
        if sums != columns["text_sums"][part].tolist():
            raise DamagedFiles(f"{path} has other labels than were written")
