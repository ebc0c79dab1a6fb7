"""Changes of a whole identity: rename or merge, forget, and the undoing of merges.

A store that processes share does nothing else during a commit, so that one commit changes a bounded
number of crops there. What is left of a change is noted in the same commit, and every process goes
on with it: the one that began it, one that changes an identity of the gallery, and one that starts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar

from pydantic_core import from_json

from gmn_client.models import Merge
from service.errors import RecordUnavailable, ServiceError
from service.record.crop_changes import CropChanges
from service.record.engine import (
    ALL,
    Engine,
    Reader,
    RecordPart,
    Transaction,
    as_text,
    below,
    key,
    last_number,
    last_text,
    new_crop_id,
    now,
    transact,
    transactional,
)
from service.record.entries import read_crops, read_entry, require_entry, rows_by, rows_of_ids
from service.record.records import Relabelling, Removal

log = logging.getLogger(__name__)
Given = ParamSpec("Given")
Changed = TypeVar("Changed", Relabelling, Removal)
CROPS_AT_ONCE = 1000
MERGES_KEPT_FOR = timedelta(days=30)
# The entry of a merge, and the ids of the crops of each of its commits.
MERGE, MERGED = "merge", "merged crops"
PENDING = "pending identity change"


@dataclass(frozen=True)
class Pending:
    """What is left of a change of an identity.

    Attributes:
        identity: whose crops are changed.
        new: what they are called afterwards; None where they are removed.
        newest: the newest row when the change began; later crops stay as they are.
        merge_id: the merge that the change makes or undoes.
        undo: it undoes that merge.
    """

    identity: str
    new: str | None
    newest: int
    merge_id: str | None = None
    undo: bool = False


class _Unfinished(Exception):
    """Another change of an identity of the gallery is pending."""


def rename_identity(engine: Engine, gallery_id: int, identity: str, new: str) -> Relabelling | None:
    """Gives every crop of an identity another one; None where there is no such crop."""
    parts = _run(engine, _rename, gallery_id, identity, new)
    return _joined_relabelling(parts) if parts else None


def forget_identity(engine: Engine, gallery_id: int, identity: str) -> Removal | None:
    """Removes an identity's crops and the merges that name it; None where there is none."""
    parts = _run(engine, _forget, gallery_id, identity)
    if not parts:
        return None
    rows = [row for part in parts for row in part.row_ids]
    crop_ids = [crop_id for part in parts for crop_id in part.crop_ids]
    return Removal(parts[-1].version, tuple(rows), tuple(crop_ids))


def finish_identity_changes(engine: Engine) -> None:
    """Goes on with every change that another process began and did not end."""
    for own, _ in list(Reader(engine).every(below(key(PENDING)))):
        try:
            finish_change(engine, last_number(own))
        except RecordUnavailable:
            raise
        except ServiceError as error:
            log.error("a change of an identity cannot be finished: %s", error.detail)


class Merges(RecordPart):
    """The merges of each gallery's identities that can be undone."""

    def all(self, gallery_id: int) -> list[Merge]:
        """A gallery's merges of the last 30 days, newest first."""
        merges = []
        for merge_id, entry in _entries(self._reader, gallery_id):
            merged_at = datetime.fromisoformat(entry["merged_at"])
            merge = Merge(
                merge_id=merge_id,
                identity=entry["identity"],
                into=entry["into"],
                crops=entry.get("crops", len(entry["crop_ids"])),
                merged_at=merged_at,
                undo_until=merged_at + MERGES_KEPT_FOR,
            )
            merges.append(merge)
        return [one for one in reversed(merges) if one.undo_until > datetime.now(UTC)]

    def undo(self, gallery_id: int, merge_id: str) -> Relabelling | None:
        """Gives the crops of a merge their former identity again.

        Crops that were deleted, or got yet another identity, stay as they are. A rename of the
        identity that they were merged into does not count as such.

        Returns:
            What was changed; None where there is no such merge any more.
        """
        parts = _run(self._engine, _undo, gallery_id, merge_id)
        return _joined_relabelling(parts) if parts else None

    @transactional
    def remove_expired(self, transaction: Transaction, gallery_id: int) -> None:
        """Removes merges that are older than 30 days."""
        for merge_id, entry in _entries(transaction, gallery_id):
            if entry["merged_at"] < _oldest():
                transaction.removes = True
                _remove_merge(transaction, gallery_id, merge_id)


