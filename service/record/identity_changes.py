"""Changes of a whole identity: rename or merge, forget, and the undoing of merges.

A store that processes share does nothing else during a commit, so that one commit changes a bounded
number of crops there. What is left of a change is noted in the same commit, and every process goes
on with it: the one that began it, one that changes an identity of the gallery, and one that starts.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

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
    transact,
    transactional,
)
from service.record.entries import read_crops, require_entry, rows_by, rows_of_ids
from service.record.kept_queries import forget_kept
from service.record.keys import as_text, below, key, last_number, new_crop_id, now
from service.record.records import Relabelling, Removal

log = logging.getLogger(__name__)
CROPS_AT_ONCE = 1000
MERGES_KEPT_FOR = timedelta(days=30)
# The entry of a merge, and the ids of the crops of each of its commits.
MERGE = "merge"
MERGED = "merged crops"
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


Begin = Callable[[CropChanges], Pending | None]


@dataclass(frozen=True)
class Step:
    """What one commit did of a change; `begun` where it was the first of it."""

    of: Pending
    did: Relabelling | Removal
    begun: bool


class IdentityChanges(RecordPart):
    """Renames, merges and removals of whole identities, and the merges that can be undone."""

    def rename(self, gallery_id: int, identity: str, new: str) -> Relabelling | None:
        """Gives every crop of an identity another one; None where there is no such crop."""
        done: Relabelling | None = self._run(
            gallery_id, partial(_rename, identity=identity, new=new)
        )
        return done

    def forget(self, gallery_id: int, identity: str) -> Removal | None:
        """Removes an identity's crops and the merges that name it; None where it has no crops."""
        done: Removal | None = self._run(gallery_id, partial(_forget, identity=identity))
        return done

    @transactional
    def forget_merges(self, transaction: Transaction, gallery_id: int, identity: str) -> None:
        """Removes the merges that name an identity."""
        transaction.removes = True
        _remove_merges_of(transaction, gallery_id, identity)

    def merges(self, gallery_id: int) -> list[Merge]:
        """A gallery's merges of the last 30 days, newest first."""
        found = []
        for merge_id, entry in reversed(_merges(self._reader, gallery_id)):
            at = datetime.fromisoformat(entry["merged_at"])
            known = {name: entry[name] for name in ("identity", "into", "merged_at", "crops")}
            known |= {"merge_id": merge_id, "undo_until": at + MERGES_KEPT_FOR}
            found.append(Merge.model_validate(known))
        return [one for one in found if one.undo_until > datetime.now(UTC)]

    def undo_merge(self, gallery_id: int, merge_id: str) -> Relabelling | None:
        """Gives the crops of a merge their former identity again.

        Crops that were deleted, or got yet another identity, stay as they are. A rename of the
        identity that they were merged into does not count as such.

        Returns:
            What was changed; None where there is no such merge any more.
        """
        done: Relabelling | None = self._run(gallery_id, partial(_undo, merge_id=merge_id))
        return done

    @transactional
    def remove_expired_merges(self, transaction: Transaction, gallery_id: int) -> None:
        """Removes merges that are older than 30 days."""
        for merge_id, entry in _merges(transaction, gallery_id):
            if entry["merged_at"] < _oldest():
                transaction.removes = True
                _remove_merge(transaction, gallery_id, merge_id)

    def finish(self) -> None:
        """Goes on with every change that another process began and did not end."""
        for own, _ in list(self._reader.every(below(key(PENDING)))):
            try:
                finish_change(self._engine, last_number(own))
            except RecordUnavailable:
                raise
            except ServiceError as error:
                log.error("a change of an identity cannot be finished: %s", error.detail)

    def _run(self, gallery_id: int, begin: Begin) -> Any:
        """Begins a change once no other is pending, and goes on to its end.

        Returns:
            What its last commit did, with the tuples of all of them; None where it is of nothing.
        """
        step = transact(self._engine, _step, gallery_id, begin)
        while step and not step.begun:
            step = transact(self._engine, _step, gallery_id, begin)
        if step is None:
            return None
        steps = [step, *finish_change(self._engine, gallery_id)]
        parts = [vars(one.did) for one in steps if one.of == step.of]
        lists = [name for name, value in parts[0].items() if isinstance(value, tuple)]
        whole = {name: tuple(itertools.chain(*(one[name] for one in parts))) for name in lists}
        return replace(step.did, **{**parts[-1], **whole})


def changed_at_once(engine: Engine) -> int:
    """How many crops one commit may change, where nothing else is done during a commit."""
    # Only the writer of its one process waits for a store in a file.
    return CROPS_AT_ONCE if engine.changes else ALL


def finish_change(engine: Engine, gallery_id: int) -> list[Step]:
    """Goes on with a gallery's pending change to its end."""
    steps = []
    while step := transact(engine, _step, gallery_id):
        steps.append(step)
    return steps


def move_pending(transaction: Transaction, gallery_id: int, later: int) -> None:
    """Notes that a pending change is of all rows but so many last ones: crops have got new rows."""
    own = key(PENDING, gallery_id)
    if noted := transaction.json(own):
        newest = require_entry(transaction, gallery_id).rows - later
        transaction.put_json(own, {**noted, "newest": newest})


