"""What galleries learn from their searches; without it verdicts follow the artefact."""

from __future__ import annotations

from collections.abc import Sequence

from model.search_calibration import KEPT_SEARCHES
from service.record.encoding import below, key, last_text
from service.record.engine import Engine, Reader, Scan, Transaction, as_data, transact
from service.record.gallery_entries import read_entry
from service.record.records import PublishedCalibration

HASH = "search of"
KINDS = ("search", HASH, "searches", "published")


class Calibrations:
    """What galleries learn from their searches; a gallery's deletion removes its own.

    Writing them leaves the gallery's version as it is. A reindex and a restore drop a gallery's
    searches and published calibrations.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reader = Reader(engine)

    def add_searches(
        self, gallery_id: int, subject: str, rows: Sequence[tuple[str, bytes]]
    ) -> None:
        """Adds searches, of which the newest `KEPT_SEARCHES` are kept for each subject."""

        def rule(transaction: Transaction) -> None:
            if read_entry(transaction, gallery_id) is None:
                return
            counts = transaction.json(_counts(gallery_id, subject)) or {"next": 0, "kept": 0}
            newest: dict[str, bytes] = {}
            for name, body in rows:
                newest.pop(name, None)
                newest[name] = body
            for name, body in list(newest.items())[-KEPT_SEARCHES:]:
                own = key(HASH, gallery_id, subject, name)
                before = as_data(transaction.get([own])[0])
                if before is not None:
                    transaction.delete(_search(gallery_id, subject, before))
                    counts["kept"] -= 1
                transaction.put(_search(gallery_id, subject, counts["next"]), own + body)
                transaction.put_json(own, counts["next"])
                counts["next"] += 1
                counts["kept"] += 1
            self._drop_oldest(transaction, gallery_id, subject, counts)
            transaction.put_json(_counts(gallery_id, subject), counts)

        transact(self._engine, rule)

    def searches(self, gallery_id: int, subject: str) -> list[bytes]:
        """The rows that are kept, oldest first."""
        found = self._reader.every(below(key("search", gallery_id, subject)))
        return [_of_search(body, gallery_id, subject)[1] for _, body in found]

    def published(self, gallery_id: int) -> dict[str, PublishedCalibration]:
        """What every replica answers by, by subject."""
        prefix = key("published", gallery_id)
        return {
            last_text(own, prefix): PublishedCalibration(**as_data(body))
            for own, body in self._reader.every(below(prefix))
        }

    def publish(self, gallery_id: int, subject: str, body: str, after_version: int) -> bool:
        """Publishes a calibration as the next version; False where another one is published."""

        def rule(transaction: Transaction) -> bool:
            entry = read_entry(transaction, gallery_id)
            own = key("published", gallery_id, subject)
            before = transaction.json(own)
            if entry is None or (before["version"] if before else 0) != after_version:
                return False
            transaction.put_json(own, {"version": after_version + 1, "body": body})
            transaction.note("calibration", gallery_id, entry.version)
            return True

        return transact(self._engine, rule)

    def drop(self, gallery_id: int) -> None:
        """Removes a gallery's searches and published calibrations, and announces that."""

        def rule(transaction: Transaction) -> None:
            entry = read_entry(transaction, gallery_id)
            if entry is not None:
                drop_calibrations(transaction, gallery_id)
                transaction.note("calibration", gallery_id, entry.version)

        transact(self._engine, rule)

    def _drop_oldest(
        self, transaction: Transaction, gallery_id: int, subject: str, counts: dict[str, int]
    ) -> None:
        """Deletes the oldest stored searches above the limit."""
        too_many = counts["kept"] - KEPT_SEARCHES
        if too_many <= 0:
            return
        puts = transaction.commit.puts
        searches = below(key("search", gallery_id, subject))
        stored = transaction.scan(Scan(*searches, too_many + len(puts)))[0]
        left = [(own, body) for own, body in stored if own not in puts]
        for own, body in left[:too_many]:
            transaction.delete(own, _of_search(body, gallery_id, subject)[0])
        counts["kept"] -= too_many


def drop_calibrations(transaction: Transaction, gallery_id: int) -> None:
    """Removes a gallery's searches and published calibrations."""
    scans = [Scan(*below(key(kind, gallery_id))) for kind in KINDS]
    for found in transaction.scan(*scans):
        transaction.delete(*(own for own, _ in found))


def _search(gallery_id: int, subject: str, place: int) -> bytes:
    return key("search", gallery_id, subject, place)


def _counts(gallery_id: int, subject: str) -> bytes:
    return key("searches", gallery_id, subject)


def _of_search(body: bytes, gallery_id: int, subject: str) -> tuple[bytes, bytes]:
    """The key of a search's hash, and its row."""
    prefix = key(HASH, gallery_id, subject)
    end = body.index(b"\0", len(prefix)) + 1
    return body[:end], body[end:]
