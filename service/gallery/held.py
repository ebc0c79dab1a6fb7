"""The galleries in memory, as they are read from the record and as searches see them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial

from service.errors import RecordUnavailable
from service.gallery.gallery import Gallery
from service.record.record import Record

log = logging.getLogger(__name__)


class HeldGalleries:
    """Every gallery in memory; the device thread alone changes which they are.

    Attributes:
        embedders: sizes of the loaded embedders' features by fingerprint, the newest first.
    """

    def __init__(
        self,
        record: Record,
        embedders: Mapping[str, int],
        read_calibration: Callable[[Gallery], None],
    ) -> None:
        """Holds no gallery yet.

        Args:
            read_calibration: reads a gallery's published calibration; it blocks.
        """
        self.embedders = embedders
        self._record = record
        self._read_calibration = read_calibration
        self._by_name: dict[str, Gallery] = {}

    def by_id(self, gallery_id: int) -> Gallery | None:
        """A gallery by its number; None where it was deleted."""
        held = (one for one in list(self._by_name.values()) if one.gallery_id == gallery_id)
        return next(held, None)

    def find_by_name(self, name: str) -> Gallery | None:
        """A gallery by its name; None where there is none."""
        return self._by_name.get(name)

    def all(self) -> list[Gallery]:
        """Every gallery, by name."""
        return sorted(self._by_name.values(), key=lambda gallery: gallery.name)

    def read_gallery(self, gallery_id: int) -> Callable[[], None]:
        """Reads a gallery with its calibration into an index of its own; blocks.

        It shows the record's version at least. What is written meanwhile may be in it.

        Returns:
            What makes it the one that is searched, or drops one that was deleted; to be called on
            the device thread.
        """
        record = self._record.galleries.get(gallery_id)
        while record is not None:
            gallery = Gallery(record, self.embedders)
            if not gallery.needs_reindex:
                gallery.index.add(self._record.crops.vectors(gallery_id))
            now = self._record.galleries.get(gallery_id)
            # Vectors of two embedders must not come together in one index.
            if now is not None and gallery.can_go_on_as(now):
                gallery.follow_record(now)
                self.refresh_calibration(gallery)
                return partial(self.put, gallery)
            record = now
        return partial(self.drop, gallery_id)

    def put(self, gallery: Gallery) -> None:
        """Makes a gallery that was read the one that is searched; on the device thread."""
        held = self.by_id(gallery.gallery_id)
        if held is not None and held.name == gallery.name:
            held.replace(gallery)
        else:
            self.drop(gallery.gallery_id)
            self._by_name[gallery.name] = gallery

    def drop(self, gallery_id: int) -> None:
        """Forgets a gallery that was deleted; on the device thread."""
        gallery = self.by_id(gallery_id)
        if gallery is not None:
            del self._by_name[gallery.name]

    def refresh_calibration(self, gallery: Gallery) -> None:
        """Reads a gallery's published calibration; verdicts go on by the old one on failure."""
        try:
            self._read_calibration(gallery)
        except RecordUnavailable:
            raise
        except Exception:
            log.exception("the calibration of gallery %s cannot be read", gallery.name)
