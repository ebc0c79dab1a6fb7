"""One gallery in memory: its index, and the version that the index shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from service.errors import NeedsReindex
from service.milvus.index import MilvusIndex
from service.record.crop_rows import CropColumns
from service.record.values import GalleryRecord, GallerySettings
from service.record.vectors import VectorFile
from service.search.columns import Columns
from service.search.filters import ReadTexts
from service.search.index import GalleryIndex

SearchedIndex = GalleryIndex | MilvusIndex
MakeIndex = Callable[[int, str], MilvusIndex]
"""Finds the index of a gallery, by its number and the embedder's fingerprint."""


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
    """

    def __init__(
        self,
        record: GalleryRecord,
        embedders: Mapping[str, int],
        secret: bytes,
        outside: MakeIndex | None,
        metadata: ReadTexts,
        tracks: ReadTexts,
    ) -> None:
        """Make a gallery with an empty index.

        Args:
            embedders: feature sizes of the loaded embedders by fingerprint; new galleries take the
                first one.
            secret: secret of the record, for the index's group codes.
            outside: finds the index outside this process; None if this process holds the index.
            metadata, tracks: read the metadata and the tracks of crops by slot.
        """
        self.gallery_id = record.gallery_id
        self.name = record.name
        self.newest_embedder = next(iter(embedders))
        self._embedders = embedders
        self._secret = secret
        self._outside = outside
        self._metadata = metadata
        self._tracks = tracks
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
        self.__dict__.update(read.__dict__)

    def apply(
        self,
        record: GalleryRecord,
        version: int,
        added: Sequence[CropColumns],
        relabelled: Sequence[CropColumns],
        removed: Sequence[int],
        file: VectorFile | None,
    ) -> None:
        """Apply committed changes to the index, which must be able to hold the record's vectors.

        Crops that were added already stay, and unknown ones are ignored.

        Args:
            record: the gallery's, read after the crops.
            version: of the gallery after these changes.
            added, relabelled: the labels of the crops that are still there.
            removed: slots.
            file: holds the vectors of the added crops; None where there is none.
        """
        index = self.own_index
        if index is not None:
            if file is not None:
                for crops in added:
                    index.columns.add(crops, file)
            for crops in relabelled:
                index.columns.relabel(crops)
            index.remove(removed)
        self.follow_record(record)
        if self.crops == 0:
            self._make_index_for(self.newest_embedder)
        # The version comes last: where a part fails, it is not one that the index shows.
        self.version = max(self.version, version)

    def _embedder_of(self, record: GalleryRecord, vectors: bool = False) -> str:
        """Return the embedder of a record's vectors; an empty gallery takes the newest."""
        return record.embedding_fingerprint if record.crops or vectors else self.newest_embedder

    def _make_index_for(self, embedder: str) -> None:
        if embedder != self._indexed_by:
            size = self._embedders.get(embedder)
            self._indexed_by = embedder
            self.own_index = None
            self.outside_index = None
            if size is not None and self._outside:
                self.outside_index = self._outside(self.gallery_id, embedder)
            elif size is not None:
                columns = Columns(size, self._secret, self._metadata, self._tracks)
                self.own_index = GalleryIndex(columns)
