"""Crops with their vectors, read as tracklets are made of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from model.arrays import Floats, unit_rows
from service.errors import UnknownGallery
from service.gallery.gallery import Gallery
from service.gallery.registry import GalleryRegistry
from service.record.record import Record
from service.record.transaction import batches
from service.record.values import ArchivedCrop

CROPS_AT_ONCE = 500


class SeenCrop(NamedTuple):
    """The labels of a crop by which it is joined with others.

    Attributes:
        time: of capture, in seconds since 1970; None if unknown.
    """

    slot: int
    crop_id: str
    identity: str | None
    camera: str | None
    track: str | None
    time: float | None


@dataclass(frozen=True)
class SeenCrops:
    """Crops of one gallery at one moment, with vectors of a single embedder.

    Attributes:
        version: version of the gallery when they were read.
        labels: of n crops.
        units: their vectors at unit length, `(n, d)` float32.
    """

    version: int
    labels: Sequence[SeenCrop]
    units: Floats


async def _ignore(_count: int) -> None:
    pass


async def read_seen_crops(
    record: Record,
    galleries: GalleryRegistry,
    gallery: Gallery,
    slots: Sequence[int],
    note_read: Callable[[int], Awaitable[None]] = _ignore,
) -> SeenCrops:
    """Read crops, without those that were deleted or damaged meanwhile.

    Args:
        note_read: is called with the number of crops that were read so far.

    Raises:
        UnknownGallery: the gallery was just deleted.
    """
    read = galleries.read
    gallery_id = gallery.gallery_id
    while True:
        before = await read(record.galleries.get, gallery_id)
        if before is None:
            raise UnknownGallery(gallery.name)
        labels: list[SeenCrop] = []
        parts = [np.empty((0, before.dimension or 0), np.float32)]
        for batch in batches(slots, CROPS_AT_ONCE):
            # The metadata of thousands of crops may take gigabytes, and is not kept.
            crops = await read(record.crops.indexed, gallery_id, batch)
            labels += [_label(crop) for crop in crops]
            if crops:
                parts.append(unit_rows(np.stack([crop.vector for crop in crops])))
            await note_read(len(labels))
        after = await read(record.galleries.get, gallery_id)
        if after is not None and before.generation == after.generation:
            return SeenCrops(before.version, labels, np.concatenate(parts))
        # A reindex has switched the vectors: read again.
        await galleries.catch_up()


def _label(crop: ArchivedCrop) -> SeenCrop:
    record = crop.record
    time = record.captured_at.timestamp() if record.captured_at else None
    return SeenCrop(record.slot, record.crop_id, record.identity, record.camera, record.track, time)