def _run(
    engine: Engine,
    begin: Callable[Concatenate[Transaction, int, int, Given], Changed | None],
    gallery_id: int,
    *args: Given.args,
    **kwargs: Given.kwargs,
) -> list[Changed]:
    """Begins a change once no other is pending, and goes on to its end; answers its parts."""
    while True:
        finish_change(engine, gallery_id)
        try:
            first = transact(engine, begin, gallery_id, _limit(engine), *args, **kwargs)
        except _Unfinished:
            continue
        return [] if first is None else [first, *finish_change(engine, gallery_id)]


def _limit(engine: Engine) -> int:
    # Only the writer of its one process waits for a store in a file.
    return CROPS_AT_ONCE if engine.changes else ALL


def finish_change(engine: Engine, gallery_id: int) -> list[Any]:
    """Goes on with a gallery's pending change to its end; answers its parts."""
    parts = []
    while part := transact(engine, _go_on, gallery_id, _limit(engine)):
        parts.append(part)
    return parts


def _go_on(transaction: Transaction, gallery_id: int, limit: int) -> Relabelling | Removal | None:
    noted = transaction.json(key(PENDING, gallery_id))
    entry = read_entry(transaction, gallery_id)
    if noted is None or entry is None:
        return None
    change, pending = CropChanges(transaction, entry), Pending(**noted)
    step = _remove if pending.new is None else _relabel
    return step(change, pending, limit, noted=True)


def _begin(transaction: Transaction, gallery_id: int) -> CropChanges:
    change = CropChanges(transaction, require_entry(transaction, gallery_id))
    if transaction.json(key(PENDING, gallery_id)) is not None:
        raise _Unfinished
    return change


def _rename(
    transaction: Transaction, gallery_id: int, limit: int, identity: str, new: str
) -> Relabelling | None:
    change = _begin(transaction, gallery_id)
    seen = transaction.json(change.at.key("identity", identity))
    if seen is None:
        return None
    merge_id = None
    for other_id, other in _entries(transaction, gallery_id):
        if other["into"] == identity:
            _rename_target(transaction, gallery_id, other_id, new)
    if rows_by(transaction, change.at, "identity", new, limit=1):
        merge_id = new_crop_id()
        merge = {"identity": identity, "into": new, "merged_at": now(), "crops": seen["crops"]}
        # Merges are undone in the order of versions: the clock may have been set back.
        merge |= {"version": change.entry.version, "crop_ids": []}
        transaction.put_json(key(MERGE, gallery_id, merge_id), merge)
    pending = Pending(identity, new, change.entry.rows, merge_id)
    return _relabel(change, pending, limit)


def _forget(transaction: Transaction, gallery_id: int, limit: int, identity: str) -> Removal | None:
    change = _begin(transaction, gallery_id)
    named = [
        merge_id
        for merge_id, entry in _entries(transaction, gallery_id)
        if identity in (entry["identity"], entry["into"])
    ]
    for merge_id in named:
        _remove_merge(transaction, gallery_id, merge_id)
    transaction.removes = True
    removal = _remove(change, Pending(identity, None, change.entry.rows), limit)
    return Removal(change.entry.version, ()) if named and removal is None else removal


def _undo(
    transaction: Transaction, gallery_id: int, limit: int, merge_id: str
) -> Relabelling | None:
    change = _begin(transaction, gallery_id)
    merge = transaction.json(key(MERGE, gallery_id, merge_id))
    if merge is None or merge["merged_at"] < _oldest():
        return None
    # What had been merged into this identity before is found under it again.
    undone = set(_crop_ids(transaction, gallery_id, merge_id, merge))
    for other_id, other in _entries(transaction, gallery_id):
        if other_id == merge_id:
            break
        if undone.intersection(_crop_ids(transaction, gallery_id, other_id, other)):
            _rename_target(transaction, gallery_id, other_id, merge["identity"])
    pending = Pending(merge["into"], merge["identity"], change.entry.rows, merge_id, undo=True)
    return _relabel(change, pending, limit)


def _remove(
    change: CropChanges, pending: Pending, limit: int, noted: bool = False
) -> Removal | None:
    """Removes up to `limit` crops; None where none was left."""
    return change.remove_for_good(_next_rows(change, pending, limit, noted))


