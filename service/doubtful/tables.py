"""The doubtful crops of each gallery as the record has them, and how far galleries were checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from gmn_client.models import Page
from service.errors import InvalidField, UnknownCrop
from service.record.database import RecordPart, transactional
from service.record.galleries import read_entry, require_entry
from service.record.schema import now_micros
from service.record.transaction import Reader, Row, Transaction

# Doubt and slot of the last crop of the page before.
CURSOR = "[0-9]{1,18}_[0-9]{1,18}"
# The rows that hold: neither crop was renamed, set aside or deleted since, and nobody has confirmed
# that the crop shows its person.
HOLDING = """
FROM doubtful_crops AS doubtful
JOIN crops ON crops.gallery_id = doubtful.gallery_id AND crops.slot = doubtful.slot
    AND crops.person_id = doubtful.person_id AND crops.set_aside = 0
JOIN crops AS other
    ON other.gallery_id = doubtful.gallery_id AND other.slot = doubtful.other_slot
    AND other.person_id = doubtful.other_person_id AND other.set_aside = 0
WHERE NOT EXISTS (
    SELECT 1 FROM confirmed_crops AS confirmed
    WHERE confirmed.gallery_id = doubtful.gallery_id AND confirmed.slot = doubtful.slot
        AND confirmed.person_id = doubtful.person_id
)
"""
LISTED = (
    "SELECT doubtful.slot, doubtful.other_slot, doubt, own, own_probability, doubtful.other, "
    f"other_probability {HOLDING} AND doubtful.gallery_id = :gallery_id "
    "AND (doubt, doubtful.slot) < (:doubt, :slot) "
    "ORDER BY doubt DESC, doubtful.slot DESC LIMIT :limit"
)
COLUMNS = ("slot", "other_slot", "doubt", "own", "own_probability", "other", "other_probability")
# The cursor of the first page, before every crop.
FIRST = f"{10**18 - 1}_0"
CHANGED = """
SELECT changed, slot FROM crops
WHERE gallery_id = :gallery_id AND (changed, slot) > (:version, :slot) AND changed <= :until
ORDER BY changed, slot LIMIT :limit
"""
# Doubtful crops whose own person, or whose counterpart, has changed.
AFFECTED = """
SELECT slot FROM doubtful_crops AS doubtful WHERE gallery_id = :gallery_id AND (
    {others} OR person_id IN (
        SELECT person_id FROM crops WHERE gallery_id = :gallery_id AND {those}
    )
    OR NOT EXISTS (
        SELECT 1 FROM crops WHERE crops.gallery_id = doubtful.gallery_id
        AND crops.slot = doubtful.other_slot AND crops.person_id = doubtful.other_person_id
    )
) ORDER BY slot LIMIT :limit
"""
PUT = """
INSERT INTO doubtful_crops (
    gallery_id, slot, person_id, other_slot, other_person_id,
    doubt, own, own_probability, other, other_probability
)
SELECT crops.gallery_id, crops.slot, crops.person_id, other.slot, other.person_id,
    :doubt, :own, :own_probability, :other, :other_probability
FROM crops JOIN crops AS other ON other.gallery_id = crops.gallery_id
WHERE crops.gallery_id = :gallery_id AND crops.slot = :slot AND other.slot = :other_slot
    AND crops.person_id IS NOT NULL AND other.person_id IS NOT NULL
