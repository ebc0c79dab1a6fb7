"""A gallery at one moment: what is removed or renamed while it is read stays for the reader."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from service.gallery.record_store import Archive
from service.gallery.records import ArchivedCrop, Picture
from service.gallery.redis.chores import do_chores
from service.gallery.redis.database import Argument, Database
from service.gallery.redis.sums import check_content, check_onwards, not_found, not_listed
from service.gallery.redis.values import read_vector, stored_crop
from service.problems import DamagedRedisRecord, RecordUnavailable, ServiceProblem
from service.record.redis_errors import RETRY_AFTER_S

log = logging.getLogger(__name__)
# Between two reads; a reader that died holds nothing for longer.
HELD_MS = 120_000
CROPS_PER_READ = 100
BYTES_PER_READ = 16 * 1024**2
OnDamage = Callable[[DamagedRedisRecord], object]


@contextlib.contextmanager
def archive(
    database: Database, gallery_id: int, on_damage: OnDamage | None = None
) -> Iterator[Archive]:
    """Holds a gallery as it is while the context lasts."""
    name = secrets.token_hex(8)
    begun = database.write("begin_archive", gallery_id, name, HELD_MS)
    if begun["without_row"] and on_damage:
        on_damage(not_listed(begun["without_row"]))
    where = (gallery_id, begun["generation"], name)
    try:
        yield Archive(int(begun["version"]), begun["embedder"], _crops(database, where, on_damage))
    finally:
        try:
            database.write("end_archive", *where)
            do_chores(database)
        except ServiceProblem as problem:
            # What was read is whole; the rest is given up by itself.
            log.warning("an archive of gallery %s could not be ended: %s", gallery_id, problem)


def _crops(
    database: Database, where: tuple[Argument, ...], on_damage: OnDamage | None
) -> Iterator[ArchivedCrop]:
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
        for one in found:
            *crop_read, not_found_by = one
            try:
                crop = _archived(*crop_read)
            except DamagedRedisRecord as damage:
                if on_damage is None:
                    raise
                on_damage(damage)
            else:
                if not_found_by and on_damage:
                    on_damage(not_found(crop.record.crop_id, not_found_by))
                yield crop
        if not found:
            return
        after = check_onwards(after, found[-1][0])


def _archived(
    row_id: bytes,
    values: Sequence[bytes | None],
    identity: bytes | None,
    vector: Sequence[bytes | None],
    content: bytes | None,
    picture_sum: bytes | None,
) -> ArchivedCrop:
    record = stored_crop(row_id, values)
    if identity is not None:
        record = replace(record, identity=identity.decode())
    check_content("picture", record.crop_id, content, picture_sum)
    picture = Picture(content, record.content_type or "") if content is not None else None
    return ArchivedCrop(record, read_vector(record.crop_id, *vector), picture)
