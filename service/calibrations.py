"""Every gallery's own calibration, made when it is first asked for and kept with the gallery."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable

from service.gallery.galleries import Galleries
from service.gallery.gallery import Gallery
from service.gallery.own_calibration import OwnCalibration
from service.gallery.records import GalleryRecord
from service.inference.loaded_model import LoadedModel

Key = tuple[int, str]


class Calibrations:
    """Own calibrations by gallery and embedder: another embedder's scores teach nothing here."""

    def __init__(self, galleries: Galleries, model_of: Callable[[Gallery], LoadedModel]) -> None:
        self._galleries = galleries
        self._model_of = model_of
        self._lock = threading.Lock()
        self._held: dict[Key, OwnCalibration] = {}
        self._kept: dict[Key, str] = {}

    def of(self, gallery: Gallery) -> OwnCalibration:
        """A gallery's own.

        Raises:
            NeedsReindex: where no loaded model answers for it.
        """
        model = self._model_of(gallery)
        key = self._key(gallery)
        with self._lock:
            if key not in self._held:
                self._held[key] = OwnCalibration(
                    model.description.calibration,
                    model.description.artefact_fingerprint[:12],
                    model.identical_mnet,
                    gallery.settings.calibration == "on",
                )
            return self._held[key]

    def load(self) -> None:
        """Takes up what earlier processes learnt; blocks."""
        for gallery in self._galleries.all():
            self.follow(gallery)

    def follow(self, gallery: Gallery) -> None:
        """Takes up what another process learnt of a gallery, in the place of what this one did.

        What this one has kept itself, and what it gathered since, stays. Blocks.
        """
        store = self._galleries.store
        record = store.galleries.get(gallery.gallery_id)
        if record is None or gallery.needs_reindex or gallery.settings.calibration != "on":
            return
        kept = store.galleries.calibration(gallery.gallery_id)
        key = self._key(gallery)
        if kept is None:
            if key in self._kept:
                self.forget(gallery)
        elif self._kept.get(key) != _digest(kept):
            self._kept[key] = _digest(kept)
            self.of(gallery).restore(kept, record.crops, crops_per_person(record))

    def fit(self, gallery: Gallery) -> None:
        """Moves a gallery's calibration to its searches and keeps them; on the writer thread."""
        store = self._galleries.store
        record = store.galleries.get(gallery.gallery_id)
        if record is None or gallery.needs_reindex:
            return
        own = self.of(gallery)
        if own.fit(record.crops, crops_per_person(record)):
            text = own.to_json()
            self._kept[self._key(gallery)] = _digest(text)
            store.galleries.keep_calibration(gallery.gallery_id, text)

    def fit_later(self, gallery: Gallery) -> None:
        """Has `fit` done without anybody waiting for it."""
        self._galleries.write_later(lambda: self.fit(gallery))

    def forget(self, gallery: Gallery) -> None:
        """Drops what was learnt of a gallery, from memory alone."""
        with self._lock:
            for held in (self._held, self._kept):
                for key in [key for key in held if key[0] == gallery.gallery_id]:
                    held.pop(key, None)

    def _key(self, gallery: Gallery) -> Key:
        artefact = self._model_of(gallery).description.artefact_fingerprint
        return gallery.gallery_id, artefact


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def crops_per_person(record: GalleryRecord) -> float | None:
    """How many crops show one person, on average; None where nobody has a name."""
    return record.crops / record.identities if record.identities else None
