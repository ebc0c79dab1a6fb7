"""What galleries learn from their searches, and the calibrations that are published."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_core import from_json

from model.search_calibration import KEPT_SEARCHES
from service.record.engine import (
    Reader,
    RecordPart,
    Scan,
    Transaction,
    below,
    key,
    last_text,
    transactional,
)
from service.record.entries import read_entry
from service.record.records import PublishedCalibration

SEARCH_BY_HASH = "search of"
CALIBRATION_KEYS = ("search", SEARCH_BY_HASH, "searches", "published")


class StoredCalibrations(RecordPart):
    """What galleries learn from their searches; a gallery's deletion removes its own.

    Writing them leaves the gallery's version as it is. A reindex and a restore drop a gallery's
    searches and published calibrations.
    """

    @transactional
    def add_searches(
        self,
        transaction: Transaction,
        gallery_id: int,
        subject: str,
        rows: Sequence[tuple[str, bytes]],
    ) -> None:
        """Adds searches, of which the newest `KEPT_SEARCHES` are kept for each subject.

        A search of the same name takes the place of an older one.
        """
        if read_entry(transaction, gallery_id) is None:
            return
        counted, prefix = (key(kind, gallery_id, subject) for kind in ("searches", "search"))
        added = _counted(transaction, gallery_id, subject)
        known = transaction.below(prefix)
        kept = {_of_search(body, gallery_id, subject)[0]: own for own, body in known}
        for name, body in rows:
            by_name = key(SEARCH_BY_HASH, gallery_id, subject, name)
            if by_name in kept:
                transaction.delete(kept.pop(by_name))
            kept[by_name] = prefix + key(added)
            transaction.put(kept[by_name], by_name + body)
            added += 1
        for by_name in list(kept)[:-KEPT_SEARCHES]:
            # Programs before looked a search up by its name.
            transaction.delete(kept[by_name], by_name)
        transaction.put_json(counted, {"next": added, "kept": min(len(kept), KEPT_SEARCHES)})

    def searches(self, gallery_id: int, subject: str) -> list[bytes]:
        """The rows that are kept, oldest first."""
        found = self._reader.every(below(key("search", gallery_id, subject)))
        return [_of_search(body, gallery_id, subject)[1] for _, body in found]

    def counted(self, gallery_id: int, subject: str) -> int:
        """How many searches were added since the last drop, also those that are not kept."""
        return _counted(self._reader, gallery_id, subject)

    def published(self, gallery_id: int) -> dict[str, PublishedCalibration]:
        """What every replica answers by, by subject."""
        prefix = key("published", gallery_id)
        return {
            last_text(own, prefix): PublishedCalibration(**from_json(body))
            for own, body in self._reader.every(below(prefix))
        }

    @transactional
    def publish(
        self,
        transaction: Transaction,
        gallery_id: int,
        subject: str,
        body: str,
        after_version: int,
        counted: int = 0,
        vectors: tuple[int, int] | None = None,
    ) -> bool:
        """Publishes a calibration as the next version.

        Args:
            after_version: of the one that is published, 0 for none.
            counted: how many searches were counted at the fit.
            vectors: the generation and the side of the vectors behind it; None for any.

        Returns:
            False where another one is published, the searches or the vectors were dropped since,
            or the gallery's calibration was frozen or switched off.
        """
        entry = read_entry(transaction, gallery_id)
        own = key("published", gallery_id, subject)
        before = transaction.json(own)
        if entry is None or (before["version"] if before else 0) != after_version:
            return False
        if entry.settings.calibration != "on" or vectors not in (None, (entry.at, entry.side)):
            return False
        if _counted(transaction, gallery_id, subject) < counted:
            return False
        transaction.put_json(own, PublishedCalibration(after_version + 1, body))
        transaction.note("calibration", gallery_id, entry.version)
        return True


def _counted(reader: Reader, gallery_id: int, subject: str) -> int:
    counts = reader.json(key("searches", gallery_id, subject))
    return counts["next"] if counts else 0


def drop_calibrations(transaction: Transaction, gallery_id: int) -> None:
    """Removes a gallery's searches and published calibrations."""
    scans = [Scan(*below(key(kind, gallery_id))) for kind in CALIBRATION_KEYS]
    for found in transaction.scan(*scans):
        transaction.delete(*(own for own, _ in found))
        for own, _ in found:
            # A search that another process adds meanwhile changes a count, and is dropped too.
            if own.startswith(key("searches", gallery_id)):
                transaction.json(own)


def _of_search(body: bytes, gallery_id: int, subject: str) -> tuple[bytes, bytes]:
    """The key of a search's hash, and its row."""
    prefix = key(SEARCH_BY_HASH, gallery_id, subject)
    end = body.index(b"\0", len(prefix)) + 1
    return body[:end], body[end:]
