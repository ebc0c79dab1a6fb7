"""Groups of crops without a name that may each be of one person, as the last job found them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as stored_dataclass

from service.record.engine import RecordPart, Transaction, key, transactional
from service.record.entries import find_generation, read_crops, require_entry
from service.record.records import StoredCrop

GROUPS = "groups"


@stored_dataclass(frozen=True)
class Grouping:
    """What a job found. Of crops it has row numbers alone, which name nothing once they are gone.

    Attributes:
        version: of the gallery when its crops were read.
        groups: rows of each group, and the probability of its mean score.
        single: how many crops are in no group.
    """

    job_id: str
    created_at: datetime
    version: int
    groups: list[tuple[list[int], float]]
    single: int


class Groups(RecordPart):
    """The last grouping of each gallery; a gallery's deletion removes it."""

    @transactional
    def put(self, transaction: Transaction, gallery_id: int, grouping: Grouping) -> None:
        """Keeps a grouping in the place of the former; raises `UnknownGallery`."""
        require_entry(transaction, gallery_id)
        transaction.put_json(key(GROUPS, gallery_id), grouping)

    def get(self, gallery_id: int) -> tuple[Grouping | None, Mapping[int, StoredCrop]]:
        """The last grouping, and those of its crops, by row, that are there without a name."""
        found = self._reader.json(key(GROUPS, gallery_id))
        if found is None:
            return None, {}
        grouping, at = GROUPING.validate_python(found), find_generation(self._reader, gallery_id)
        rows = [row for group, _ in grouping.groups for row in group]
        crops = read_crops(self._reader, at, rows)
        return grouping, {row: crop for row, crop in crops.items() if crop.identity is None}


GROUPING = TypeAdapter(Grouping)
