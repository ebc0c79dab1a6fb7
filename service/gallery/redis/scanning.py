"""Reading a gallery page by page, so that no script holds up the others for long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeVar

from service.gallery.records import IndexedCrop, StoredCrop
from service.gallery.redis.database import Argument, Database
from service.gallery.redis.sums import check_onwards, not_listed
from service.gallery.redis.values import indexed_crop, stored_crop
from service.problems import RecordUnavailable
from service.record.redis_errors import RETRY_AFTER_S

VECTORS_PER_READ = 200
CROPS_LOOKED_AT = 2000
Item = TypeVar("Item")


def batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Items, up to `size` at a time."""
    for first in range(0, len(items), size):
        yield items[first : first + size]


def read_crops(
    database: Database, name: str, gallery_id: int, after: int, limit: int, *more: Argument
) -> list[StoredCrop]:
    """Up to `limit` crops by a script that looks at so many at a time."""
    found: list[StoredCrop] = []
    onwards: Argument = after
    while onwards != b"" and len(found) < limit:
        further, *crops = database.read(
            name, gallery_id, onwards, limit - len(found), CROPS_LOOKED_AT, *more
        )
        onwards = check_onwards(onwards, further)
        found.extend(stored_crop(*crop) for crop in crops)
    return found


def read_vectors(
    database: Database, gallery_id: int, which: Literal["searched", "staged"]
) -> Iterator[IndexedCrop]:
    """Every crop with its vector, by row id; those that come or go meanwhile may be in it or not.

    Raises:
        RecordUnavailable: the vectors were replaced meanwhile.
        DamagedRedisRecord: naming the first crop that is not what was written.
    """
    begun: bytes | None = None
    onwards: Argument = 0
    while onwards != b"":
        read, further, without_row, *crops = database.read(
            "vectors", gallery_id, which, "after", onwards, VECTORS_PER_READ
        )
        onwards = check_onwards(onwards, further)
        if begun is not None and read != begun:
            raise RecordUnavailable(
                "a gallery was replaced while its vectors were read; read them again",
                RETRY_AFTER_S,
            )
        begun = read
        if without_row:
            raise not_listed(without_row)
        for crop in crops:
            yield indexed_crop(*crop)


def read_indexed(database: Database, gallery_id: int, row_ids: Sequence[int]) -> list[IndexedCrop]:
    """Those of these crops that are there, with the vectors that are searched, by row id."""
    found: list[IndexedCrop] = []
    for batch in batches(sorted(set(row_ids)), VECTORS_PER_READ):
        _, _, _, *crops = database.read("vectors", gallery_id, "searched", "rows", *batch)
        found.extend(indexed_crop(*crop) for crop in crops)
    return found
