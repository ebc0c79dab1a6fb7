"""The latest grouping of each gallery's crops without names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, TypeAdapter

from gmn_client.models import CropGroup, CropGroups, PeopleCount
from service.record.database import RecordPart, transactional
from service.record.galleries import require_entry
from service.record.schema import as_micros
from service.record.transaction import Transaction
from service.visits.linkage import widen_interval

ID_DIGITS = 16
# Crops of a time, of which either end may be open, without those that are set aside.
OF_TIME = (
    "gallery_id = ? AND (CAST(? AS BIGINT) IS NULL OR seen_at >= ?) "
    "AND (CAST(? AS BIGINT) IS NULL OR seen_at <= ?) AND set_aside = 0"
)


class GroupedTracklet(BaseModel):
    """A tracklet of a group.

    Attributes:
        slots: its crops.
        counted, fewest, most: numbers of its person by the cuts that people are counted by.
    """

    model_config = ConfigDict(frozen=True)

    slots: list[int]
    counted: int
    fewest: int
    most: int


class StoredGroup(BaseModel):
    """Tracklets that show one person, or a single crop.

    Attributes:
        slots: the crops, with the one least similar to the others first.
        probability: that all tracklets show one person.
    """

    model_config = ConfigDict(frozen=True)

    slots: list[int]
    probability: float
    tracklets: list[GroupedTracklet]

    def group_id(self, gallery_id: int) -> str:
        """Return an id that a later grouping gives to the same crops too."""
        text = f"{gallery_id}:{sorted(self.slots)}"
        return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]


GROUPS = TypeAdapter(list[StoredGroup])


class Groupings(RecordPart):
    """The latest grouping of each gallery; deleted together with the gallery."""

    @transactional
    def put(
        self,
        transaction: Transaction,
        gallery_id: int,
        job_id: str,
        version: int,
        groups: Sequence[StoredGroup],
    ) -> None:
        """Store a grouping in place of the previous one; raises `UnknownGallery`.

        Args:
            version: version of the gallery when its crops were read.
            groups: largest first.
        """
        require_entry(transaction, gallery_id)
        row = {
            "gallery_id": gallery_id,
            "job_id": job_id,
            "created_at": datetime.now(UTC),
            "version": version,
            # Slots name nobody once their crops are deleted.
            "groups": GROUPS.dump_json(list(groups)).decode(),
        }
        transaction.insert("groupings", row, instead=True)

    def get(self, gallery_id: int) -> CropGroups:
        """Return the latest grouping, without crops that were named or deleted since."""
        row = self._reader.row("groupings", "WHERE gallery_id = ?", (gallery_id,))
        if row is None:
            return CropGroups()
        groups = GROUPS.validate_json(row["groups"])
        unnamed = self._read_unnamed(gallery_id, [slot for group in groups for slot in group.slots])
        results = []
        single = 0
        for group in groups:
            crop_ids = [unnamed[slot] for slot in group.slots if slot in unnamed]
            if len(crop_ids) < 2:
                single += len(crop_ids)
                continue
            tracklets = [
                tracklet
                for tracklet in group.tracklets
                if any(slot in unnamed for slot in tracklet.slots)
            ]
            results.append(
                CropGroup(
                    group_id=group.group_id(gallery_id),
                    crop_ids=crop_ids,
                    tracks=len(tracklets),
                    probability=group.probability,
                )
            )
        return CropGroups(
            job_id=row["job_id"],
            created_at=row["created_at"],
            gallery_version=row["version"],
            results=results,
            single=single,
        )

    def slots(self, gallery_id: int, group_id: str) -> list[int]:
        """Return the crops of a group that still have no name; none if there is no such group."""
        for group in self._read(gallery_id):
            if group.group_id(gallery_id) == group_id:
                return sorted(self._read_unnamed(gallery_id, group.slots))
        return []

    def ids(self, gallery_id: int, slots: Iterable[int]) -> dict[int, str]:
        """Return the id of the group of each of some crops that has one, by slot."""
        ids: dict[int, str] = {}
        wanted = frozenset(slots)
        for group in self._read(gallery_id):
            grouped = wanted.intersection(group.slots)
            if grouped and len(group.slots) > 1:
                ids |= dict.fromkeys(grouped, group.group_id(gallery_id))
        return ids

    def count_people(
        self, gallery_id: int, after: datetime | None, before: datetime | None
    ) -> PeopleCount:
        """Count the people whose crops are of a time: those with a name, and groups without.

        Args:
            after, before: times of capture or, if unknown, of enrollment; None for no bound.
        """
        bounds = [moment and as_micros(moment) for moment in (after, after, before, before)]
        values = (gallery_id, *bounds)
        named = self._reader.value(
            f"SELECT count(DISTINCT person_id) FROM crops WHERE {OF_TIME}", values
        )
        slots = set(
            self._reader.column(
                f"SELECT slot FROM crops WHERE {OF_TIME} AND person_id IS NULL", values
            )
        )
        seen = [
            tracklet
            for group in self._read(gallery_id)
            for tracklet in group.tracklets
            if not slots.isdisjoint(tracklet.slots)
        ]
        unnamed = len({tracklet.counted for tracklet in seen})
        fewest = len({tracklet.fewest for tracklet in seen})
        most = len({tracklet.most for tracklet in seen})
        fewest, most = widen_interval(unnamed, fewest, most)
        grouped = {slot for tracklet in seen for slot in tracklet.slots}
        return PeopleCount(
            people=named + unnamed,
            fewest=named + fewest,
            most=named + most,
            named=named,
            ungrouped_crops=len(slots - grouped),
        )

    def _read(self, gallery_id: int) -> list[StoredGroup]:
        row = self._reader.row("groupings", "WHERE gallery_id = ?", (gallery_id,))
        return GROUPS.validate_json(row["groups"]) if row else []

    def _read_unnamed(self, gallery_id: int, slots: Sequence[int]) -> dict[int, str]:
        """Return the crop ids of slots that have no name, by slot."""
        those = self._reader.dialect.among("slot")
        statement = (
            f"SELECT slot, crop_id FROM crops WHERE gallery_id = ? AND {those} "
            "AND person_id IS NULL AND set_aside = 0"
        )
        return dict(self._reader.tuples(statement, (gallery_id, list(slots))))
