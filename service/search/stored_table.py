"""Opening a table as the last checkpoint of its files left it."""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.ops.health import MonitoredThreadPool, heartbeat
from service.search.blocks import TEXT_BLOCK_BYTES, Blocks, VectorBlocks, text_sums, vector_sums
from service.search.filters import Rows
from service.search.index_files import Columns, DamagedFiles, Stored
from service.search.table import RowTable

CHECK_THREADS = 2


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
    files, named, columns = stored.files, stored.named, stored.columns
    vectors, texts, used = table.vectors.blocks, table.texts.blocks, int(named["texts"])
    there = columns["valid"] & ~np.isin(columns["row_ids"], list(gone))
    labelled = np.flatnonzero(there & ~np.isin(columns["row_ids"], list(relabelled)))
    blocks = -(-len(there) // vectors.items)
    halves = ((0, blocks // 2), (blocks // 2, blocks))
    checks = [
        partial(_check_vectors, Path(files.vectors.name), table.vectors, columns, there, *half)
        for half in halves
    ]
    text_path = Path(files.texts.name)
    checks.append(partial(_check_texts, text_path, texts, columns, labelled, used))
    with MonitoredThreadPool(CHECK_THREADS, "index files") as pool:
        for checked in [pool.submit(check) for check in checks]:
            checked.result()
            heartbeat()
    # What was added after the checkpoint comes from the record again.
    os.ftruncate(files.vectors.fileno(), vectors.offset(len(there)))
    os.ftruncate(files.texts.fileno(), texts.offset(used))
    table.restore(columns, named["cameras"], used)
    table.require_files()


def _check_vectors(
    path: Path,
    vectors: VectorBlocks,
    columns: Columns,
    rows: NDArray[np.bool_],
    first: int,
    last: int,
) -> None:
    blocks = vectors.blocks
    with path.open("rb", buffering=0) as file:
        for number in range(first, last):
            heartbeat()
            part = slice(number * blocks.items, min((number + 1) * blocks.items, len(rows)))
            shape = part.stop - part.start, vectors.dimension
            content = _read(file.fileno(), blocks.offset(part.start), np.empty(shape, np.float32))
            same = vector_sums(content) == columns["vector_sums"][part]
            if not (same | ~rows[part]).all():
                raise DamagedFiles(f"{path} has other vectors than were written")


def _check_texts(path: Path, blocks: Blocks, columns: Columns, rows: Rows, used: int) -> None:
    rows = rows[np.argsort(columns["text_at"][rows], kind="stable")]
    starts, sizes = columns["text_at"][rows], columns["text_bytes"][rows]
    with path.open("rb", buffering=0) as file:
        for first in range(0, used, TEXT_BLOCK_BYTES):
            heartbeat()
            size = min(TEXT_BLOCK_BYTES, used - first)
            content = _read(file.fileno(), blocks.offset(first), np.empty(size, np.uint8))
            part = slice(*np.searchsorted(starts, (first, first + size)).tolist())
            sums = text_sums(content, first, starts[part], sizes[part])
            if not np.array_equal(sums, columns["text_sums"][rows[part]]):
                raise DamagedFiles(f"{path} has other labels than were written")


def _read(file: int, offset: int, into: NDArray[Any]) -> NDArray[Any]:
    """Read and not mapped: a sector that cannot be read is an error, and not a signal."""
    left = memoryview(into.data).cast("B")
    while left:
        count = os.preadv(file, [left], offset)
        if not count:
            raise DamagedFiles("a file of an index is shorter than it was")
        left, offset = left[count:], offset + count
    return into