def _step(transaction: Transaction, gallery_id: int, begin: Begin | None = None) -> Step | None:
    """Goes on with the pending change, or else begins one; None where there is nothing to do."""
    noted = transaction.json(key(PENDING, gallery_id))
    if noted is None and begin is None:
        return None
    change = CropChanges(transaction, require_entry(transaction, gallery_id))
    pending = begin(change) if noted is None and begin else Pending(**noted)
    if pending is None:
        return None
    rows, more = _next_rows(change, pending)
    if more:
        transaction.put_json(key(PENDING, gallery_id), pending)
    elif noted is not None:
        transaction.delete(key(PENDING, gallery_id))
    if pending.new is not None:
        return Step(pending, _relabel(change, pending, rows), begun=noted is None)
    removal = change.remove_for_good(rows) or Removal(change.entry.version, ())
    kept = forget_kept(transaction, gallery_id, removal.crop_ids)
    removal = replace(removal, kept_searches=tuple(kept))
    return Step(pending, removal, begun=noted is None)


def _next_rows(change: CropChanges, pending: Pending) -> tuple[list[int], bool]:
    """Crops to be changed in a commit, and whether there are more."""
    transaction = change.transaction
    gallery_id = change.entry.gallery_id
    if pending.undo:
        merge_id = str(pending.merge_id)
        ids: list[str] = []
        parts = transaction.below(key(MERGED, gallery_id, merge_id), 2)
        for part, body in parts[:1]:
            ids = from_json(body)
            transaction.delete(part)
        transaction.delete(key(MERGE, gallery_id, merge_id))
        return sorted(rows_of_ids(transaction, change.at, ids)), len(parts) > 1
    limit = changed_at_once(transaction.engine)
    borne = rows_by(transaction, change.at, "identity", pending.identity, limit=limit + 1)
    rows = [row for row in borne if row <= pending.newest]
    return rows[:limit], len(rows) > limit


def _relabel(change: CropChanges, pending: Pending, rows: list[int]) -> Relabelling:
    crops = read_crops(change.transaction, change.at, rows).values()
    own = [crop for crop in crops if crop.identity == pending.identity]
    changed = change.update(own, identity=pending.new)
    if pending.undo:
        return replace(change.finish_relabelling(changed), restored_identity=pending.new)
    if pending.merge_id is not None:
        part = key(MERGED, change.entry.gallery_id, pending.merge_id, change.entry.version)
        change.transaction.put_json(part, [crop.crop_id for crop in changed])
    return replace(change.finish_relabelling(changed), merge_id=pending.merge_id)


def _rename(change: CropChanges, identity: str, new: str) -> Pending | None:
    transaction = change.transaction
    entry = change.entry
    seen = transaction.json(change.at.key("identity", identity))
    if seen is None:
        return None
    merges = _merges(transaction, entry.gallery_id)
    _retarget(change, [merge_id for merge_id, one in merges if one["into"] == identity], new)
    merge_id = None
    if rows_by(transaction, change.at, "identity", new, limit=1):
        merge_id = new_crop_id()
        merge = {"identity": identity, "into": new, "merged_at": now(), "crops": seen["crops"]}
        # Merges are undone in the order of versions: the clock may have been set back.
        merge["version"] = entry.version
        transaction.put_json(key(MERGE, entry.gallery_id, merge_id), merge)
    return Pending(identity, new, entry.rows, merge_id)


def _forget(change: CropChanges, identity: str) -> Pending | None:
    transaction = change.transaction
    gallery_id = change.entry.gallery_id
    # Crops that were merged into another identity are that identity's: its merges can be undone.
    if not rows_by(transaction, change.at, "identity", identity, limit=1):
        return None
    transaction.removes = True
    _remove_merges_of(transaction, gallery_id, identity)
    return Pending(identity, None, change.entry.rows)


def _undo(change: CropChanges, merge_id: str) -> Pending | None:
    transaction = change.transaction
    gallery_id = change.entry.gallery_id
    merge = transaction.json(key(MERGE, gallery_id, merge_id))
    if merge is None or merge["merged_at"] < _oldest():
        return None
    # What had been merged into this identity before is found under it again.
    undone = set(_crop_ids(transaction, gallery_id, merge_id))
    ids = [one for one, _ in _merges(transaction, gallery_id)]
    before = itertools.takewhile(lambda one: one != merge_id, ids)
    found = [one for one in before if undone.intersection(_crop_ids(transaction, gallery_id, one))]
    _retarget(change, found, merge["identity"])
    return Pending(merge["into"], merge["identity"], change.entry.rows, merge_id, undo=True)


def _remove_merges_of(transaction: Transaction, gallery_id: int, identity: str) -> None:
    for merge_id, merge in _merges(transaction, gallery_id):
        if identity in (merge["identity"], merge["into"]):
            _remove_merge(transaction, gallery_id, merge_id)


def _remove_merge(transaction: Transaction, gallery_id: int, merge_id: str) -> None:
    parts = transaction.below(key(MERGED, gallery_id, merge_id))
    transaction.delete(key(MERGE, gallery_id, merge_id), *(own for own, _ in parts))


def _retarget(change: CropChanges, merge_ids: Iterable[str], into: str) -> None:
    """Notes the new name of an identity that others were merged into."""
    for merge_id in merge_ids:
        own = key(MERGE, change.entry.gallery_id, merge_id)
        # Read by key: forgetting removes a merge without a change of the gallery's entry.
        if (entry := change.transaction.json(own)) is not None:
            change.transaction.put_json(own, {**entry, "into": into})


def _crop_ids(reader: Reader, gallery_id: int, merge_id: str) -> list[str]:
    parts = reader.below(key(MERGED, gallery_id, merge_id))
    return [one for _, body in parts for one in from_json(body)]


def _merges(reader: Reader, gallery_id: int) -> list[tuple[str, dict[str, Any]]]:
    """Every merge that is kept, oldest first, by id."""
    found = [(name, from_json(body)) for name, body in reader.named(key(MERGE, gallery_id))]
    return sorted(found, key=lambda one: (one[1]["version"], one[0]))


def _oldest() -> str:
    return as_text(datetime.now(UTC) - MERGES_KEPT_FOR)
