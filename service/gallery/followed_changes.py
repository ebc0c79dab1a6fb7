"""What a run of changes does to the galleries in memory: read from the record, applied at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from service.gallery.gallery import Gallery
from service.gallery.held_galleries import HeldGalleries, LoadedGallery
from service.gallery.index_updates import Learner
from service.record.changes import Change
from service.record.record import Record
from service.record.records import GalleryRecord, IndexedCrop

ROWS_AT_ONCE = 1000
OF_NO_GALLERY = ("jobs", "keys")


def in_parts(changes: Sequence[Change]) -> Iterator[list[Change]]:
    """Runs of changes of a bounded number of crops: their vectors are held at once."""
    part: list[Change] = []
    rows = 0
    for change in changes:
        if part and rows + len(change.row_ids) > ROWS_AT_ONCE:
            yield part
            part, rows = [], 0
        part.append(change)
        rows += len(change.row_ids)
    if part:
        yield part


@dataclass(frozen=True)
class GalleryDelta:
    """Changes of one gallery, with what the record says of it once they had happened.

    Attributes:
        record: read after `crops`.
        changes: in order.
        crops: those added and renamed that are still there, by row id.
    """

    record: GalleryRecord
    changes: Sequence[Change]
    crops: dict[int, IndexedCrop]


@dataclass
class FollowedChanges:
    """Ready to be applied, on the device thread.

    Attributes:
        deltas: of galleries that go on.
        loaded: galleries that were read whole.
        gone: numbers of those deleted.
        learnt: numbers of those whose learnt calibration is another one now.
    """

    deltas: list[GalleryDelta] = field(default_factory=list)
    loaded: list[LoadedGallery] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    learnt: list[int] = field(default_factory=list)

    def apply(self, held: HeldGalleries, learner: Learner) -> None:
        """Shows them; twice does no more than once.

        Raises:
            OutOfStep: an index is not what the changes came after.
        """
        for gallery_id in self.gone:
            held.drop(gallery_id)
        for loaded in self.loaded:
            learner.forget(held.show(loaded))
        for delta in self.deltas:
            gallery = held.by_id(delta.record.gallery_id)
            if gallery is not None:
                _apply(delta, gallery, learner)
                held.look_after(gallery)


def read_changes(store: Record, held: HeldGalleries, changes: Sequence[Change]) -> FollowedChanges:
    """Reads what a run of changes calls for; on the follower's thread, and blocks."""
    found = FollowedChanges()
    concerned = [change for change in changes if change.kind not in OF_NO_GALLERY]
    for gallery_id in dict.fromkeys(change.gallery_id for change in concerned):
        own = [change for change in concerned if change.gallery_id == gallery_id]
        gallery = held.by_id(gallery_id)
        delta = None
        if gallery is not None and all(change.kind != "replaced" for change in own):
            delta = _read_delta(store, gallery, own)
        if delta is not None:
            found.deltas.append(delta)
        else:
            loaded = held.read(gallery_id)
            if loaded is None:
                found.gone.append(gallery_id)
                continue
            found.loaded.append(loaded)
        if any(change.kind == "calibration" for change in own):
            found.learnt.append(gallery_id)
    return found


def _read_delta(store: Record, gallery: Gallery, changes: Sequence[Change]) -> GalleryDelta | None:
    """None where the gallery has to be read whole, or was deleted."""
    crops: list[IndexedCrop] = []
    rows = _rows(changes, "added", "relabelled")
    if rows and not gallery.needs_reindex:
        crops = store.crops.indexed(gallery.gallery_id, rows)
    record = store.galleries.get(gallery.gallery_id)
    # Where another embedder has taken over, vectors that were read may be either's.
    if record is None or not gallery.goes_on_as(record):
        return None
    return GalleryDelta(record, changes, {crop.label.row_id: crop for crop in crops})


def _rows(changes: Iterable[Change], *kinds: str) -> list[int]:
    return [row for change in changes if change.kind in kinds for row in change.row_ids]


def _apply(delta: GalleryDelta, gallery: Gallery, learner: Learner) -> None:
    was = gallery.settings.calibration
    gallery.settings = delta.record.settings
    if "off" in (was, gallery.settings.calibration) and gallery.settings.calibration != was:
        learner.forget(gallery)
    for change in delta.changes:
        crops = [delta.crops[row] for row in change.row_ids if row in delta.crops]
        gallery.follow(change, crops, delta.record.crops)
