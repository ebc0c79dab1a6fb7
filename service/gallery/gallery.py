"""A gallery in memory: its index, and the version that the index shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from gmn_client.models import GalleryCalibration, GalleryCentring
from service.errors import NeedsReindex
from service.index.columns import Columns
from service.index.gallery_index import GalleryIndex
from service.index.interface import OutsideIndex, SearchedIndex
from service.record.crop_rows import CropColumns
from service.record.record import Record
from service.record.values import GalleryRecord, GallerySettings
from service.record.vectors import VectorFile

MakeIndex = Callable[[int, str], OutsideIndex]
"""Returns the external index of a gallery, given its id and its embedder's fingerprint."""


class Calibrations(Protocol):
    """The calibrations of all galleries, which searches fit and use."""

    def describe(self, gallery: Gallery) -> GalleryCalibration: ...

    def describe_centring(self, gallery: Gallery) -> GalleryCentring: ...

    def forget(self, gallery: Gallery) -> None: ...


class Gallery:
    """A searchable gallery.

    Any thread may read its name and settings; use everything else while the device is held.

    Attributes:
        gallery_id, name, settings: as in the record.
        version: version shown by the index; a write is acknowledged once this reaches it.
        crops: number of crops.
        identities: number of named people in the record.
        embedding_fingerprint: fingerprint of the embedder that made the stored vectors.
        generation: number of the file of the stored vectors.
        calibrated: number of the record's commit that last changed the calibrations.
        newest_embedder: fingerprint of the embedder that a reindex switches to.
        own_index: index held by this process, which applies changes to it.
        outside_index: index held by another program and written by an indexer.
    """

    def __init__(
        self,
        record: GalleryRecord,
        embedders: Mapping[str, int],
        store: Record,
        outside: MakeIndex | None,
    ) -> None:
        """Create a gallery with an empty index.

        Args:
            embedders: feature sizes of the loaded embedders by fingerprint; new galleries use the
                first one.
            store: the record, whose secret keys the index's group codes.
            outside: returns the external index; None if this process holds the index.
        """
        self.gallery_id = record.gallery_id
        self.name = record.name
        self.newest_embedder = next(iter(embedders))
        self._embedders = embedders
        self._store = store
        self._outside = outside
        self._indexed_by = ""
        self.outside_index: OutsideIndex | None = None
        self.own_index: GalleryIndex | None = None
        self.follow_record(record)
        self.version = record.version
        self.generation = record.generation
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
        """The index, in this process or outside it.

        Raises:
            NeedsReindex: no loaded embedder made the stored vectors.
        """
        index = self.own_index or self.outside_index
        if index is None:
            raise NeedsReindex(self.name, self.embedding_fingerprint, self.newest_embedder)
        return index

    def has_vectors_of(self, record: GalleryRecord) -> bool:
        """Return whether the index is one of the vectors of a record, read later than `self`."""
        is_same_generation = self.generation == record.generation
        return is_same_generation and self._indexed_by == self._embedder_of(record)

    def follow_record(self, record: GalleryRecord) -> None:
        self.settings: GallerySettings = record.settings
        self.embedding_fingerprint = record.embedding_fingerprint
        self.calibrated = record.calibrated
        self.identities = record.identities
        self.crops = self.own_index.columns.count if self.own_index else record.crops

    def replace(self, other: Gallery) -> None:
        self.__dict__.update(other.__dict__)

    def apply(
        self,
        record: GalleryRecord,
        changed: Sequence[CropColumns],
        removed: Sequence[int],
        file: VectorFile | None,
    ) -> None:
        """Apply committed changes to the index, which must be one of the record's vectors.

        Applying a change again changes nothing.

        Args:
            record: the gallery's record after these changes.
            changed: labels of the crops that were added or relabelled.
            removed: slots of removed crops.
            file: file with the vectors of the crops; None if there is none.
        """
        index = self.own_index
        if index is not None:
            for crops in changed:
                index.relabel(crops)
                if file is not None:
                    index.columns.add(crops, file)
            if removed:
                index.remove(removed)
        self.follow_record(record)
        if self.crops == 0:
            self._make_index_for(self.newest_embedder)
        # Set the version last: if a step fails, the index must not claim to show it.
        self.version = record.version

    def _embedder_of(self, record: GalleryRecord) -> str:
        return record.embedding_fingerprint if record.crops else self.newest_embedder

    def _make_index_for(self, embedder: str) -> None:
        if embedder != self._indexed_by:
            size = self._embedders.get(embedder)
            self._indexed_by = embedder
            self.own_index = None
            self.outside_index = None
            if size is not None and self._outside:
                self.outside_index = self._outside(self.gallery_id, embedder)
            elif size is not None:
                columns = Columns(
                    size,
                    self._store.galleries.group_secret(),
                    partial(self._store.crops.metadata, self.gallery_id),
                    partial(self._store.tracks.by_slot, self.gallery_id),
                )
                self.own_index = GalleryIndex(columns)
