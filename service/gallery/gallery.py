"""One gallery in memory: its index, and the version that the index has reached."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import cast

from service.gallery.index import GalleryIndex
from service.gallery.records import Enrolment, GalleryRecord, IndexedCrop, Removal
from service.problems import NeedsReindex

log = logging.getLogger(__name__)


class Gallery:
    """Keeps the index in step with the record; everything but the name belongs to one thread.

    Attributes:
        version: what the index shows; it follows the record's before a write is acknowledged.
        embedding_fingerprint: of the embedder that made the stored vectors.
        in_step: False where a committed change could not be applied; a restart mends it.
    """

    def __init__(self, record: GalleryRecord, loaded_fingerprint: str, dimension: int) -> None:
        self.gallery_id = record.gallery_id
        self.name = record.name
        self.version = record.version
        self.crops = record.crops
        self.in_step = True
        self._loaded_fingerprint = loaded_fingerprint
        self._dimension = dimension
        self.embedding_fingerprint = record.embedding_fingerprint
        self._index: GalleryIndex | None = None
        self._index_if_comparable()

    @property
    def needs_reindex(self) -> bool:
        """Whether another embedder than the loaded one filled it."""
        return self._index is None

    def require_comparable(self) -> None:
        """Raises `NeedsReindex` where the stored vectors cannot be compared with new ones."""
        if self._index is None:
            raise NeedsReindex(self.name, self.embedding_fingerprint, self._loaded_fingerprint)

    @property
    def index(self) -> GalleryIndex:
        """The index.

        Raises:
            NeedsReindex: where the stored vectors cannot be compared with the loaded embedder's.
        """
        self.require_comparable()
        return cast(GalleryIndex, self._index)

    def load(self, crops: Iterable[IndexedCrop]) -> None:
        """Fills the index from the record."""
        if self._index is not None:
            self._index.add(crops)

    def apply_enrolment(self, enrolment: Enrolment) -> None:
        """Makes a committed enrolment findable."""
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

    def _index_if_comparable(self) -> None:
        comparable = self.crops == 0 or self.embedding_fingerprint == self._loaded_fingerprint
        if comparable and self._index is None:
            self._index = GalleryIndex(self._dimension)