def _relabel(
    change: CropChanges, pending: Pending, limit: int, noted: bool = False
) -> Relabelling | None:
    """Changes the identity of up to `limit` crops; None where none was left."""
    transaction, gallery_id = change.transaction, change.entry.gallery_id
    rows = _next_rows(change, pending, limit, noted)
    crops = read_crops(transaction, change.at, rows).values()
    own = [crop for crop in crops if crop.identity == pending.identity]
    if not (own or pending.undo):
        return None
    changed = change.update(own, identity=pending.new)
    if pending.undo:
        return replace(change.finish_relabelling(changed), restored_identity=pending.new)
    if pending.merge_id is not None:
        part = key(MERGED, gallery_id, pending.merge_id, change.entry.version)
        transaction.put_json(part, [crop.crop_id for crop in changed])
    return change.finish_relabelling(changed, pending.merge_id)


def _next_rows(change: CropChanges, pending: Pending, limit: int, noted: bool) -> list[int]:
    """Up to `limit` crops to be changed; whether there are more is noted.

    Args:
        noted: an earlier commit noted that there are more.
    """
    transaction, gallery_id = change.transaction, change.entry.gallery_id
    if pending.undo:
        ids, more = _take_ids(transaction, gallery_id, str(pending.merge_id), limit)
        rows = sorted(rows_of_ids(transaction, change.at, ids))
    else:
        borne = rows_by(transaction, change.at, "identity", pending.identity, limit=limit + 1)
        rows = [row for row in borne if row <= pending.newest]
        more, rows = len(rows) > limit, rows[:limit]
    if more:
        transaction.put_json(key(PENDING, gallery_id), pending)
    elif noted:
        transaction.delete(key(PENDING, gallery_id))
    return rows


def _take_ids(
    transaction: Transaction, gallery_id: int, merge_id: str, limit: int
) -> tuple[list[str], bool]:
    """Takes up to `limit` ids of crops out of a merge that is undone; whether any is left."""
    own = key(MERGE, gallery_id, merge_id)
    merge = transaction.json(own)
    ids, left = merge["crop_ids"][:limit], merge["crop_ids"][limit:]
    more = bool(left)
    for part, body in transaction.below(key(MERGED, gallery_id, merge_id), limit):
        crop_ids = from_json(body)
        more = more or bool(ids and len(ids) + len(crop_ids) > limit)
        if more:
            break
        ids += crop_ids
        transaction.delete(part)
    if more:
        transaction.put_json(own, {**merge, "crop_ids": left, "undone": True})
    else:
        transaction.delete(own)
    return ids, more


def _remove_merge(transaction: Transaction, gallery_id: int, merge_id: str) -> None:
    parts = transaction.below(key(MERGED, gallery_id, merge_id))
    transaction.delete(key(MERGE, gallery_id, merge_id), *(own for own, _ in parts))


def _rename_target(transaction: Transaction, gallery_id: int, merge_id: str, into: str) -> None:
    """Notes the new name of an identity that another was merged into."""
    own = key(MERGE, gallery_id, merge_id)
    # Read by key: forgetting removes a merge without a change of the gallery's entry.
    if (entry := transaction.json(own)) is not None:
        transaction.put_json(own, {**entry, "into": into})


def _crop_ids(reader: Reader, gallery_id: int, merge_id: str, entry: dict[str, Any]) -> list[str]:
    """The crops of a merge; an entry of an older program has all of them itself."""
    parts = reader.below(key(MERGED, gallery_id, merge_id))
    return [*entry["crop_ids"], *(one for _, body in parts for one in from_json(body))]


def _entries(reader: Reader, gallery_id: int) -> list[tuple[str, dict[str, Any]]]:
    """Every merge that is kept and not being undone, oldest first, by id.

    The gallery's version orders them, as the clock that ids begin with may be set back; those of
    an older program have none, and are older.
    """
    prefix = key(MERGE, gallery_id)
    found = [(last_text(own, prefix), from_json(body)) for own, body in reader.below(prefix)]
    kept = [(merge_id, entry) for merge_id, entry in found if not entry.get("undone")]
    return sorted(kept, key=lambda one: (one[1].get("version", 0), one[0]))


def _oldest() -> str:
    return as_text(datetime.now(UTC) - MERGES_KEPT_FOR)


def _joined_relabelling(parts: Sequence[Relabelling]) -> Relabelling:
    return replace(parts[-1], labels=tuple(label for part in parts for label in part.labels))
