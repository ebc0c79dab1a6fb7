"""API keys in the record: who may do what."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as stored_dataclass
from pydantic_core import from_json

from gmn_client.models import Scope
from service.errors import Forbidden, KeyConflict
from service.record.engine import RecordPart, Transaction, transactional
from service.record.keys import as_text, below, key, last_text

USED = key("key used")
API_KEYS = key("api key")
# Counts the changes of keys, so that of two at once the later one is decided again. While it is
# there the service asks for a key, even if none is left.
CHANGES = key("api key changes")
SCOPES: tuple[Scope, ...] = ("query", "enroll", "delete", "metrics", "admin")


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
        rate_images: the rate counts images in place of requests.
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
    rate_images: bool = False

    def may(self, *any_of: Scope) -> bool:
        """True with one of these scopes, or `admin`."""
        return bool({"admin", *any_of} & set(self.scopes))

    def require(self, any_of: Collection[Scope]) -> None:
        """Raises `Forbidden` unless it has one of these scopes, or `admin`."""
        if not self.may(*any_of):
            raise Forbidden(
                f"the key {self.key_id} has the scope {', '.join(self.scopes)}, and this call "
                f"needs {' or '.join(any_of)}; send a key that has it"
            )

    def require_own(self, key_id: str | None) -> None:
        """Raises `Forbidden` where another key made it, or any of all, unless it has `admin`."""
        if key_id != self.key_id and not self.may():
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
        found = self._reader.every(below(API_KEYS))
        keys = [API_KEY.validate_json(body) for _, body in found]
        return sorted(keys, key=lambda one: (one.created_at, one.key_id))

    @property
    def asked_for(self) -> bool:
        """True once there was a key, until a command removes the last one."""
        return self._reader.json(CHANGES) is not None

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
            if transaction.json(API_KEYS + key(key_id)) is not None:
                transaction.put_json(USED + key(key_id), as_text(at))

    @transactional
    def add(
        self, transaction: Transaction, api_key: ApiKey, beside: Sequence[ApiKey] | None = None
    ) -> None:
        """Keeps a key, in the place of one of the same id.

        Args:
            beside: keys outside the record, with which one has to administer every gallery; None
                where none has to.

        Raises:
            KeyConflict: none would administer every gallery.
        """
        kept = _read_keys(transaction)
        if beside is not None and not any_administers([*kept, *beside, api_key]):
            raise KeyConflict("scopes")
        transaction.put_json(API_KEYS + key(api_key.key_id), api_key)
        _note_change(transaction)

    @transactional
    def revoke(
        self, transaction: Transaction, key_id: str, beside: Sequence[ApiKey] | None = None
    ) -> bool:
        """Removes a key; False where there is no such one.

        Args:
            beside: as in `add`; with None the last key may go, and then none is asked for.

        Raises:
            KeyConflict: none would be left that administers every gallery.
        """
        kept = _read_keys(transaction)
        left = [other for other in kept if other.key_id != key_id]
        if len(left) == len(kept):
            return False
        if beside is not None and not any_administers([*left, *beside]):
            raise KeyConflict("key_id")
        _remove_key(transaction, key_id)
        if not left and beside is None:
            transaction.delete(CHANGES)
        return True


def revoke_keys_of(transaction: Transaction, gallery: str) -> None:
    """Removes the keys for a gallery that is deleted: they open no later one of its name."""
    for api_key in _read_keys(transaction):
        if api_key.gallery == gallery:
            _remove_key(transaction, api_key.key_id)


def any_administers(keys: Iterable[ApiKey]) -> bool:
    """Whether one of the keys is valid and may do everything."""
    now = datetime.now(UTC)
    valid = (one for one in keys if one.expires_at is None or one.expires_at > now)
    return any("admin" in one.scopes and one.gallery is None for one in valid)


def _read_keys(transaction: Transaction) -> list[ApiKey]:
    # Every change of the keys changes this, which guards what is read.
    transaction.json(CHANGES)
    return [API_KEY.validate_json(body) for _, body in transaction.below(API_KEYS)]


def _remove_key(transaction: Transaction, key_id: str) -> None:
    own = key(key_id)
    transaction.delete(API_KEYS + own, USED + own)
    transaction.removes = True
    _note_change(transaction)


def _note_change(transaction: Transaction) -> None:
    transaction.put_json(CHANGES, (transaction.json(CHANGES) or 0) + 1)
    transaction.note("keys")


API_KEY = TypeAdapter(ApiKey)
