"""Every gallery's own calibration, made when it is first asked for and kept with the gallery."""

from __future__ import annotations

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

    def of(self, gallery: Gallery) -> OwnCalibration:
        """A gallery's own.

        Raises:
            NeedsReindex: where no loaded model answers for it.
        """
        model = self._model_of(gallery)
        key = (gallery.gallery_id, model.description.artefact_fingerprint)
        with self._lock:
            if key not in self._held:
                self._held[key] = OwnCalibration(
                    model.description.calibration,
                    model.description.artefact_fingerprint[:12],
                    model.identical_mnet,
                    gallery.settings.recalibration,
                )
            return self._held[key]

    def load(self) -> None:
        """Takes up what earlier processes learnt; blocks."""
        store = self._galleries.store
        for record in store.galleries.all():
            gallery = self._galleries.get(record.name)
            kept = store.galleries.calibration(record.gallery_id)
            if kept and not gallery.needs_reindex and gallery.settings.recalibration:
                self.of(gallery).restore(kept, record.crops, crops_per_person(record))

    def fit(self, gallery: Gallery) -> None:
        """Moves a gallery's calibration to its searches and keeps them; on the writer thread."""
        store = self._galleries.store
        record = store.galleries.get(gallery.gallery_id)
        if record is None or gallery.needs_reindex:
            return
        own = self.of(gallery)
        if own.fit(record.crops, crops_per_person(record)):
            store.galleries.keep_calibration(gallery.gallery_id, own.to_json())

    def fit_later(self, gallery: Gallery) -> None:
        """Has `fit` done without anybody waiting for it."""
        self._galleries.write_later(lambda: self.fit(gallery))

    def forget(self, gallery: Gallery) -> None:
        """Drops what was learnt of a gallery, from memory alone."""
        with self._lock:
            for key in [key for key in self._held if key[0] == gallery.gallery_id]:
                del self._held[key]


def crops_per_person(record: GalleryRecord) -> float | None:
    """How many crops show one person, on average; None where nobody has a name."""
    return record.crops / record.identities if record.identities else None
