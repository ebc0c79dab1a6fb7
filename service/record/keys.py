"""API keys in the record."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as stored_dataclass
from pydantic_core import to_json

from gmn_client.models import Scope
from service.errors import Forbidden, KeyConflict
from service.record.database import RecordPart, transactional
from service.record.schema import API_KEYS, RECORD, as_micros, as_moment
from service.record.transaction import Reader, Transaction

# This row stays where every key has expired or went with its gallery: then nobody may do anything.
ASKED_FOR = "keys_asked_for"


SCOPES: tuple[Scope, ...] = ("query", "enroll", "sight", "delete", "metrics", "admin")


@stored_dataclass(frozen=True)
class ApiKey:
    """An API key with its rights.

    Attributes:
        key_id: the public part, by which a key is named in logs and revoked.
        secret_sha256: of the secret part, hexadecimal. The secret is 256 random bits, so that a
            fast hash does: there is no dictionary of them.
        scopes: its rights; `admin` is every right.
        gallery: the only gallery it may touch; None for all.
        note: whom it was made for.
        learn: whether its searches count for the calibration of the galleries they search.
        expires_at: from then on it is refused; None for never.
        rate: requests a minute; None for any number.
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
        return bool({"admin", *any_of} & set(self.scopes))

    def require(self, any_of: Collection[Scope]) -> None:
        """Raise `Forbidden` unless it has one of these scopes, or `admin`."""
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
        return self.gallery in (None, gallery)


def any_administers(keys: Iterable[ApiKey]) -> bool:
    now = datetime.now(UTC)
    valid = (key for key in keys if key.expires_at is None or key.expires_at > now)
    return any("admin" in key.scopes and key.gallery is None for key in valid)


API_KEY = TypeAdapter(ApiKey)


class Keys(RecordPart):
    """API keys, and when each was last used."""

    def all(self) -> list[ApiKey]:
        return _read_keys(self._reader)

    @property
    def asked_for(self) -> bool:
        """True from the first key on, until a command removes the last one."""
        return self._reader.row(RECORD, "WHERE name = ?", (ASKED_FOR,)) is not None

    def last_used(self) -> dict[str, datetime]:
        rows = self._reader.rows(API_KEYS, "WHERE used_at IS NOT NULL")
        return {row["key_id"]: as_moment(row["used_at"]) for row in rows}

    @transactional
    def note_used(self, transaction: Transaction, used: Mapping[str, datetime]) -> None:
        """Note when keys were used; a key that was revoked since is passed over."""
        transaction.change_many(
            "UPDATE api_keys SET used_at = ? WHERE key_id = ?",
            [(as_micros(moment), key_id) for key_id, moment in used.items()],
        )

    @transactional
    def add(
        self, transaction: Transaction, api_key: ApiKey, beside: Sequence[ApiKey] | None = None
    ) -> None:
        """Keep a key, in the place of one of the same id.

        Args:
            beside: keys outside the record, with which one has to administer every gallery; None
                where none has to.

        Raises:
            KeyConflict: none would administer every gallery.
        """
        if beside is not None:
            _require_administrator([*_read_keys(transaction), *beside, api_key], "scopes")
        transaction.change(
            "INSERT INTO api_keys (key_id, gallery, body) VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET gallery = excluded.gallery, body = excluded.body",
            (api_key.key_id, api_key.gallery, to_json(api_key).decode()),
        )
        transaction.insert(RECORD, {"name": ASKED_FOR, "value": 1}, instead=True)
        transaction.note("keys")

    @transactional
    def revoke(
        self, transaction: Transaction, key_id: str, beside: Sequence[ApiKey] | None = None
    ) -> bool:
        """Remove a key; return False where there is none of this id.

        Args:
            beside: as in `add`; with None the last key may go, and then none is asked for.

        Raises:
            KeyConflict: none would be left that administers every gallery.
        """
        if not transaction.change("DELETE FROM api_keys WHERE key_id = ?", (key_id,)):
            return False
        left = _read_keys(transaction)
        if beside is not None:
            _require_administrator([*left, *beside], "key_id")
        elif not left:
            transaction.change("DELETE FROM record WHERE name = ?", (ASKED_FOR,))
        transaction.removes = True
        transaction.note("keys")
        return True


def revoke_keys_of(transaction: Transaction, gallery: str) -> None:
    """Remove the keys for a gallery that is deleted: they open no later one of its name."""
    if transaction.change("DELETE FROM api_keys WHERE gallery = ?", (gallery,)):
        transaction.removes = True
        transaction.note("keys")


def _read_keys(reader: Reader) -> list[ApiKey]:
    keys = [API_KEY.validate_json(row["body"]) for row in reader.rows(API_KEYS)]
    return sorted(keys, key=lambda key: (key.created_at, key.key_id))


def _require_administrator(keys: Sequence[ApiKey], field: str) -> None:
    if not any_administers(keys):
        raise KeyConflict(field)
