"""What is whole of a record in Redis, found by reading all of it, and a record of that alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from model.problems import InputProblem
from service.gallery.records import ArchivedCrop, GalleryRecord
from service.gallery.redis.store import RedisStore
from service.gallery.verification import GalleryFound

Use = Callable[[str, Iterable[ArchivedCrop]], object]
"""Does something with a gallery's embedder and those of its crops that are whole."""


def verify_galleries(store: RedisStore) -> list[GalleryFound]:
    """Reads every crop with its vector and picture, also while they are served."""
    return [_read(store, gallery, _only_read) for gallery in _all(store)]


def recover_galleries(store: RedisStore) -> list[GalleryFound]:
    """Builds each damaged gallery anew from its whole crops, and leaves out the others.

    Returns:
        Those galleries, as they were.

    Raises:
        InputProblem: while a service is connected; what it wrote meanwhile would be lost.
    """
    if store.others_connected():
        raise InputProblem(
            "GMN_REDIS_URL: a service is connected to this record; stop every one of them first"
        )
    damaged = {one.gallery_id for one in verify_galleries(store) if one.damage}
    return [
        _read(store, gallery, partial(store.crops.replace, gallery.gallery_id))
        for gallery in _all(store)
        if gallery.gallery_id in damaged
    ]


def _only_read(_: str, crops: Iterable[ArchivedCrop]) -> None:
    for _crop in crops:
        pass


def _all(store: RedisStore) -> list[GalleryRecord]:
    return sorted(store.galleries.all(), key=lambda one: one.name)


def _read(store: RedisStore, gallery: GalleryRecord, use: Use) -> GalleryFound:
    damage: list[str] = []
    whole = 0

    def counted(crops: Iterable[ArchivedCrop]) -> Iterable[ArchivedCrop]:
        nonlocal whole
        for crop in crops:
            whole += 1
            yield crop

    with store.crops.archive(gallery.gallery_id, lambda one: damage.append(one.what)) as archive:
        use(archive.embedding_fingerprint, counted(archive.crops))
    return GalleryFound(gallery.gallery_id, gallery.name, whole, tuple(damage))