"""


@dataclass(frozen=True)
class Doubt:
    """Why a crop is doubtful.

    Attributes:
        slot, other_slot: the crop, and the crop of another person that it resembles.
        doubt: place in the list, in millionths; the highest is first.
        own, other: mean cosine to the nearest crops of either person; `own` is None for an only
            crop.
        own_probability, other_probability: calibrated meaning of these cosines.
    """

    slot: int
    other_slot: int
    doubt: int
    own: float | None
    own_probability: float | None
    other: float
    other_probability: float


@dataclass(frozen=True)
class CheckProgress:
    """How far a gallery was checked.

    Attributes:
        generation, rule: the vectors that are compared, and the rule and the model by which.
        version, slot: place of the last checked crop in the order of changes.
        crops, begun: size and version of the gallery when this round over all of its crops began.
    """

    generation: int
    rule: str
    version: int
    slot: int
    crops: int
    begun: int


class DoubtfulCrops(RecordPart):
    """Doubtful crops of all galleries; a row is deleted together with its crop."""

    def progress(self, gallery_id: int) -> CheckProgress | None:
        row = self._reader.row("doubt_checks", "WHERE gallery_id = ?", (gallery_id,))
        if row is None:
            return None
        del row["gallery_id"]
        return CheckProgress(**row)

    def changed(
        self, gallery_id: int, progress: CheckProgress, until: int, limit: int
    ) -> list[tuple[int, int]]:
        """Return version and slot of crops that were changed since, in the order of changes.

        Args:
            until: latest version of the gallery whose changes count.
        """
        values = {"gallery_id": gallery_id, "until": until, "limit": limit}
        place = {"version": progress.version, "slot": progress.slot}
        return self._reader.tuples(CHANGED, values | place)

    def affected(self, gallery_id: int, changed: Sequence[int], limit: int) -> list[int]:
        """Return slots of doubtful crops that may no longer be, once some crops have changed."""
        dialect = self._reader.dialect
        statement = AFFECTED.format(
            others=dialect.among("other_slot", ":changed"), those=dialect.among("slot", ":changed")
        )
        values = {"gallery_id": gallery_id, "changed": list(changed), "limit": limit}
        return self._reader.column(statement, values)

    @transactional
    def put(
        self,
        transaction: Transaction,
        gallery_id: int,
        judged: Sequence[int],
        doubts: Sequence[Doubt],
        progress: CheckProgress,
    ) -> None:
        """Store which of the crops that were judged are doubtful, unless the vectors have changed.

        Args:
            judged: slots of the crops, some of which may have been deleted since.
        """
        entry = read_entry(transaction, gallery_id)
        if entry is None or entry.generation != progress.generation:
            return
        if judged:
            those = transaction.dialect.among("slot")
            delete = f"DELETE FROM doubtful_crops WHERE gallery_id = ? AND {those}"
            transaction.change(delete, (gallery_id, judged), is_private=False)
        rows = [{"gallery_id": gallery_id, **asdict(doubt)} for doubt in doubts]
        transaction.change_many(PUT, rows, is_private=False)
        row = {"gallery_id": gallery_id, **asdict(progress)}
        transaction.insert("doubt_checks", row, instead=True, is_private=False)

    def page(self, gallery_id: int, cursor: str | None, limit: int) -> Page[Row]:
        """Return up to `limit` doubtful crops, the most doubtful first.

        Args:
            cursor: matches `CURSOR`; None for the first page.
        """
        doubt, slot = (int(number) for number in (cursor or FIRST).split("_"))
        values = {"gallery_id": gallery_id, "doubt": doubt, "slot": slot, "limit": limit + 1}
        rows = self._reader.tuples(LISTED, values)
        results = [dict(zip(COLUMNS, row, strict=True)) for row in rows[:limit]]
        last = results[-1] if len(rows) > limit else None
        next_cursor = f"{last['doubt']}_{last['slot']}" if last else None
        return Page(results=results, next_cursor=next_cursor)

    def is_checked(self, gallery_id: int, version: int) -> bool:
        """Return whether every crop of a version of the gallery was checked."""
        progress = self.progress(gallery_id)
        return progress is not None and not self.changed(gallery_id, progress, version, 1)

    def counts(self) -> dict[int, int]:
        """Return the number of doubtful crops of each gallery that has some, by its id."""
        counts = f"SELECT doubtful.gallery_id, count(*) {HOLDING} GROUP BY doubtful.gallery_id"
        return dict(self._reader.tuples(counts))

    @transactional
    def confirm(self, transaction: Transaction, gallery_id: int, crop_id: str, key_id: str) -> None:
        """Note that a crop shows its person.

        Raises:
            UnknownCrop: there is no such crop.
            InvalidField: it has no person.
        """
        crop = _require_crop(transaction, gallery_id, crop_id)
        if crop["person_id"] is None:
            raise InvalidField(
                f"crop_id: crop {crop_id} has no identity that could be right; name it instead"
            )
        row = {**crop, "key_id": key_id, "confirmed_at": now_micros()}
        transaction.insert("confirmed_crops", row, instead=True)

    @transactional
    def withdraw(self, transaction: Transaction, gallery_id: int, crop_id: str) -> None:
        """Drop the confirmation of a crop; raises `UnknownCrop`."""
        slot = _require_crop(transaction, gallery_id, crop_id)["slot"]
        delete = "DELETE FROM confirmed_crops WHERE gallery_id = ? AND slot = ?"
        transaction.change(delete, (gallery_id, slot), is_private=False)


def _require_crop(reader: Reader, gallery_id: int, crop_id: str) -> Row:
    statement = "SELECT gallery_id, slot, person_id FROM crops WHERE gallery_id = ? AND crop_id = ?"
    for gallery, slot, person_id in reader.tuples(statement, (gallery_id, crop_id)):
        return {"gallery_id": gallery, "slot": slot, "person_id": person_id}
    raise UnknownCrop(require_entry(reader, gallery_id).name, crop_id)
