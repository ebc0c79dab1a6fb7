"""API keys in the record: who may do what."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as stored_dataclass
from pydantic_core import from_json

from gmn_client.models import Scope
from service.errors import Forbidden
from service.record.engine import RecordPart, Transaction, transactional
from service.record.keys import as_text, below, key, last_text

USED = key("key used")
SCOPES: tuple[Scope, ...] = ("query", "enroll", "metrics", "admin")


@stored_dataclass(frozen=True)
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
        rate: requests a minute that each process answers; None for any number.
        former_sha256, former_until: of the secret before a rotation, and until when it is valid.
    """

    key_id: str
    secret_sha256: str
    scopes: tuple[Scope, ...]
    gallery: str | None
    note: str
    created_at: datetime
    learn: bool = True
    expires_at: datetime | None = None
    rate: int | None = None
    former_sha256: str | None = None
    former_until: datetime | None = None

    def require(self, any_of: Collection[Scope]) -> None:
        """Raises `Forbidden` unless it has one of these scopes, or `admin`."""
        if not {"admin", *any_of} & set(self.scopes):
            raise Forbidden(
                f"the key {self.key_id} has the scope {', '.join(self.scopes)}, and this call "
                f"needs {' or '.join(any_of)}; send a key that has it"
            )

    def require_own(self, key_id: str | None) -> None:
        """Raises `Forbidden` where another key made it, or any of all, unless it has `admin`."""
        if key_id != self.key_id and "admin" not in self.scopes:
            made = "of every key" if key_id is None else f"of the key {key_id}"
            raise Forbidden(
                f"the key {self.key_id} has the scope {', '.join(self.scopes)}, and what is {made} "
                "needs admin; send a key that has it"
            )

    def require_gallery(self, gallery: str | None) -> None:
        """Raises `Forbidden` where it is for another gallery; None stands for all."""
        if self.gallery not in (None, gallery):
            other = "all of them" if gallery is None else f"{gallery!r}"
            raise Forbidden(
                f"the key {self.key_id} is for the gallery {self.gallery!r} and this call is about "
                f"{other}; send a key for that, or for all"
            )

    def may_see(self, gallery: str) -> bool:
        """Whether it may see a gallery."""
        return self.gallery in (None, gallery)


class Keys(RecordPart):
    """API keys."""

    def all(self) -> list[ApiKey]:
        """Every key that was not revoked, oldest first."""
        found = self._reader.every(below(key("api key")))
        keys = [API_KEY.validate_json(body) for _, body in found]
        return sorted(keys, key=lambda one: (one.created_at, one.key_id))

    def last_used(self) -> dict[str, datetime]:
        """When each key was last used, to the minute; keys that never were are not in it."""
        found = self._reader.every(below(USED))
        return {
            last_text(own, USED): datetime.fromisoformat(from_json(body)) for own, body in found
        }

    @transactional
    def note_used(self, transaction: Transaction, used: Mapping[str, datetime]) -> None:
        """Notes when keys were used, but for those that were revoked since."""
        for key_id, at in used.items():
            if transaction.json(key("api key", key_id)) is not None:
                transaction.put_json(USED + key(key_id), as_text(at))

    @transactional
    def add(self, transaction: Transaction, api_key: ApiKey) -> None:
        """Keeps a key, in the place of one of the same id."""
        transaction.put_json(key("api key", api_key.key_id), api_key)
        transaction.note("keys")

    @transactional
    def revoke(self, transaction: Transaction, key_id: str) -> bool:
        """Removes a key; False where there is no such one."""
        own = key("api key", key_id)
        if transaction.json(own) is None:
            return False
        transaction.delete(own, USED + key(key_id))
        transaction.removes = True
        transaction.note("keys")
        return True


API_KEY = TypeAdapter(ApiKey)
