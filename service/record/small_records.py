"""API keys, snapshots and runtimes in the record."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as kept

from service.record.encoding import below, key
from service.record.engine import Engine, Reader, Transaction, as_data, transact
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


class Keys:
    """API keys."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def all(self) -> list[ApiKey]:
        """Every key that was not revoked, oldest first."""
        found = [api_key_of(as_data(body)) for _, body in Reader(self._engine).every(ALL_KEYS)]
        return sorted(found, key=lambda one: (one.created_at, one.key_id))

    def add(self, api_key: ApiKey) -> None:
        """Keeps a key."""

        def rule(transaction: Transaction) -> None:
            transaction.put_json(key("api key", api_key.key_id), api_key)
            transaction.note("keys")

        transact(self._engine, rule)

    def revoke(self, key_id: str) -> bool:
        """Removes a key; False where there is no such one."""
        own = key("api key", key_id)

        def rule(transaction: Transaction) -> bool:
            if transaction.json(own) is None:
                return False
            transaction.delete(own)
            transaction.commit.removes = True
            transaction.note("keys")
            return True

        return transact(self._engine, rule)


class Snapshots:
    """Which snapshots there are; their files lie elsewhere."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def all(self, gallery_id: int) -> list[Snapshot]:
        """A gallery's snapshots, oldest first."""
        found = Reader(self._engine).every(below(key("snapshot", gallery_id)))
        snapshots = [_SNAPSHOT.validate_json(body) for _, body in found]
        return sorted(snapshots, key=lambda one: (one.created_at, one.snapshot_id))

    def keep(self, snapshot: Snapshot) -> None:
        """Keeps a snapshot, or what has changed of it; raises `UnknownGallery`."""
        own = key("snapshot", snapshot.gallery_id, snapshot.snapshot_id)

        def rule(transaction: Transaction) -> None:
            require_entry(transaction, snapshot.gallery_id)
            transaction.put_json(own, snapshot)

        transact(self._engine, rule)

    def remove(self, gallery_id: int, snapshot_id: str) -> bool:
        """Forgets a snapshot; False where there is no such one."""
        own = key("snapshot", gallery_id, snapshot_id)

        def rule(transaction: Transaction) -> bool:
            there = transaction.json(own) is not None
            if there:
                transaction.delete(own)
            return there

        return transact(self._engine, rule)


class Runtimes:
    """What computes the features, by the embedder's fingerprint."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get(self, embedder: str) -> str | None:
        """What was kept for an embedder; None where nothing was."""
        choice: str | None = Reader(self._engine).json(key("runtime", embedder))
        return choice

    def keep_first(self, embedder: str, choice: str) -> str:
        """Keeps a choice where there is none, and answers the one that is kept."""
        own = key("runtime", embedder)

        def rule(transaction: Transaction) -> str:
            before: str | None = transaction.json(own)
            if before is None:
                transaction.put_json(own, choice)
            return before or choice

        return transact(self._engine, rule)

    def forget(self) -> int:
        """Removes the choices of all embedders, and answers how many there were."""

        def rule(transaction: Transaction) -> int:
            found = [own for own, _ in transaction.every(below(key("runtime")))]
            transaction.delete(*found)
            return len(found)

        return transact(self._engine, rule)


def api_key_of(entry: object) -> ApiKey:
    """A key from what is kept of it."""
    return _API_KEY.validate_python(entry)


ALL_KEYS = below(key("api key"))
_API_KEY, _SNAPSHOT = TypeAdapter(ApiKey), TypeAdapter(Snapshot)
