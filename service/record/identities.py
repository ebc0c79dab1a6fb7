"""Changes of whole identities: renaming, merging, forgetting, and undoing merges."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from gmn_client.models import Merge
from service.record.crop_changes import relabel_crops, remove_crops, require_people
from service.record.crop_rows import read_crops
from service.record.database import RecordPart, transactional
from service.record.desk import drop_searches, find_shown
from service.record.galleries import next_version, require_entry
from service.record.schema import MERGED_CROPS, MERGES, PEOPLE, as_micros, as_moment, natural_order
from service.record.transaction import AMONG, Reader, Transaction, as_json
from service.record.values import Relabelling, Removal, StoredCrop, new_crop_id
from service.record.watch import forget_alerts

MERGES_KEPT_FOR = timedelta(days=30)
OF_PERSON = "WHERE crops.gallery_id = ? AND crops.person_id = ? ORDER BY slot"


class IdentityChanges(RecordPart):
    """Renames, merges and removals of whole identities, and the merges that can be undone."""

    @transactional
    def rename(
        self, transaction: Transaction, gallery_id: int, identity: str, new: str
    ) -> Relabelling | None:
        """Rename an identity, merging it into an existing one; return None if it has no crops."""
        require_entry(transaction, gallery_id)
        person = _find(transaction, gallery_id, identity)
        if person is None:
            return None
        transaction.removes = True
        crops = read_crops(transaction, OF_PERSON, (gallery_id, person["person_id"]))
        target = _find(transaction, gallery_id, new)
        merge_id = None
        if target is None:
            transaction.change(
                "UPDATE people SET name = ?, sort_key = ? WHERE person_id = ?",
                (new, natural_order(new), person["person_id"]),
            )
        else:
            merge_id = _merge(transaction, person, target, crops)
        slots = [crop.row_id for crop in crops]
        fewer = 0 if target is None else -1
        version = next_version(transaction, gallery_id, "relabelled", slots, people=fewer)
        return Relabelling(version, tuple(crop.crop_id for crop in crops), merge_id)

    @transactional
    def forget(self, transaction: Transaction, gallery_id: int, identity: str) -> Removal | None:
        """Delete an identity's crops, the merges that name it, and the searches that show it.

        Returns:
            None if it has no crops. Crops that were merged into another identity belong to that
            identity, whose merges can be undone.
        """
        require_entry(transaction, gallery_id)
        person = _find(transaction, gallery_id, identity)
        if person is None:
            return None
        _remove_merges_of(transaction, gallery_id, identity)
        crops = read_crops(transaction, OF_PERSON, (gallery_id, person["person_id"]))
        alerts, sent_to = forget_alerts(transaction, person["person_id"])
        removal = remove_crops(transaction, gallery_id, crops)
        if removal is None:
            return None
        searches = find_shown(transaction, removal.crop_ids)
        drop_searches(transaction, gallery_id, searches)
        return replace(removal, kept_searches=searches, alerts=alerts, sent_to=sent_to)

    @transactional
    def forget_merges(self, transaction: Transaction, gallery_id: int, identity: str) -> None:
        _remove_merges_of(transaction, gallery_id, identity)

    def merges(self, gallery_id: int) -> list[Merge]:
        rows = self._reader.execute(
            "SELECT merge_id, identity, name, crops, merged_at FROM merges "
            "JOIN people ON person_id = into_person "
            "WHERE merges.gallery_id = ? AND merged_at > ? ORDER BY version DESC, merge_id DESC",
            (gallery_id, _oldest()),
        )
        return [
            Merge(
                merge_id=merge_id,
                identity=identity,
                into=into,
                crops=crops,
                merged_at=as_moment(merged_at),
                undo_until=as_moment(merged_at) + MERGES_KEPT_FOR,
            )
            for merge_id, identity, into, crops, merged_at in rows
        ]

    @transactional
    def undo_merge(
        self, transaction: Transaction, gallery_id: int, merge_id: str
    ) -> Relabelling | None:
        """Restore the former identity of the crops of a merge.

        Crops that were deleted or given a third identity since are not changed. Renaming the
        identity that they were merged into does not count as a third identity.

        Returns:
            The changed crops, or None if there is no such merge or it has expired.
        """
        require_entry(transaction, gallery_id)
        merge = transaction.row(
            MERGES, "WHERE gallery_id = ? AND merge_id = ?", (gallery_id, merge_id)
        )
        if merge is None or merge["merged_at"] < _oldest():
            return None
        crops = _crops_of_merge(transaction, merge)
        restored = [replace(crop, identity=merge["identity"]) for crop in crops]
        names = [merge["identity"]] if crops else []
        people, new_people = require_people(transaction, gallery_id, names)
        if crops:
            _retarget_earlier_merges(transaction, merge, people[merge["identity"]])
        transaction.change("DELETE FROM merges WHERE merge_id = ?", (merge_id,))
        transaction.change(
            "UPDATE galleries SET people = people + ? WHERE gallery_id = ?",
            (new_people, gallery_id),
        )
        relabelling = relabel_crops(transaction, gallery_id, crops, restored)
        return replace(relabelling, restored_identity=merge["identity"])

    @transactional
    def remove_expired_merges(self, transaction: Transaction, gallery_id: int) -> None:
        values = (gallery_id, _oldest())
        statement = "DELETE FROM merges WHERE gallery_id = ? AND merged_at < ?"
        transaction.removes = transaction.change(statement, values) > 0


def _find(reader: Reader, gallery_id: int, identity: str) -> sqlite3.Row | None:
    return reader.row(PEOPLE, "WHERE gallery_id = ? AND name = ?", (gallery_id, identity))


def _merge(
    transaction: Transaction,
    person: sqlite3.Row,
    target: sqlite3.Row,
    crops: Sequence[StoredCrop],
) -> str:
    """Move a person's crops to another person, recording how to undo it; return the merge's id."""
    merge_id = new_crop_id()
    gallery_id = person["gallery_id"]
    merge = {
        "merge_id": merge_id,
        "gallery_id": gallery_id,
        "identity": person["name"],
        "into_person": target["person_id"],
        "crops": len(crops),
        # Merges are undone by version, not by time: the clock may have been set back.
        "version": require_entry(transaction, gallery_id).version,
        "merged_at": as_micros(datetime.now(UTC)),
    }
    transaction.insert(MERGES, merge)
    merged = [{"merge_id": merge_id, "crop_id": crop.crop_id} for crop in crops]
    transaction.insert(MERGED_CROPS, *merged)
    ids = (target["person_id"], person["person_id"])
    transaction.change("UPDATE crops SET person_id = ? WHERE person_id = ?", ids)
    transaction.change("UPDATE merges SET into_person = ? WHERE into_person = ?", ids)
    transaction.change("UPDATE alerts SET person_id = ? WHERE person_id = ?", ids)
    transaction.change("DELETE FROM people WHERE person_id = ?", (person["person_id"],))
    return merge_id


def _crops_of_merge(transaction: Transaction, merge: sqlite3.Row) -> list[StoredCrop]:
    rows = transaction.rows(MERGED_CROPS, "WHERE merge_id = ?", (merge["merge_id"],))
    ids = as_json(row["crop_id"] for row in rows)
    clauses = (
        f"WHERE crops.gallery_id = ? AND crops.person_id = ? AND crop_id IN {AMONG} ORDER BY slot"
    )
    return read_crops(transaction, clauses, (merge["gallery_id"], merge["into_person"], ids))


def _retarget_earlier_merges(transaction: Transaction, merge: sqlite3.Row, person_id: int) -> None:
    transaction.change(
        "UPDATE merges SET into_person = ? WHERE gallery_id = ? AND (version, merge_id) < (?, ?) "
        "AND merge_id IN (SELECT merge_id FROM merged_crops WHERE crop_id IN "
        "(SELECT crop_id FROM merged_crops WHERE merge_id = ?))",
        (person_id, merge["gallery_id"], merge["version"], merge["merge_id"], merge["merge_id"]),
    )


def _remove_merges_of(transaction: Transaction, gallery_id: int, identity: str) -> None:
    transaction.removes = True
    transaction.change(
        "DELETE FROM merges WHERE gallery_id = ? AND (identity = ? OR into_person IN "
        "(SELECT person_id FROM people WHERE gallery_id = ? AND name = ?))",
        (gallery_id, identity, gallery_id, identity),
    )


def _oldest() -> int:
    return as_micros(datetime.now(UTC) - MERGES_KEPT_FOR)
