"""The galleries in memory: which there are, and how one is read from the record and shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from service.errors import UnknownGallery
from service.gallery.gallery import Gallery
from service.record.record import Record
from service.record.records import GalleryRecord
from service.search.compaction import Compactor
from service.search.index import GalleryIndex


@dataclass(frozen=True)
class LoadedGallery:
    """A gallery as the record has it; `index` is None where no loaded embedder made its vectors."""

    record: GalleryRecord
    index: GalleryIndex | None


class HeldGalleries:
    """Galleries by name and number; looked up from any thread, changed on one at a time."""

    def __init__(self, store: Record, embedders: Mapping[str, int], compactor: Compactor) -> None:
        """Holds none yet.

        Args:
            store: the record of everything.
            embedders: sizes of the loaded embedders' features by fingerprint, the newest first.
            compactor: looks after every index that changes.
        """
        self._store = store
        self._embedders = embedders
        self._compactor = compactor
        self._by_name: dict[str, Gallery] = {}

    @property
    def newest_embedder(self) -> str:
        """Fingerprint of the embedder that new galleries are bound to."""
        return next(iter(self._embedders))

    def get(self, name: str) -> Gallery:
        """A gallery by its name.

        Raises:
            UnknownGallery: where there is none.
        """
        try:
            return self._by_name[name]
        except KeyError as error:
            raise UnknownGallery(name) from error

    def by_id(self, gallery_id: int) -> Gallery | None:
        """A gallery by its number; None where it was deleted."""
        held = (one for one in list(self._by_name.values()) if one.gallery_id == gallery_id)
        return next(held, None)

    def all(self) -> list[Gallery]:
        """Every gallery, by name."""
        return sorted(self._by_name.values(), key=lambda gallery: gallery.name)

    def has(self, gallery: Gallery) -> bool:
        """Whether it is still there, and nothing else under its name."""
        return self._by_name.get(gallery.name) is gallery

    def read(self, gallery_id: int) -> LoadedGallery | None:
        """Reads a gallery into an index of its own; on whichever thread, and blocks.

        The index shows the record's version at least. What is written meanwhile may be in it.

        Returns:
            None where it was deleted.
        """
        record = self._store.galleries.get(gallery_id)
        while record is not None:
            made_by = self.compared_by(record)
            index = None
            if made_by in self._embedders:
                index = GalleryIndex(self._embedders[made_by])
                index.add(self._store.crops.vectors(gallery_id))
            now = self._store.galleries.get(gallery_id)
            # Vectors of two embedders must not come together in one index.
            if now is not None and self.compared_by(now) == made_by:
                return LoadedGallery(replace(now, version=record.version), index)
            record = now
        return None

    def compared_by(self, record: GalleryRecord) -> str:
        """Fingerprint of the embedder whose features are compared with a gallery's."""
        return record.embedding_fingerprint if record.crops else self.newest_embedder

    def show(self, loaded: LoadedGallery) -> Gallery:
        """Lets searches see what was read, in one step; on the device thread."""
        record = loaded.record
        gallery = self.by_id(record.gallery_id)
        if gallery is None or gallery.name != record.name:
            self.drop(record.gallery_id)
            gallery = Gallery(record, self._embedders)
        gallery.settings = record.settings
        crops = loaded.index.table.valid_count if loaded.index else record.crops
        gallery.adopt(loaded.index, record.embedding_fingerprint, record.version, crops)
        self._by_name[record.name] = gallery
        self.look_after(gallery)
        return gallery

    def add(self, record: GalleryRecord) -> None:
        """Holds a gallery that was just created, without crops."""
        self._by_name[record.name] = Gallery(record, self._embedders)

    def drop(self, gallery_id: int) -> None:
        """Holds a gallery no more; one that is not held is no error."""
        gallery = self.by_id(gallery_id)
        if gallery is not None:
            self._by_name.pop(gallery.name, None)

    def look_after(self, gallery: Gallery) -> None:
        """Does for a gallery's index what its last change calls for; on the device thread."""
        if not gallery.needs_reindex:
            self._compactor.schedule_if_needed(gallery.index)

    def clear(self) -> None:
        """Holds none."""
        self._by_name.clear()
