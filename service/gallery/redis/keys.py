"""API keys in Redis."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime

from service.gallery.key_records import SCOPES, ApiKey
from service.gallery.redis.database import Database
from service.gallery.stored_values import as_text, as_time


class RedisKeys:
    """Implements `KeyRecords`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[ApiKey]:
        """Every key that was not revoked, oldest first."""
        keys = [_key(text) for text in self._database.command("HVALS", "gmn:keys")]
        return sorted(keys, key=lambda key: (key.created_at, key.key_id))

    def add(self, key: ApiKey) -> None:
        """Keeps a key."""
        kept = asdict(key) | {
            "created_at": as_text(key.created_at),
            "expires_at": as_text(key.expires_at) if key.expires_at else None,
        }
        self._database.write("keys", key.key_id, json.dumps(kept))

    def revoke(self, key_id: str) -> bool:
        """Removes a key; False where there is no such one."""
        return bool(self._database.write("keys", key_id, "")["changed"])


def _key(text: bytes) -> ApiKey:
    kept = json.loads(text)
    kept["scopes"] = tuple(scope for scope in SCOPES if scope in kept["scopes"])
    kept["created_at"] = datetime.fromisoformat(kept["created_at"])
    # Keys of before format 3 have none.
    kept["expires_at"] = as_time(kept.get("expires_at"))
    return ApiKey(**kept)
