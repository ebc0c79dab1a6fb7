"""Removal of the metadata of pictures that are stored already."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from model.crops.decode import CropProblem
from model.crops.metadata import strip_metadata
from service.record.files import PictureFolder
from service.record.record import Record
from service.record.transaction import Reader, Transaction

# Pictures of one commit, each of which may have a megabyte and more.
PICTURES_AT_ONCE = 20
# A crop whose own hash is noted has been stripped before, or is a thumbnail.
NEXT_CROPS = """
SELECT crops.gallery_id, slot, crop_id, sent_sha256, crops.image_bytes, content, checksum
FROM crops LEFT JOIN pictures USING (gallery_id, slot)
JOIN galleries ON galleries.gallery_id = crops.gallery_id
WHERE (crops.gallery_id, slot) > (?, ?) AND sha256 IS NULL AND content_type IS NOT NULL
AND galleries.name IS NOT NULL
ORDER BY crops.gallery_id, slot LIMIT ?
"""
NEXT_SEARCHES = """
SELECT query_id, content FROM search_pictures WHERE query_id > ? ORDER BY query_id LIMIT ?
"""


@dataclass
class Stripped:
    """Counts of the pictures that were looked at.

    Attributes:
        stripped: had metadata, which is removed.
        unreadable: are missing or no image, and were left as they are.
    """

    crops: int = 0
    searches: int = 0
    stripped: int = 0
    unreadable: int = 0


def strip_stored(
    record: Record, folder: PictureFolder | None, tell: Callable[[Stripped], object]
) -> Stripped:
    """Remove the metadata of all stored pictures, which no service may be using.

    Some pictures share a commit. If it is ended amid the work, the next call goes on.

    Args:
        folder: where pictures outside the record are; None if there are none.
        tell: called with the counts after each commit.
    """
    found = Stripped()
    after: Sequence[Any] = (0, 0)
    while rows := Reader(record.database).tuples(NEXT_CROPS, (*after, PICTURES_AT_ONCE)):
        record.database.write(_strip_crops, rows, folder, found)
        after = rows[-1][:2]
        found.crops += len(rows)
        tell(found)
    query_id = ""
    while rows := Reader(record.database).tuples(NEXT_SEARCHES, (query_id, PICTURES_AT_ONCE)):
        record.database.write(_strip_searches, rows, found)
        query_id, _ = rows[-1]
        found.searches += len(rows)
        tell(found)
    return found


def _strip_crops(
    transaction: Transaction,
    rows: Sequence[tuple[Any, ...]],
    folder: PictureFolder | None,
    found: Stripped,
) -> None:
    for gallery_id, slot, crop_id, sent_sha256, image_bytes, content, checksum in rows:
        is_inside = content is not None
        picture = None
        if is_inside:
            picture = _intact(content, checksum)
        elif folder is not None:
            picture = folder.get(gallery_id, crop_id)
        stripped = _strip(picture, found)
        if stripped is None:
            continue
        if stripped is not picture:
            found.stripped += 1
            if is_inside:
                transaction.change(
                    "UPDATE pictures SET content = ?, checksum = ? "
                    "WHERE gallery_id = ? AND slot = ?",
                    (stripped, zlib.crc32(stripped), gallery_id, slot),
                )
            elif folder is not None:
                # If this is ended before the commit, the next call notes the hash.
                folder.replace(gallery_id, crop_id, stripped)
        sha256 = hashlib.sha256(stripped).digest()
        if sha256 != sent_sha256:
            transaction.change(
                "UPDATE crops SET sha256 = ?, image_bytes = ? WHERE gallery_id = ? AND slot = ?",
                (sha256, len(stripped), gallery_id, slot),
            )
            transaction.change(
                "UPDATE galleries SET image_bytes = image_bytes + ? WHERE gallery_id = ?",
                (len(stripped) - image_bytes, gallery_id),
            )


def _strip_searches(
    transaction: Transaction, rows: Sequence[tuple[Any, ...]], found: Stripped
) -> None:
    for query_id, picture in rows:
        stripped = _strip(picture, found)
        if stripped is None or stripped is picture:
            continue
        found.stripped += 1
        transaction.change(
            "UPDATE search_pictures SET content = ? WHERE query_id = ?", (stripped, query_id)
        )
        transaction.change(
            "UPDATE search_files SET sha256 = ? WHERE query_id = ? AND sent_sha256 = ?",
            (
                hashlib.sha256(stripped).digest(),
                *(query_id, hashlib.sha256(picture).digest()),
            ),
        )


def _intact(content: Any, checksum: int) -> bytes | None:
    # A flipped bit can make a text of it.
    is_intact = isinstance(content, bytes) and zlib.crc32(content) == checksum
    return content if is_intact else None


def _strip(picture: bytes | None, found: Stripped) -> bytes | None:
    """Return a picture without metadata; None, and count it, if it cannot be read."""
    if picture is not None:
        try:
            return strip_metadata(picture)
        except CropProblem:
            pass
    found.unreadable += 1
    return None
