"""One gallery in memory: its index, and the version that the index shows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from service.errors import NeedsReindex
from service.milvus.index import MilvusIndex
from service.record.values import Enrolment, GalleryRecord, GallerySettings, Relabelling, Removal
from service.search.index import GalleryIndex
from service.search.index_files import IndexFolder, Stored

# One committed change of a gallery's crops.
CropsChange = Enrolment | Removal | Relabelling
SearchedIndex = GalleryIndex | MilvusIndex
MakeIndex = Callable[[int, str], MilvusIndex]
"""Finds the index of a gallery, by its number and the embedder's fingerprint."""


class IndexMismatch(Exception):
    """An index differs from the record before a change; the gallery must be read again."""


class Gallery:
    """A gallery that can be searched.

    Its name and settings may be read on any thread, everything else on the device thread.

    Attributes:
        gallery_id, name, settings: as in the record.
        version: version that the index shows; a write is acknowledged once it is reached.
        crops: number of crops.
        embedding_fingerprint: of the embedder that made the stored vectors.
        newest_embedder: fingerprint of the embedder that a reindex leads to.
        own_index: index of vectors that this process holds and applies changes to.
        outside_index: index that another program holds and an indexer writes.
        consistent: False if a committed change could not be applied, until it is read again.
    """

    def __init__(
        self,
        record: GalleryRecord,
        embedders: Mapping[str, int],
        secret: bytes = b"",
        outside: MakeIndex | None = None,
        folder: IndexFolder | None = None,
    ) -> None:
        """Make a gallery with an empty index.

        Args:
            embedders: feature sizes of the loaded embedders by fingerprint; new galleries take the
                first one.
            secret: secret of the record, for the index's group codes.
            outside: finds the index outside this process; None if this process holds the index.
            folder: folder of the index's files; None to keep it in memory only.
        """
        self.gallery_id = record.gallery_id
        self.name = record.name
        self.newest_embedder = next(iter(embedders))
        self.consistent = True
        self._embedders = embedders
        self._secret = secret
        self._outside = outside
        self._folder = folder
        self._indexed_by = ""
        self.outside_index: MilvusIndex | None = None
        self.own_index: GalleryIndex | None = None
        self.follow_record(record)
        self.version = record.version
        self._make_index_for(self._embedder_of(record))

    @property
    def needs_reindex(self) -> bool:
        return self.own_index is None and self.outside_index is None

    @property
    def outdated(self) -> bool:
        return self.crops > 0 and self.embedding_fingerprint != self.newest_embedder

    @property
    def embedder(self) -> str:
        """Fingerprint of the embedder whose features are compared with the stored vectors.

        Raises:
            NeedsReindex: that embedder is not loaded.
        """
        _ = self.index
        return self._indexed_by

    @property
    def index(self) -> SearchedIndex:
        """Return the index, in this process or outside it.

        Raises:
            NeedsReindex: no loaded embedder made the stored vectors.
        """
        index = self.own_index or self.outside_index
        if index is None:
            raise NeedsReindex(self.name, self.embedding_fingerprint, self.newest_embedder)
        return index

    def checkpoint(self, position: str) -> Stored | None:
        """Return the state of the own index to write to its files; None if it cannot be written.

        Args:
            position: position in the record's history, no later than the state of the index.
        """
        index = self.own_index
        if index is None or not self.consistent:
            return None
        state = {"version": self.version, "position": position}
        return index.table.checkpoint({**self.stored_as(), **state})

    def stored_as(self) -> dict[str, Any]:
        return {
            "format": 2,
            "gallery": self.gallery_id,
            "embedder": self._indexed_by,
            "secret": hashlib.sha256(self._secret).hexdigest(),
            "dimension": self._embedders.get(self._indexed_by),
        }

    def image_url(self, crop_id: str) -> str:
        return f"/v1/galleries/{self.name}/crops/{crop_id}/image"

    def can_go_on_as(self, record: GalleryRecord, vectors: bool = False) -> bool:
        """Return whether the index can hold the record's vectors; if not, another one is needed.

        Args:
            record: record of the gallery, read later than `self`.
            vectors: whether vectors were read before `record`, which may be of its embedder.
        """
        return self._indexed_by == self._embedder_of(record, vectors)

    def follow_record(self, record: GalleryRecord) -> None:
        """Take over the settings and embedder of a record, and its count if there is no index."""
        self.settings: GallerySettings = record.settings
        self.embedding_fingerprint = record.embedding_fingerprint
        self.crops = self.own_index.count if self.own_index else record.crops

    def replace(self, read: Gallery) -> None:
        """Take over all state of a gallery that was read again, in one step."""
        self.__dict__.update(read.__dict__)

    def apply(self, change: CropsChange) -> None:
        """Apply a committed change to the index.

        Unknown crops of the change are ignored, and crops that were added already stay. Only an
        empty gallery takes crops of another embedder.

        Raises:
            IndexMismatch: an older crop is missing from the index.
        """
        if isinstance(change, Enrolment) and change.added:
            self.embedding_fingerprint = change.embedding_fingerprint
            self._make_index_for(change.embedding_fingerprint)
            index = self.own_index
            if index is None:
                raise NeedsReindex(self.name, self.embedding_fingerprint, self.newest_embedder)
            newest = index.table.newest
            for crop in change.added:
                if crop.label.row_id <= newest and not index.table.holds(crop.label.row_id):
                    raise IndexMismatch(f"crop {crop.label.crop_id} is missing from the index")
            index.add([crop for crop in change.added if crop.label.row_id > newest])
        elif isinstance(change, Removal):
            if self.own_index is None:
                self.crops -= change.count
            else:
                self.own_index.remove(change.row_ids)
        elif isinstance(change, Relabelling) and self.own_index is not None:
            self.own_index.table.relabel(change.labels)
        if self.own_index is not None:
            self.crops = self.own_index.count
        if self.crops == 0:
            self._make_index_for(self.newest_embedder)
        self.version = max(self.version, change.version)

    def _embedder_of(self, record: GalleryRecord, vectors: bool = False) -> str:
        """Return the embedder of a record's vectors; an empty gallery takes the newest."""
        return record.embedding_fingerprint if record.crops or vectors else self.newest_embedder

    def _make_index_for(self, embedder: str) -> None:
        """Begin an empty index, unless there is one of this embedder or it is not loaded."""
        if embedder != self._indexed_by:
            size = self._embedders.get(embedder)
            self._indexed_by = embedder
            self.own_index = None
            self.outside_index = None
            if size is not None and self._outside:
                self.outside_index = self._outside(self.gallery_id, embedder)
            elif size is not None:
                self.own_index = GalleryIndex(size, secret=self._secret, folder=self._folder)
