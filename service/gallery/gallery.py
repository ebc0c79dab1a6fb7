"""One gallery in memory: its index, and the version that the index has reached."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import cast

from service.errors import NeedsReindex
from service.record.changes import Change
from service.record.records import (
    Enrolment,
    GalleryRecord,
    GallerySettings,
    IndexedCrop,
    Relabelling,
    Removal,
)
from service.search.index import GalleryIndex

log = logging.getLogger(__name__)


class OutOfStep(Exception):
    """An index that is not what it should be; everything has to be read again."""


class Gallery:
    """Keeps the index in step with the record; everything but name and settings is one thread's.

    Attributes:
        version: what the index shows; it follows the record's before a write is acknowledged.
        embedding_fingerprint: of the embedder that made the stored vectors.
        in_step: False where a committed change could not be applied; a restart mends it.
    """

    def __init__(self, record: GalleryRecord, embedders: Mapping[str, int]) -> None:
        """Makes an empty gallery of a record.

        Args:
            record: as stored.
            embedders: sizes of the features of the loaded embedders by fingerprint; the first is
                the one that new galleries are bound to.
        """
        self.gallery_id = record.gallery_id
        self.name = record.name
        self.settings: GallerySettings = record.settings
        self.version = record.version
        self.crops = record.crops
        self.in_step = True
        self.embedding_fingerprint = record.embedding_fingerprint
        self._embedders = embedders
        self._index: GalleryIndex | None = None
        self._index_if_comparable()

    @property
    def needs_reindex(self) -> bool:
        """Whether no loaded embedder made its vectors."""
        return self._index is None

    @property
    def outdated(self) -> bool:
        """Whether another embedder than the newest loaded one made its vectors."""
        return self.crops > 0 and self.embedding_fingerprint != self.newest_embedder

    @property
    def newest_embedder(self) -> str:
        """Fingerprint of the embedder that a reindex leads to."""
        return next(iter(self._embedders))

    @property
    def embedder(self) -> str:
        """Fingerprint of the embedder whose features are compared with the stored vectors.

        Raises:
            NeedsReindex: where that one is not loaded.
        """
        self.require_comparable()
        return self.embedding_fingerprint if self.crops else self.newest_embedder

    def require_comparable(self) -> None:
        """Raises `NeedsReindex` where the stored vectors cannot be compared with new ones."""
        if self._index is None:
            raise NeedsReindex(self.name, self.embedding_fingerprint, self.newest_embedder)

    @property
    def index(self) -> GalleryIndex:
        """The index.

        Raises:
            NeedsReindex: where the stored vectors cannot be compared with a loaded embedder's.
        """
        self.require_comparable()
        return cast(GalleryIndex, self._index)

    def adopt(
        self, index: GalleryIndex | None, embedding_fingerprint: str, version: int, crops: int
    ) -> None:
        """Replaces everything that is searched, in one step; None needs a reindex."""
        self.embedding_fingerprint = embedding_fingerprint
        self.version = version
        self.crops = crops
        self._index = index
        self.in_step = True

    def goes_on_as(self, record: GalleryRecord) -> bool:
        """Whether the index can go on with what a record says, or another one is needed."""
        filled_anew = self.crops == 0 and record.crops > 0
        return record.embedding_fingerprint == self.embedding_fingerprint and not (
            filled_anew and record.embedding_fingerprint != self.newest_embedder
        )

    def follow(self, change: Change, crops: Sequence[IndexedCrop], counted: int) -> None:
        """Shows a change that the record told of; one that is shown already changes nothing.

        Args:
            change: what happened.
            crops: as they are now, of those concerned that are still there.
            counted: how many crops the record has by now.

        Raises:
            OutOfStep: the index cannot be what the record was before this change.
        """
        self.version = max(self.version, change.version)
        if self._index is None:
            self.crops = counted
            self._index_if_comparable()
            return
        table = self._index.table
        if change.kind == "removed":
            self._index.remove(change.row_ids)
        elif change.kind == "relabelled":
            table.relabel(crop.label for crop in crops)
        elif change.kind == "added":
            new = [crop for crop in crops if not table.holds(crop.label.row_id)]
            if new and new[0].label.row_id <= table.newest:
                raise OutOfStep(f"crop {new[0].label.crop_id} is missing from the index")
            self._index.add(new)
        self.crops = table.valid_count

    def apply_enrolment(self, enrolment: Enrolment) -> None:
        """Makes a committed enrolment findable."""
        if enrolment.replayed:
            return
        if self.crops == 0 and self.embedding_fingerprint != enrolment.embedding_fingerprint:
            self._index = None
        self.embedding_fingerprint = enrolment.embedding_fingerprint
        self.crops += len(enrolment.added)
        self.version = enrolment.version
        try:
            self._index_if_comparable()
            self.index.add(enrolment.added)
        except Exception:
            self.in_step = False
            log.exception("gallery %s: a committed enrolment could not be indexed", self.name)
            raise

    def apply_removal(self, removal: Removal) -> None:
        """Makes committed deletions unfindable."""
        self.crops -= len(removal.row_ids)
        self.version = removal.version
        if self._index is not None:
            self._index.remove(removal.row_ids)
        self._index_if_comparable()

    def apply_relabelling(self, relabelling: Relabelling) -> None:
        """Shows crops under their new labels."""
        self.version = relabelling.version
        if self._index is not None:
            self._index.table.relabel(relabelling.labels)

    def _index_if_comparable(self) -> None:
        if self._index is not None:
            return
        fingerprint = self.embedding_fingerprint if self.crops else self.newest_embedder
        if fingerprint in self._embedders:
            self._index = GalleryIndex(self._embedders[fingerprint])
