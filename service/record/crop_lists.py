"""Listings of a gallery's crops: filtered, in an order, page by page, each at a bounded cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gmn_client.models import CropOrder
from service.errors import InvalidField
from service.record.engine import Reader, Scan
from service.record.entries import Generation, as_crop, read_crops, rows_by, rows_of_ids
from service.record.keys import above, as_text, below, key, last_number
from service.record.records import CropFilter, StoredCrop

ROWS_AT_ONCE = 500
# A page looks at so many crops at most, so that a filter which few pass keeps no thread for long.
MOST_SCANNED = 10_000
UTC_OFFSET = "+00:00"
CURSOR = re.compile(r"(?:([0-9T:.-]{19,26})_)?([0-9]{1,18})", re.ASCII)
# Of these labels the first is what fewest crops share.
LABELS = ("external_id", "identity", "camera")


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
    reader: Reader, at: Generation, wanted: CropFilter, order: CropOrder, after: str, limit: int
) -> CropPage:
    """Up to `limit` crops that pass a filter; all of them where it names their ids.

    Args:
        order: `enrolled`, or by the time of capture, where that is unknown of enrollment.
        after: a cursor of the same order; empty for the first page.

    Raises:
        InvalidField: for a text that is no cursor of this order.
    """
    found = CURSOR.fullmatch(after or "0")
    if found is None or (after and bool(found[1]) != (order != "enrolled")):
        raise InvalidField(
            f"cursor: {after[:40]!r} is none of this order; send next_cursor of the page before"
        )
    if wanted.crop_ids:
        named = read_crops(reader, at, sorted(rows_of_ids(reader, at, wanted.crop_ids)))
        return CropPage([one for one in named.values() if wanted.passes(one)], None)
    moment = found[1] and found[1] + UTC_OFFSET
    row = int(found[2])
    if order == "enrolled":
        return _scan(reader, at, wanted, _by_row(at, wanted, row), limit)
    if wanted.identity is None and wanted.external_id is None:
        return _scan(reader, at, wanted, _by_time(at, wanted, order, moment, row), limit)
    # Of one person they are few: read, and put in order.
    label = "identity" if wanted.external_id is None else "external_id"
    rows = rows_by(reader, at, label, getattr(wanted, label))
    passing = [one for one in read_crops(reader, at, rows).values() if wanted.passes(one)]
    places = {
        at.key("captured", as_text(crop.captured_at or crop.created_at), crop.row_id): crop
        for crop in passing
    }
    last = at.key("captured", moment, row) if moment else b""
    if order == "captured":
        later = sorted(own for own in places if own > last)
    else:
        later = sorted((own for own in places if not last or own < last), reverse=True)
    shown = later[:limit]
    more = _cursor(at, shown[-1]) if len(later) > limit else None
    return CropPage([places[own] for own in shown], more)


def _by_row(at: Generation, wanted: CropFilter, row: int) -> Scan:
    for name in LABELS:
        if (value := getattr(wanted, name)) is not None:
            return Scan(*above(at.key("by", name, value), row))
    return Scan(*above(at.key("crop"), row))


def _by_time(
    at: Generation, wanted: CropFilter, order: CropOrder, moment: str | None, row: int
) -> Scan:
    start, end = below(at.key("captured"))
    if wanted.captured_after is not None:
        start += key(as_text(wanted.captured_after))
    if wanted.captured_before is not None:
        _, end = below(at.key("captured", as_text(wanted.captured_before)))
    if moment and order == "captured":
        start, _ = above(at.key("captured", moment), row)
    elif moment:
        end = at.key("captured", moment, row)
    return Scan(start, end, reverse=order == "-captured")


def _scan(reader: Reader, at: Generation, wanted: CropFilter, scan: Scan, limit: int) -> CropPage:
    """The crops of a range of keys that pass, until there are enough or enough was looked at."""
    at_once = limit + 1 if wanted == CropFilter() else max(limit + 1, ROWS_AT_ONCE)
    start = scan.start
    end = scan.end
    last = b""
    found = list[StoredCrop]()
    scanned = 0
    while True:
        keys = reader.scan(Scan(start, end, at_once, scan.reverse))[0]
        crops = _crops_of(reader, at, keys)
        for own, _ in keys:
            crop = crops.get(last_number(own))
            if crop is not None and wanted.passes(crop):
                if len(found) == limit:
                    return CropPage(found, _cursor(at, last))
                found.append(crop)
            last = own
        scanned += len(keys)
        if len(keys) < at_once:
            return CropPage(found, None)
        if scanned >= MOST_SCANNED:
            return CropPage(found, _cursor(at, last))
        start, end = (start, last) if scan.reverse else (last + b"\0", end)


def _crops_of(
    reader: Reader, at: Generation, keys: Sequence[tuple[bytes, bytes]]
) -> dict[int, StoredCrop]:
    if keys and keys[0][1]:
        # These are the records themselves.
        return {last_number(own): as_crop(body) for own, body in keys}
    return read_crops(reader, at, [last_number(own) for own, _ in keys])


def _cursor(at: Generation, own: bytes) -> str:
    prefix = at.key("captured")
    row = last_number(own)
    if not own.startswith(prefix):
        return str(row)
    text = own[len(prefix) : -len(key(row)) - 1].decode()
    return f"{text.removesuffix(UTC_OFFSET)}_{row}"
