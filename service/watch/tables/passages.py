"""Passages: the tracks of a day that raised no alert, for lists that explain why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from gmn_client.models import Passage
from model.wording import counted
from service.record.database import RecordPart, transactional
from service.record.schema import as_micros, now_micros
from service.record.transaction import Row, Transaction
from service.record.values import new_crop_id
from service.watch.tables.armed_lists import find_armed
from service.watch.tables.traffic import PARTS_WITHIN_MICROS

MOST_PASSAGES = 500
KEPT_FOR = timedelta(days=1)
# The columns about the best crop of a track.
OF_BEST_CROP = (
    "captured_at",
    "camera",
    "zone",
    "track",
    "score",
    "threshold",
    "probability",
    "height",
    "faults",
)
OTHER_PARTS = "WHERE gallery_id = ? AND name = ? AND began <= ? AND until >= ?"
SHOWN = "WHERE gallery_id = ? AND hidden = 0"
NEWEST = f"ORDER BY noted_at DESC, passage_id DESC LIMIT {MOST_PASSAGES}"
FAULTS = {
    "low_resolution": "too few pixels",
    "not_person_shaped": "not shaped like a person",
}


@dataclass(frozen=True)
class BestLook:
    """The crop of a track that resembles a list most.

    Attributes:
        probability: that it shows the listed person, if that is too low for an alert although the
            score exceeds the threshold; otherwise None.
        height: in pixels; None if its vector was sent.
        faults: codes of the limits of quality that it exceeds.
        zone: the zone of the camera's picture in which the person stood.
    """

    captured_at: datetime
    score: float
    threshold: float
    probability: float | None
    height: int | None
    faults: tuple[str, ...]
    zone: str | None

    @property
    def matches(self) -> bool:
        return self.score > self.threshold and self.probability is None


@dataclass(frozen=True)
class EndedPassage:
    """A track that has ended, or the part of it that one process saw.

    Attributes:
        name, began, until: as in `TrackPart`; without a tracker's id there is no name.
        hidden: it raised an alert, or was kept silent.
    """

    name: bytes | None
    began: datetime
    until: datetime
    camera: str | None
    track: str | None
    best: BestLook
    hidden: bool


class Passages(RecordPart):
    """The passages of lists that explain them."""

    @transactional
    def add(
        self, transaction: Transaction, gallery_id: int, passages: Sequence[EndedPassage]
    ) -> None:
        """Add tracks of a list, or nothing if it is not armed or does not explain its passages.

        Several processes may have seen parts of a track, which are one passage.
        """
        watch = find_armed(transaction, gallery_id)
        if watch is None or not watch.settings.explain_passages:
            return
        for passage in passages:
            _add_passage(transaction, gallery_id, passage)
        surplus = (
            f"DELETE FROM passages {SHOWN} AND passage_id NOT IN "
            f"(SELECT passage_id FROM passages {SHOWN} {NEWEST})"
        )
        transaction.change(surplus, (gallery_id, gallery_id))

    def of_list(self, gallery_id: int) -> list[Passage]:
        """Return the passages of a list, those that ended last first."""
        clauses = f"{SHOWN} AND noted_at >= ? {NEWEST}"
        values = (gallery_id, datetime.now(UTC) - KEPT_FOR)
        return [_as_passage(row) for row in self._reader.rows("passages", clauses, values)]

    @transactional
    def remove_old(self, transaction: Transaction) -> None:
        """Remove passages after a day, and hidden ones once no process can have another part."""
        now = now_micros()
        transaction.change(
            "DELETE FROM passages WHERE noted_at < ? OR (hidden = 1 AND noted_at < ?)",
            (datetime.now(UTC) - KEPT_FOR, now - PARTS_WITHIN_MICROS),
        )


def remove_passages(transaction: Transaction, gallery_id: int) -> None:
    transaction.change("DELETE FROM passages WHERE gallery_id = ?", (gallery_id,))


def _add_passage(transaction: Transaction, gallery_id: int, passage: EndedPassage) -> None:
    row = _as_row(gallery_id, passage)
    if passage.name is None:
        if not passage.hidden:
            transaction.insert("passages", row)
        return
    other_parts = (gallery_id, passage.name, row["until"], row["began"])
    for other in transaction.rows("passages", OTHER_PARTS, other_parts):
        row["began"] = min(row["began"], other["began"])
        row["until"] = max(row["until"], other["until"])
        if row["hidden"] or other["hidden"]:
            row |= {"hidden": 1} | dict.fromkeys(OF_BEST_CROP)
        elif other["score"] > row["score"]:
            row |= {column: other[column] for column in OF_BEST_CROP}
    transaction.change(f"DELETE FROM passages {OTHER_PARTS}", other_parts)
    transaction.insert("passages", row)


def _as_row(gallery_id: int, passage: EndedPassage) -> dict[str, Any]:
    of_best_crop: dict[str, Any] = dict.fromkeys(OF_BEST_CROP)
    if not passage.hidden:
        of_best_crop = {
            **vars(passage.best),
            "camera": passage.camera,
            "track": passage.track,
            "faults": ",".join(passage.best.faults),
        }
    return {
        "gallery_id": gallery_id,
        "passage_id": new_crop_id(),
        "name": passage.name,
        "began": as_micros(passage.began),
        "until": as_micros(passage.until),
        "hidden": int(passage.hidden),
        "noted_at": now_micros(),
        **of_best_crop,
    }


def _as_passage(row: Row) -> Passage:
    faults = row["faults"].split(",") if row["faults"] else []
    return Passage(
        captured_at=row["captured_at"],
        camera=row["camera"],
        zone=row["zone"],
        track=row["track"],
        score=row["score"],
        threshold=row["threshold"],
        margin=row["score"] - row["threshold"],
        probability=row["probability"],
        height=row["height"],
        faults=faults,
        sentence=describe_passage(
            row["score"] - row["threshold"], row["probability"], row["height"], faults
        ),
    )


def describe_passage(
    margin: float, probability: float | None, height: int | None, faults: Sequence[str]
) -> str:
    """Say why a track raised no alert, such as "0.04 below; 80 pixels high; blurred"."""
    distance = f"{abs(margin):.2f}" if abs(margin) >= 0.005 else "less than 0.01"
    parts = [f"{distance} below"]
    if probability is not None:
        parts = [f"{distance} above, with a probability of {probability:.0%}; an alert needs 50%"]
    if height is not None:
        parts.append(f"{counted(height, 'pixel')} high")
    parts += [FAULTS.get(fault, fault) for fault in faults]
    return "; ".join(parts)
