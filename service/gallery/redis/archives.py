"""A gallery at one moment: what is removed or renamed while it is read stays for the reader."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Iterator

import numpy as np

from service.gallery.record_store import Archive
from service.gallery.records import ArchivedCrop, Picture
from service.gallery.redis.chores import do_chores
from service.gallery.redis.database import Argument, Database
from service.gallery.redis.failures import RETRY_AFTER_S
from service.gallery.redis.values import COLUMNS, stored_crop
from service.problems import RecordUnavailable, ServiceProblem

log = logging.getLogger(__name__)
# Between two reads; a reader that died holds nothing for longer.
HELD_MS = 120_000
CROPS_PER_READ = 100
BYTES_PER_READ = 16 * 1024**2
IDENTITY = COLUMNS.index("identity")


@contextlib.contextmanager
def archive(database: Database, gallery_id: int) -> Iterator[Archive]:
    """Holds a gallery as it is while the context lasts."""
    name = secrets.token_hex(8)
    begun = database.write("begin_archive", gallery_id, name, HELD_MS)
    where = (gallery_id, begun["generation"], name)
    try:
        yield Archive(int(begun["version"]), begun["embedder"], _crops(database, where))
    finally:
        try:
            database.write("end_archive", *where)
            do_chores(database)
        except ServiceProblem as problem:
            # What was read is whole; the rest is given up by itself.
            log.warning("an archive of gallery %s could not be ended: %s", gallery_id, problem)


def _crops(database: Database, where: tuple[Argument, ...]) -> Iterator[ArchivedCrop]:
    after: Argument = 0
    while True:
        found = database.read(
            "read_archive", *where, HELD_MS, after, CROPS_PER_READ, BYTES_PER_READ
        )
        if found is None:
            raise RecordUnavailable(
                f"the copy of a gallery waited for more than {HELD_MS / 1000:g} s between two reads"
                " and was given up; take it again",
                RETRY_AFTER_S,
            )
        for row_id, values, identity, vector, content in found:
            if identity is not None:
                values[IDENTITY] = identity
            record = stored_crop(row_id, values)
            picture = Picture(content, record.content_type or "") if content is not None else None
            yield ArchivedCrop(record, np.frombuffer(vector, "<f4"), picture)
        if not found:
            return
        after = found[-1][0]
