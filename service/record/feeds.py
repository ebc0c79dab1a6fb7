"""Feeds: the ordered changes of each gallery, which every process of the record follows."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable
from typing import Any

from pydantic_core import from_json, to_json

from service.errors import ServiceError
from service.record.marks import Mark
from service.record.schema import CHANGES, FEEDS
from service.record.transaction import Change, Reader, Transaction

# A follower that falls further behind must read everything again.
KEPT_CHANGES = 100_000
TRIM_EVERY = 1000
TOKEN_BYTES = 8
# Feed of everything outside galleries: jobs, keys, and the list of galleries.
ALL_GALLERIES = 0
OF_ALL_GALLERIES = ("gallery_created", "gallery_deleted", "jobs", "keys", "alerts")
# Slots, encoded by `as_ranges`, of crops that a gallery's changes after a number removed.
REMOVED_SLOTS = (
    "SELECT slots FROM changes WHERE gallery_id = ? AND seq > ? AND kind IN ('removed', 'replaced')"
)
OF_CROPS = ("added", "removed", "relabelled", "replaced")


class ChangesLost(ServiceError):
    """Changes that a follower has not seen were dropped: it must read everything again."""

    code = "record_unavailable"


def begin_feed(transaction: Transaction, gallery_id: int) -> None:
    """Start the feed of a gallery with a first change for followers to refer to."""
    token = secrets.token_bytes(TOKEN_BYTES)
    transaction.insert(FEEDS, {"gallery_id": gallery_id, "seq": 0, "token": token})
    created = Change(0, "gallery_created", gallery_id, 0)
    transaction.insert(CHANGES, _row(gallery_id, created, 0, token))


def read_feeds(reader: Reader) -> dict[int, Mark]:
    return {row["gallery_id"]: Mark(row["seq"], row["token"]) for row in reader.rows(FEEDS)}


def read_changes(reader: Reader, gallery_id: int, after: Mark, limit: int) -> list[Change]:
    """Return up to `limit` changes of a gallery that follow `after`, in order.

    Raises:
        ChangesLost: `after` has expired, or another change has its number.
    """
    clauses = "WHERE gallery_id = ? AND seq >= ? ORDER BY seq LIMIT ?"
    rows = reader.rows(CHANGES, clauses, (gallery_id, after.seq, limit + 1))
    if not rows or (rows[0]["seq"], rows[0]["token"]) != after:
        raise ChangesLost(f"gallery {gallery_id} has another history than the followed one")
    return [_as_change(row) for row in rows[1:]]


def add_changes(transaction: Transaction, notes: Iterable[Change]) -> dict[int, Mark]:
    """Append changes to the feeds of their galleries, and return the new end of each feed."""
    by_feed: dict[int, list[Change]] = {}
    for note in notes:
        feed = ALL_GALLERIES if note.kind in OF_ALL_GALLERIES else note.gallery_id
        by_feed.setdefault(feed, []).append(note)
    marks = {}
    for feed, changes in by_feed.items():
        row = transaction.row(FEEDS, "WHERE gallery_id = ?", (feed,))
        # Another rule of the same commit may have deleted the gallery.
        if row is None:
            continue
        seq = row["seq"]
        rows = [
            _row(feed, change, number, secrets.token_bytes(TOKEN_BYTES))
            for number, change in enumerate(changes, seq + 1)
        ]
        transaction.insert(CHANGES, *rows)
        newest = marks[feed] = Mark(seq + len(rows), rows[-1]["token"])
        if newest.seq // TRIM_EVERY > seq // TRIM_EVERY:
            old = (feed, newest.seq - KEPT_CHANGES)
            transaction.change("DELETE FROM changes WHERE gallery_id = ? AND seq <= ?", old)
        update = "UPDATE feeds SET seq = ?, token = ? WHERE gallery_id = ?"
        transaction.change(update, (*newest, feed))
    return marks


def as_ranges(slots: Iterable[int]) -> str:
    """Encode slots as JSON: the first and last slot of each run."""
    ranges: list[list[int]] = []
    for slot in sorted(slots):
        if ranges and slot == ranges[-1][1] + 1:
            ranges[-1][1] = slot
        else:
            ranges.append([slot, slot])
    return to_json(ranges).decode()


def slots_of(text: str) -> list[int]:
    return [slot for first, last in from_json(text) for slot in range(first, last + 1)]


def _row(feed: int, change: Change, seq: int, token: bytes) -> dict[str, Any]:
    # The feed of all galleries stores the gallery in place of slots.
    slots = [change.gallery_id] if feed == ALL_GALLERIES else change.row_ids
    return {
        "gallery_id": feed,
        "seq": seq,
        "token": token,
        "kind": change.kind,
        "version": change.version,
        "slots": as_ranges(slots),
    }


def _as_change(row: sqlite3.Row) -> Change:
    gallery_id = row["gallery_id"]
    slots = tuple(slots_of(row["slots"]))
    if gallery_id == ALL_GALLERIES:
        (gallery_id,) = slots
        slots = ()
    return Change(row["seq"], row["kind"], gallery_id, row["version"], slots, row["token"])
