"""A gallery's index follows the record, by the changes that were committed since."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence

from service.gallery.gallery import Gallery, IndexMismatch
from service.record.record import Record
from service.record.transaction import Change
from service.record.values import Enrolment, IndexedCrop, Relabelling, Removal
from service.search.index import GalleryIndex
from service.search.index_files import DamagedFiles, FileSet

log = logging.getLogger(__name__)
# The vectors of so many changes are held at once.
CHANGES_PER_STEP = 32


def read_changes(
    record: Record, gallery: Gallery, changes: Sequence[Change]
) -> Callable[[], None] | None:
    """Reads what changes of a gallery need; answers what applies them together.

    A row id is never given out twice, and crops are read after the changes: those that are there
    are added with their last labels, the others were removed.

    Returns:
        None where the gallery has to be read again.
    """
    rows = rows_of(changes)
    if "replaced" in rows:
        return None
    crops: list[IndexedCrop] = []
    if gallery.own_index and (wanted := rows["added"] + rows["relabelled"]):
        crops = record.crops.indexed(gallery.gallery_id, wanted)
    now = record.galleries.get(gallery.gallery_id)
    if now is None or not gallery.can_go_on_as(now, vectors=bool(crops)):
        return None
    version = max(change.version for change in changes)
    added = set(rows["added"])
    relabelled = set(rows["relabelled"])

    def apply() -> None:
        new = tuple(crop for crop in crops if crop.label.row_id in added)
        labels = tuple(crop.label for crop in crops if crop.label.row_id in relabelled)
        # The version comes last: where a part fails, it is not one that the index shows.
        before = gallery.version
        gallery.apply(Enrolment(before, now.embedding_fingerprint, (), new))
        gallery.apply(Relabelling(before, labels))
        if rows["removed"] and not gallery.needs_reindex:
            gallery.apply(Removal(before, tuple(rows["removed"])))
        gallery.follow_record(now)
        gallery.version = max(before, version)

    return apply


def rows_of(changes: Sequence[Change]) -> dict[str, list[int]]:
    """The row ids of changes, by their kind."""
    rows: dict[str, list[int]] = defaultdict(list)
    for change in changes:
        rows[change.kind] += change.row_ids
    return rows


def fill(record: Record, gallery: Gallery, crops: int) -> None:
    """Fills a gallery's empty index, from files that are no more than behind or else the record.

    Args:
        crops: how many the record has; of few there are no files.
    """
    index = gallery.own_index
    if index is None:
        return
    version = gallery.version
    folder = index.folder if index.folder and crops >= index.folder.least_crops else None
    for files in folder.sets() if folder else ():
        try:
            if _go_on_from(record, gallery, index, files):
                return
        except (DamagedFiles, IndexMismatch) as damage:
            files.move_aside(damage)
        except OSError as error:
            log.error("gallery %s: %s cannot be read: %s", gallery.name, files.folder, error)
        gallery.version = version
        index.clear()
        files.close()
    try:
        index.use_files(crops)
        index.add(record.crops.vectors(gallery.gallery_id))
    except OSError as error:
        log.error("the index of gallery %s goes into memory: %s", gallery.name, error)
        index.clear()
        index.add(record.crops.vectors(gallery.gallery_id))


def _go_on_from(record: Record, gallery: Gallery, index: GalleryIndex, files: FileSet) -> bool:
    """Opens files and applies what the record has since; False where they are of no use.

    Raises:
        DamagedFiles, IndexMismatch: they are not what was written.
        OSError: they cannot be read.
    """
    stored = files.read()
    if stored is None or not stored.named.items() >= gallery.stored_as().items():
        return False
    version = stored.named["version"]
    position = stored.named["position"]
    changes = record.history.since(gallery.gallery_id, version, position)
    if changes is None:
        log.warning("gallery %s: its stored index is of another history", gallery.name)
        return False
    rows = rows_of(changes)
    index.open_files(stored, rows["removed"], rows["relabelled"])
    gallery.version = version
    gallery.crops = index.count
    for first in range(0, len(changes), CHANGES_PER_STEP):
        apply = read_changes(record, gallery, changes[first : first + CHANGES_PER_STEP])
        if apply is None:
            return False
        apply()
    now = record.galleries.get(gallery.gallery_id)
    if now and now.version == gallery.version and now.crops != index.count:
        raise DamagedFiles(f"{index.count} crops of {now.crops}")
    return True
