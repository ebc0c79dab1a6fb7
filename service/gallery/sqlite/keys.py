"""API keys in SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from service.gallery.key_records import SCOPES, ApiKey
from service.gallery.sqlite.database import Database
from service.gallery.stored_values import as_text, as_time


class SqliteKeys:
    """Implements `KeyRecords`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[ApiKey]:
        """Every key that was not revoked, oldest first."""
        rows = self._database.connection.execute(
            "SELECT key_id, secret_sha256, scopes, gallery, note, created_at, learn, expires_at "
            "FROM api_keys ORDER BY created_at, key_id"
        )
        return [_key(row) for row in rows]

    def add(self, key: ApiKey) -> None:
        """Keeps a key."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO api_keys VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    key.key_id,
                    key.secret_sha256,
                    ",".join(key.scopes),
                    key.gallery,
                    key.note,
                    as_text(key.created_at),
                    key.learn,
                    as_text(key.expires_at) if key.expires_at else None,
                ),
            )

    def revoke(self, key_id: str) -> bool:
        """Removes a key; False where there is no such one."""
        with self._database.transaction() as connection:
            changed = connection.execute("DELETE FROM api_keys WHERE key_id = ?", (key_id,))
        return changed.rowcount > 0


def _key(row: Sequence[Any]) -> ApiKey:
    key_id, secret, scopes, gallery, note, created_at, learn, expires_at = row
    return ApiKey(
        key_id,
        secret,
        tuple(scope for scope in SCOPES if scope in scopes.split(",")),
        gallery,
        note,
        datetime.fromisoformat(created_at),
        bool(learn),
        as_time(expires_at),
    )
