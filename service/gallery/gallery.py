"""One gallery in memory: its index, and the version that the index shows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from service.errors import NeedsReindex
from service.milvus.index import MilvusIndex
from service.record.records import Enrolment, GalleryRecord, GallerySettings, Relabelling, Removal
from service.search.index import GalleryIndex
from service.search.index_files import IndexFolder, Stored

# One committed change of a gallery's crops.
CropsChange = Enrolment | Removal | Relabelling
SearchedIndex = GalleryIndex | MilvusIndex
# By a gallery's number and an embedder's fingerprint.
MakeIndex = Callable[[int, str], MilvusIndex]


class IndexMismatch(Exception):
    """An index is not what the record was before a change; the gallery has to be read again."""


class Gallery:
    """A gallery that can be searched; all but its name and settings is the device thread's.

    Attributes:
        gallery_id, name, settings: as in the record.
        version: what the index shows; a write is acknowledged once it shows the write's version.
        crops: how many there are.
        embedding_fingerprint: of the embedder that made the stored vectors.
        newest_embedder: fingerprint of the embedder that a reindex leads to.
        own_index: the index where this process holds the vectors, and changes are applied to it.
        outside_index: the one that another program holds and an indexer writes.
        consistent: False where a committed change could not be applied, until it is read again.
    """

    def __init__(
        self,
        record: GalleryRecord,
        embedders: Mapping[str, int],
        secret: bytes = b"",
        outside: MakeIndex | None = None,
        folder: IndexFolder | None = None,
    ) -> None:
        """A gallery of a record, whose index is empty.

        Args:
            embedders: sizes of the loaded embedders' features by fingerprint; the first is the one
                that new galleries are bound to.
            secret: the record's, for the index's group codes.
            outside: finds the index outside this process; None for one that this process holds.
            folder: of the index's files; None for memory alone.
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
        """Whether no loaded embedder made its vectors."""
        return self.own_index is None and self.outside_index is None

    @property
    def outdated(self) -> bool:
        """Whether another embedder than the newest loaded one made its vectors."""
        return self.crops > 0 and self.embedding_fingerprint != self.newest_embedder

    @property
    def embedder(self) -> str:
        """Fingerprint of the embedder whose features are compared with the stored vectors.

        Raises:
            NeedsReindex: where that one is not loaded.
        """
        _ = self.index
        return self._indexed_by

    @property
    def index(self) -> SearchedIndex:
        """The index.

        Raises:
            NeedsReindex: where no loaded embedder made the stored vectors.
        """
        index = self.own_index or self.outside_index
        if index is None:
            raise NeedsReindex(self.name, self.embedding_fingerprint, self.newest_embedder)
        return index

    def checkpoint(self, position: str) -> Stored | None:
        """What its index shows, to be written to its files; None where it has none.

        Args:
            position: in the history of the record, no later than what it shows.
        """
        index = self.own_index
        if index is None or not self.consistent:
            return None
        known = {"version": self.version, "position": position}
        return index.table.checkpoint({**self.stored_as(), **known})

    def stored_as(self) -> dict[str, Any]:
        """What files of its own index have to be of."""
        return {
            "format": 2,
            "gallery": self.gallery_id,
            "embedder": self._indexed_by,
            "secret": hashlib.sha256(self._secret).hexdigest(),
            "dimension": self._embedders.get(self._indexed_by),
        }

    def image_url(self, crop_id: str) -> str:
        """Where a crop's picture is, below the service's address."""
        return f"/v1/galleries/{self.name}/crops/{crop_id}/image"

    def can_go_on_as(self, record: GalleryRecord, vectors: bool = False) -> bool:
        """Whether the index can hold what the record has; otherwise another one is needed.

        Args:
            record: the gallery's, read later than `self` was.
            vectors: whether vectors were read before the record was, which may be its embedder's.
        """
        return self._indexed_by == self._embedder_of(record, vectors)

    def follow_record(self, record: GalleryRecord) -> None:
        """Takes over what a record has beside the crops, and their number if it has no index."""
        self.settings: GallerySettings = record.settings
        self.embedding_fingerprint = record.embedding_fingerprint
        self.crops = self.own_index.count if self.own_index else record.crops

    def replace(self, read: Gallery) -> None:
        """Takes over everything of a gallery that was read again, in one step."""
        self.__dict__.update(read.__dict__)

    def apply(self, change: CropsChange) -> None:
        """Shows a committed change; of the crops that it names unknown ones are no error.

        Crops that are added already stay as they are. Another embedder than before adds only to an
        empty gallery.

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
        """Whose features are compared with a record's vectors; an empty one takes the newest."""
        return record.embedding_fingerprint if record.crops or vectors else self.newest_embedder

    def _make_index_for(self, embedder: str) -> None:
        """Begins an empty index, unless there is one of this embedder; none of an unknown one."""
        if embedder != self._indexed_by:
            size = self._embedders.get(embedder)
            self._indexed_by = embedder
            self.own_index = None
            self.outside_index = None
            if size is not None and self._outside:
                self.outside_index = self._outside(self.gallery_id, embedder)
            elif size is not None:
                self.own_index = GalleryIndex(size, secret=self._secret, folder=self._folder)
