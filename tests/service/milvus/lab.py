"""A record with its indexer, beside the same crops in FAISS, without model and HTTP."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.milvus.index import MilvusIndex, MilvusIndexes
from service.milvus.indexer import Indexer
from service.milvus.rows import Codes, Hit
from service.milvus.writing import CollectionWriter
from service.record.collections import IndexState
from service.record.record import Record
from service.record.values import ArchivedCrop, GalleryRecord, GallerySettings
from service.search.filters import Filter
from tests.service.filled_index import FilledIndex
from tests.service.gallery.new_crops import EMBEDDER, new_crop
from tests.service.milvus.fake_server import FakeServer
from tests.service.milvus.servers import Lite, Real
from tests.waiting import eventually

DIMENSION = 32


def drawn(number: int, dimension: int = DIMENSION) -> NDArray[np.float32]:
    """Return a crop's vector, not of unit length."""
    drawing = np.random.default_rng(number)
    return (drawing.normal(size=dimension) * drawing.uniform(1, 9)).astype(np.float32)


def drawn_crop(number: int, **said: Any) -> ArchivedCrop:
    return replace(new_crop(number, **said), vector=drawn(number), picture=None)


def slowed(call: Callable[..., Any], seconds: float, calls: list[Any] | None = None) -> Any:
    """Return a call that begins later; `calls` gets its arguments."""

    def slowly(*args: Any) -> Any:
        time.sleep(seconds)
        if calls is not None:
            calls.append(args)
        return call(*args)

    return slowly


class Lab:
    """The indexer of one process on a record, and its searches."""

    def __init__(
        self,
        folder: Path,
        milvus: FakeServer | Lite | Real,
    ) -> None:
        self.folder = folder
        self.milvus = milvus
        self.record = Record(folder)
        self.server: Any = milvus.connect()
        self.codes = Codes(self.record.galleries.group_secret())
        self.writer = CollectionWriter(self.record, self.server, self.codes)
        self.indexer = Indexer(self.writer)

    def gallery(self, name: str = "default") -> GalleryRecord:
        """Return a gallery of a name, which is made where there is none."""
        for gallery in self.record.galleries.all():
            if gallery.name == name:
                return gallery
        return self.record.galleries.create(name, EMBEDDER, GallerySettings())

    def enroll(self, gallery: GalleryRecord, *crops: ArchivedCrop) -> list[int]:
        crops_now = self.record.crops
        added = crops_now.enroll(gallery.gallery_id, EMBEDDER, list(crops)).added
        return [crop.row_id for crop in added]

    def remove(self, gallery: GalleryRecord, rows: Sequence[int]) -> None:
        crops = self.record.crops
        ids = [crop.crop_id for crop in crops.by_row(gallery.gallery_id, rows).values()]
        crops.remove(gallery.gallery_id, ids)

    def state(self, gallery: GalleryRecord) -> IndexState:
        return self.record.remote_indexes.state(gallery.gallery_id) or IndexState(-1)

    def caught_up(self, gallery: GalleryRecord, seconds: float = 30.0) -> None:
        """Return once the watermark has reached the last commit."""
        entry = self.record.galleries.get(gallery.gallery_id)
        assert entry is not None

        def up() -> bool:
            state = self.state(gallery)
            there = (state.at, state.side) == (entry.at, entry.side)
            filled = bool(state.collection) or not entry.crops
            return there and filled and state.version >= entry.version

        eventually(up, seconds)

    def forget_changes(self) -> None:
        """Remove all changes but the newest of each gallery, as after very many."""
        forget = (
            "DELETE FROM changes WHERE seq < "
            "(SELECT seq FROM feeds WHERE feeds.gallery_id = changes.gallery_id)"
        )
        self.record.database.write(lambda transaction: transaction.change(forget))

    def hits(
        self,
        gallery: GalleryRecord,
        query: NDArray[np.float32],
        limit: int = 1000,
        wanted: Filter | None = None,
    ) -> list[Hit]:
        """Return what Milvus proposes at the watermark."""
        state = self.state(gallery)
        unit = query / np.linalg.norm(query)
        args = (wanted or Filter(), self.codes, state.timestamp)
        return self.server.search(state.collection, unit.astype(np.float32), limit, *args)

    def found(self, gallery: GalleryRecord, *args: Any, **more: Any) -> list[int]:
        return [hit["id"] for hit in self.hits(gallery, *args, **more)]

    def index(self, gallery: GalleryRecord) -> MilvusIndex:
        """Return the gallery's index, as searches ask it."""
        indexes = MilvusIndexes(self.record, self.server, self.codes)
        return indexes.of(gallery.gallery_id, EMBEDDER)

    def in_faiss(self, gallery: GalleryRecord) -> FilledIndex:
        """Return the record's crops in an index of this process."""
        index = FilledIndex(DIMENSION)
        index.fill(self.record.crops.vectors(gallery.gallery_id))
        return index

    def close(self) -> None:
        self.indexer.close()
        self.server.close()
        self.record.close()


@contextlib.contextmanager
def lab(folder: Path, milvus: FakeServer | Lite | Real) -> Iterator[Lab]:
    """Yield a lab whose indexer runs."""
    with contextlib.closing(Lab(folder, milvus)) as own:
        own.gallery()
        own.indexer.start()
        yield own
