"""Filtered, sorted and paginated listings of a gallery's crops, at a bounded cost per page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gmn_client.models import CropOrder
from service.errors import InvalidField
from service.record.crop_rows import read_by_id, read_crops
from service.record.schema import as_micros
from service.record.transaction import Reader, marks_of
from service.record.values import CropFilter, StoredCrop

# Upper bound on the crops examined for a page, so that a selective filter does not block a thread.
MOST_SCANNED = 10_000
# Slot of the page's last crop, preceded by the microseconds of its time if sorted by time.
CURSOR = re.compile(r"(?:(-?[0-9]{1,18})_)?([0-9]{1,18})", re.ASCII)

# An SQL condition and the values of its placeholders.
Condition = tuple[str, Sequence[Any]]
# Position of a crop in an order, as in a cursor.
Place = tuple[int, ...]


@dataclass(frozen=True)
class CropPage:
    """One page of a listing.

    Attributes:
        cursor: start of the next page; None on the last page. Other pages may have fewer crops than
            requested, or none.
    """

    crops: list[StoredCrop]
    cursor: str | None


def list_crops(
    reader: Reader, gallery_id: int, wanted: CropFilter, order: CropOrder, after: str, limit: int
) -> CropPage:
    """Return up to `limit` crops that pass a filter; all that pass if it lists ids.

    Args:
        order: `enrolled`, or by time of capture, with the time of enrollment where that is unknown.
        after: a cursor of the same order; empty for the first page.

    Raises:
        InvalidField: `after` is not a cursor of this order.
    """
    start = _read_cursor(after, order)
    if wanted.crop_ids:
        listed = read_by_id(reader, gallery_id, wanted.crop_ids)
        passing = [crop for crop in listed if wanted.passes(crop)]
        return CropPage(sorted(passing, key=lambda crop: crop.row_id), None)
    labels = _labels(reader, gallery_id, wanted)
    earliest = wanted.captured_after
    latest = wanted.captured_before
    times = _between("captured_at", earliest, latest)
    by_time = order != "enrolled"
    is_backward = order == "-captured"
    # A person, track or external id has few crops: read them all and sort.
    selective = (wanted.identity, wanted.track, wanted.external_id)
    is_sorted = by_time and any(label is not None for label in selective)
    if by_time and not is_sorted:
        # The cursor supersedes the bound where the first page began.
        indexed = _between(
            "seen_at",
            None if start and not is_backward else earliest,
            None if start and is_backward else latest,
        )
        unindexed = [*labels, *times]
    else:
        indexed = labels[:1]
        unindexed = [*labels[1:], *times]
    columns = ["seen_at", "slot"] if by_time else ["slot"]
    indexed.append(("crops.gallery_id = ?", (gallery_id,)))
    if start:
        indexed.append(_compare(columns, "<" if is_backward else ">", start))
    direction = "DESC" if is_backward else "ASC"
    # A unary plus keeps SQLite from using an index for this column.
    sign = "+" if is_sorted else ""
    sequence = ", ".join(f"{sign}{column} {direction}" for column in columns)

    edges = []
    if unindexed and not is_sorted:
        where, values = _where(indexed)
        listing = f"SELECT {', '.join(columns)} FROM crops {where} ORDER BY {sequence} LIMIT 1"
        edges = reader.execute(f"{listing} OFFSET ?", (*values, MOST_SCANNED - 1))
    for edge in edges:
        indexed.append(_compare(columns, ">=" if is_backward else "<=", tuple(edge)))
    where, values = _where(
        [*indexed, *((f"+{text}", parameters) for text, parameters in unindexed)]
    )
    crops = read_crops(reader, f"{where} ORDER BY {sequence} LIMIT ?", (*values, limit + 1))
    page = crops[:limit]
    if len(crops) > limit:
        return CropPage(page, _cursor(_place(page[-1], by_time)))
    return CropPage(page, _cursor(tuple(edges[0])) if edges else None)


def _labels(reader: Reader, gallery_id: int, wanted: CropFilter) -> list[Condition]:
    """Return conditions for labels, the most selective first."""
    conditions: list[Condition] = []
    if wanted.external_id is not None:
        conditions.append(("crops.external_id = ?", (wanted.external_id,)))
    if wanted.identity is not None:
        statement = "SELECT person_id FROM people WHERE gallery_id = ? AND name = ?"
        person_id = reader.value(statement, (gallery_id, wanted.identity))
        # No person has the id 0.
        conditions.append(("crops.person_id IS ?", (person_id or 0,)))
    if wanted.track is not None:
        of_track = "SELECT slot FROM tracks WHERE gallery_id = ? AND track = ?"
        conditions.append((f"crops.slot IN ({of_track})", (gallery_id, wanted.track)))
    if wanted.unnamed:
        conditions.append(("crops.person_id IS ?", (None,)))
    if wanted.camera is not None:
        conditions.append(("crops.camera = ?", (wanted.camera,)))
    return conditions


def _between(column: str, earliest: datetime | None, latest: datetime | None) -> list[Condition]:
    bounds = {">=": earliest, "<=": latest}
    return [
        (f"crops.{column} {sign} ?", (as_micros(bound),))
        for sign, bound in bounds.items()
        if bound is not None
    ]


def _compare(columns: Sequence[str], sign: str, place: Place) -> Condition:
    return f"({', '.join(columns)}) {sign} ({marks_of(place)})", place


def _where(conditions: Sequence[Condition]) -> tuple[str, list[Any]]:
    text = " AND ".join(condition for condition, _ in conditions)
    return f"WHERE {text}", [value for _, values in conditions for value in values]


def _place(crop: StoredCrop, by_time: bool) -> Place:
    seen_at = as_micros(crop.captured_at or crop.created_at)
    return (seen_at, crop.row_id) if by_time else (crop.row_id,)


def _cursor(place: Place) -> str:
    return "_".join(str(number) for number in place)


def _read_cursor(text: str, order: CropOrder) -> Place | None:
    if not text:
        return None
    match = CURSOR.fullmatch(text)
    if match is None or bool(match[1]) != (order != "enrolled"):
        raise InvalidField(
            f"cursor: {text[:40]!r} is not of this order; send next_cursor of the page before"
        )
    return tuple(int(number) for number in text.split("_"))
