"""API keys, snapshots and runtimes in the record."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as kept

from service.record.encoding import below, key
from service.record.engine import RecordPart, Transaction, transactional
from service.record.gallery_entries import require_entry
from service.record.records import Snapshot

Scope = Literal["query", "enroll", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = ("query", "enroll", "metrics", "admin")


@kept(frozen=True)
class ApiKey:
    """Who may do what.

    Attributes:
        key_id: the public part, by which a key is named in logs and revoked.
        secret_sha256: of the secret part, hexadecimal. The secret is 256 random bits, so that a
            fast hash does: there is no dictionary of them.
        scopes: what it may do; `admin` may do everything.
        gallery: the only gallery it may touch; None for all.
        note: whom it was made for.
        learn: whether its searches count for the calibration of the galleries they search.
        expires_at: from then on it is refused; None for never.
    """

    key_id: str
    secret_sha256: str
    scopes: tuple[Scope, ...]
    gallery: str | None
    note: str
    created_at: datetime
    learn: bool = True
    expires_at: datetime | None = None


class Keys(RecordPart):
    """API keys."""

    def all(self) -> list[ApiKey]:
        """Every key that was not revoked, oldest first."""
        found = self._reader.every(below(key("api key")))
        keys = [API_KEY.validate_json(body) for _, body in found]
        return sorted(keys, key=lambda one: (one.created_at, one.key_id))

    @transactional
    def add(self, transaction: Transaction, api_key: ApiKey) -> None:
        """Keeps a key."""
        transaction.put_json(key("api key", api_key.key_id), api_key)
        transaction.note("keys")

    @transactional
    def revoke(self, transaction: Transaction, key_id: str) -> bool:
        """Removes a key; False where there is no such one."""
        own = key("api key", key_id)
        if transaction.json(own) is None:
            return False
        transaction.delete(own)
        transaction.commit.removes = True
        transaction.note("keys")
        return True


class Snapshots(RecordPart):
    """Which snapshots there are; their files lie elsewhere."""

    def all(self, gallery_id: int) -> list[Snapshot]:
        """A gallery's snapshots, oldest first."""
        found = self._reader.every(below(key("snapshot", gallery_id)))
        snapshots = [_SNAPSHOT.validate_json(body) for _, body in found]
        return sorted(snapshots, key=lambda one: (one.created_at, one.snapshot_id))

    @transactional
    def keep(self, transaction: Transaction, snapshot: Snapshot) -> None:
        """Keeps a snapshot, or what has changed of it; raises `UnknownGallery`."""
        require_entry(transaction, snapshot.gallery_id)
        own = key("snapshot", snapshot.gallery_id, snapshot.snapshot_id)
        transaction.put_json(own, snapshot)

    @transactional
    def remove(self, transaction: Transaction, gallery_id: int, snapshot_id: str) -> bool:
        """Forgets a snapshot; False where there is no such one."""
        own = key("snapshot", gallery_id, snapshot_id)
        there = transaction.json(own) is not None
        if there:
            transaction.delete(own)
        return there


class Runtimes(RecordPart):
    """What computes the features, by the embedder's fingerprint."""

    def get(self, embedder: str) -> str | None:
        """What was kept for an embedder; None where nothing was."""
        choice: str | None = self._reader.json(key("runtime", embedder))
        return choice

    @transactional
    def keep_first(self, transaction: Transaction, embedder: str, choice: str) -> str:
        """Keeps a choice where there is none, and answers the one that is kept."""
        own = key("runtime", embedder)
        before: str | None = transaction.json(own)
        if before is None:
            transaction.put_json(own, choice)
        return before or choice

    @transactional
    def forget(self, transaction: Transaction) -> int:
        """Removes the choices of all embedders, and answers how many there were."""
        found = [own for own, _ in transaction.below(key("runtime"))]
        transaction.delete(*found)
        return len(found)


API_KEY, _SNAPSHOT = TypeAdapter(ApiKey), TypeAdapter(Snapshot)
