"""Filtered, sorted and paginated listings of a gallery's crops, at a bounded cost per page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gmn_client.models import CropOrder
from service.errors import InvalidField
from service.record.crop_rows import read_crops
from service.record.schema import as_micros
from service.record.transaction import Reader
from service.record.values import CropFilter, StoredCrop

# Upper bound on the crops examined for a page, so that a selective filter does not block a thread.
MOST_SCANNED = 10_000
# Slot of the page's last crop, preceded by the microseconds of its time if sorted by time.
CURSOR = re.compile(r"(?:(-?[0-9]{1,18})_)?([0-9]{1,18})", re.ASCII)

# SQL conditions by the field of `CropFilter` that asks for them, the most selective first.
LABELS = {
    "crop_ids": "crops.crop_id IN (SELECT value FROM json_each(:crop_ids))",
    "external_id": "crops.external_id = :external_id",
    "identity": (
        "crops.person_id = "
        "(SELECT person_id FROM people WHERE gallery_id = :gallery_id AND name = :identity)"
    ),
    "track": (
        "crops.slot IN (SELECT slot FROM tracks WHERE gallery_id = :gallery_id AND track = :track)"
    ),
    "unnamed": "crops.person_id IS NULL",
    "camera": "crops.camera = :camera",
}
CAPTURED = {
    "captured_after": "crops.captured_at >= :captured_after",
    "captured_before": "crops.captured_at <= :captured_before",
}
# Crops that pass `CAPTURED` pass these too, for which there is an index.
SEEN = {
    "captured_after": "crops.seen_at >= :captured_after",
    "captured_before": "crops.seen_at <= :captured_before",
}
OF_GALLERY = "crops.gallery_id = :gallery_id"
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
    """Return up to `limit` crops that pass a filter.

    Args:
        order: `enrolled`, or by time of capture, with the time of enrollment where that is unknown.
        after: a cursor of the same order; empty for the first page.

    Raises:
        InvalidField: `after` is not a cursor of this order.
    """
    start = _read_cursor(after, order)
    values = _values(gallery_id, wanted)
    labels = _asked(LABELS, values)
    captured = _asked(CAPTURED, values)
    by_time = order != "enrolled"
    is_backward = order == "-captured"
    # A person, track or external id has few crops: read them all and sort.
    selective = (wanted.identity, wanted.track, wanted.external_id)
    is_sorted = by_time and any(label is not None for label in selective)
    if by_time and not is_sorted:
        # The cursor supersedes the bound where the first page began.
        superseded = "captured_before" if is_backward else "captured_after"
        bounds = {name: text for name, text in SEEN.items() if not start or name != superseded}
        indexed = _asked(bounds, values)
        unindexed = [*labels, *captured]
    else:
        indexed = labels[:1]
        unindexed = [*labels[1:], *captured]
    columns = ["seen_at", "slot"] if by_time else ["slot"]
    indexed.append(OF_GALLERY)
    if start:
        indexed.append(_compare(columns, "<" if is_backward else ">", start))
    direction = "DESC" if is_backward else "ASC"
    # A unary plus keeps SQLite from using an index for this column.
    sign = "+" if is_sorted else ""
    sequence = ", ".join(f"{sign}{column} {direction}" for column in columns)

    edges = []
    if unindexed and not is_sorted:
        edges = reader.execute(
            f"SELECT {', '.join(columns)} FROM crops WHERE {' AND '.join(indexed)} "
            f"ORDER BY {sequence} LIMIT 1 OFFSET {MOST_SCANNED - 1}",
            values,
        )
    for edge in edges:
        indexed.append(_compare(columns, ">=" if is_backward else "<=", tuple(edge)))
    conditions = " AND ".join([*indexed, *(f"+{text}" for text in unindexed)])
    clauses = f"WHERE {conditions} ORDER BY {sequence} LIMIT {limit + 1}"
    crops = read_crops(reader, clauses, values)
    page = crops[:limit]
    if len(crops) > limit:
        return CropPage(page, _cursor(_place(page[-1], by_time)))
    return CropPage(page, _cursor(tuple(edges[0])) if edges else None)


def read_slots(
    reader: Reader, gallery_id: int, wanted: CropFilter, limit: int | None = None
) -> list[int]:
    values = _values(gallery_id, wanted)
    asked = [OF_GALLERY, *_asked(LABELS | CAPTURED, values), *_asked(SEEN, values)]
    slots = f"SELECT slot FROM crops WHERE {' AND '.join(asked)} ORDER BY slot"
    values["limit"] = -1 if limit is None else limit
    return reader.column(f"{slots} LIMIT :limit", values)


def _values(gallery_id: int, wanted: CropFilter) -> dict[str, Any]:
    return {
        **asdict(wanted),
        "gallery_id": gallery_id,
        "crop_ids": wanted.crop_ids or None,
        "unnamed": wanted.unnamed or None,
    }


def _asked(conditions: Mapping[str, str], values: Mapping[str, Any]) -> list[str]:
    return [text for name, text in conditions.items() if values[name] is not None]


def _compare(columns: Sequence[str], sign: str, place: Place) -> str:
    numbers = ", ".join(str(number) for number in place)
    return f"({', '.join(columns)}) {sign} ({numbers})"


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
