"""Listings of a gallery's crops: filtered, in an order, page by page, each at a bounded cost."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gmn_client.models import CropOrder
from service.errors import InvalidField
from service.record.records import CropFilter, StoredCrop
from service.tables.crop_rows import read_crops, read_crops_in
from service.tables.transaction import Reader
from service.tables.values import as_micros, as_moment

# A page looks at this many crops at most, so that a filter which few pass holds no thread for long.
MOST_SCANNED = 10_000
CURSOR = re.compile(r"(?:([0-9T:.-]{19,26})_)?([0-9]{1,18})", re.ASCII)
UTC_OFFSET = "+00:00"


@dataclass(frozen=True)
class CropPage:
    """One page of a listing.

    Attributes:
        cursor: where the next page goes on; None on the last. A page that is not the last may have
            fewer crops than were asked for, also none.
    """

    crops: list[StoredCrop]
    cursor: str | None


def list_crops(
    reader: Reader, gallery_id: int, wanted: CropFilter, order: CropOrder, after: str, limit: int
) -> CropPage:
    """Return up to `limit` crops that pass a filter; all of them where it names their ids.

    Args:
        order: `enrolled`, or by the time of capture, where that is unknown of enrollment.
        after: a cursor of the same order; empty for the first page.

    Raises:
        InvalidField: `after` is no cursor of this order.
    """
    found = CURSOR.fullmatch(after or "0")
    if found is None or (after and bool(found[1]) != (order != "enrolled")):
        raise InvalidField(
            f"cursor: {after[:40]!r} is none of this order; send next_cursor of the page before"
        )
    if wanted.crop_ids:
        rest = "WHERE crops.gallery_id = ? AND crop_id IN ({}) ORDER BY slot"
        named = read_crops_in(reader, rest, [gallery_id], sorted(wanted.crop_ids))
        return CropPage([crop for crop in named if wanted.passes(crop)], None)
    conditions = ["crops.gallery_id = ?"]
    values: list[Any] = [gallery_id]
    by_slot = order == "enrolled"
    if after and by_slot:
        conditions.append("slot > ?")
        values.append(int(found[2]))
    elif after:
        conditions.append(f"(seen_at, slot) {'<' if order == '-captured' else '>'} (?, ?)")
        moment = datetime.fromisoformat(found[1] + UTC_OFFSET)
        values += [as_micros(moment), int(found[2])]
    for name in ("camera", "external_id"):
        if getattr(wanted, name) is not None:
            conditions.append(f"{name} = ?")
            values.append(getattr(wanted, name))
    if wanted.identity is not None:
        conditions.append(
            "crops.person_id = (SELECT person_id FROM people WHERE gallery_id = ? AND name = ?)"
        )
        values += [gallery_id, wanted.identity]
    if not by_slot and wanted.captured_after is not None:
        conditions.append("seen_at >= ?")
        values.append(as_micros(wanted.captured_after))
    if not by_slot and wanted.captured_before is not None:
        conditions.append("seen_at <= ?")
        values.append(as_micros(wanted.captured_before))
    direction = "DESC" if order == "-captured" else ""
    sequence = "slot" if by_slot else f"seen_at {direction}, slot {direction}"
    rest = f"WHERE {' AND '.join(conditions)} ORDER BY {sequence} LIMIT ?"
    exact = not (wanted.unnamed or wanted.of_time)
    most = limit + 1 if exact else MOST_SCANNED
    crops = read_crops(reader, rest, [*values, most])
    return _page(crops, wanted, order, limit, is_end=len(crops) < most)


def _page(
    crops: list[StoredCrop], wanted: CropFilter, order: CropOrder, limit: int, is_end: bool
) -> CropPage:
    """Return the crops that pass, up to the limit, and where the next page goes on."""
    shown: list[StoredCrop] = []
    last = crops[-1] if crops else None
    before = None
    for crop in crops:
        if wanted.passes(crop):
            if len(shown) == limit:
                return CropPage(shown, _cursor(before, order))
            shown.append(crop)
        before = crop
    return CropPage(shown, None if is_end or last is None else _cursor(last, order))


def _cursor(crop: StoredCrop | None, order: CropOrder) -> str | None:
    if crop is None:
        return None
    if order == "enrolled":
        return str(crop.row_id)
    seen_at = as_moment(as_micros(crop.captured_at or crop.created_at))
    return f"{seen_at.isoformat().removesuffix(UTC_OFFSET)}_{crop.row_id}"
