"""API keys stored in the record."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AwareDatetime, Field, PositiveInt, TypeAdapter
from pydantic.dataclasses import dataclass as stored_dataclass
from pydantic_core import to_json

from gmn_client.models import Scope
from service.errors import Forbidden, KeyConflict
from service.record.database import RecordPart, transactional
from service.record.transaction import Reader, Row, Transaction

# This row stays after the last key expires or is deleted with its gallery; then nobody has access.
ASKED_FOR = "keys_asked_for"
KEY_ID = r"[A-Za-z0-9]{1,32}"
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
# Hash to compare with if an id or its secret is unknown; no secret has it.
NO_HASH = "0" * 64
STORED_KEYS = "SELECT key_id, gallery, body, checksum FROM api_keys"


@stored_dataclass(frozen=True)
class ApiKey:
    """An API key with its rights.

    Attributes:
        key_id: public part, which identifies the key in logs and for revocation.
        secret_sha256: hash of the secret part, hexadecimal. The secret is 256 random bits, which no
            dictionary contains, so a fast hash suffices.
        scopes: its permissions; `admin` includes all of them.
        gallery: the only gallery it may access; None for all.
        note: the person or program that it was issued to.
        learn: its searches may contribute to the calibration of the searched galleries.
        expires_at: expiry time; None for never.
        rate: limit of requests per minute; None for no limit.
        rate_images: the limit counts images instead of requests.
        former_sha256, former_until: hash of the secret before a rotation, and its expiry time.
    """

    key_id: Annotated[str, Field(pattern=f"^{KEY_ID}$")]
    secret_sha256: Sha256
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    gallery: str | None = None
    note: str = ""
    created_at: datetime = datetime.min.replace(tzinfo=UTC)
    learn: bool = True
    expires_at: AwareDatetime | None = None
    rate: PositiveInt | None = None
    former_sha256: Sha256 | None = None
    former_until: AwareDatetime | None = None
    rate_images: bool = False

    def may(self, *any_of: Scope) -> bool:
        return bool({"admin", *any_of} & set(self.scopes))

    def require(self, *any_of: Scope) -> None:
        """Raise `Forbidden` unless the key has one of these scopes or `admin`."""
        if not self.may(*any_of):
            raise Forbidden(
                f"the key {self.key_id} has the scope {', '.join(self.scopes)}, and this call "
                f"needs {' or '.join(any_of)}; send a key that has it"
            )

    def require_own(self, key_id: str | None) -> None:
        """Raise `Forbidden` unless this key made the object (None: any key did) or has `admin`."""
        if key_id != self.key_id and not self.may():
            made = "of every key" if key_id is None else f"of the key {key_id}"
            raise Forbidden(
                f"the key {self.key_id} has the scope {', '.join(self.scopes)}, and what is {made} "
                "needs admin; send a key that has it"
            )

    def require_gallery(self, gallery: str | None) -> None:
        """Raise `Forbidden` if the key is restricted to another gallery; None means all of them."""
        if self.gallery not in (None, gallery):
            other = "all of them" if gallery is None else f"{gallery!r}"
            raise Forbidden(
                f"the key {self.key_id} is for the gallery {self.gallery!r} and this call is about "
                f"{other}; send a key for that, or for all"
            )

    def may_see(self, gallery: str | None) -> bool:
        return self.gallery in (None, gallery)


def ask_for_keys(transaction: Transaction) -> None:
    statement = "INSERT INTO record (name, value) VALUES (?, 1) ON CONFLICT DO NOTHING"
    transaction.change(statement, (ASKED_FOR,))


def delete_keys(transaction: Transaction, key_ids: Collection[str]) -> int:
    of_keys = transaction.dialect.among("key_id")
    return transaction.change(f"DELETE FROM api_keys WHERE {of_keys}", (key_ids,))


def key_crc(key_id: str, gallery: str | None, body: str) -> int:
    """Return the checksum of a key's row, so that no flipped bit grants a right."""
    # The `repr` of a text depends on the version of Python, and its `ascii` does not.
    return zlib.crc32(ascii((key_id, gallery, body)).encode())


def read_bodies(reader: Reader) -> tuple[list[str], list[str]]:
    """Return the bodies of the intact keys, and a line for each damaged key."""
    bodies: list[str] = []
    problems: list[str] = []
    for key_id, gallery, body, checksum in reader.tuples(STORED_KEYS):
        if key_crc(key_id, gallery, body) == checksum:
            bodies.append(body)
        else:
            problems.append(f"API key {key_id} is not what was written")
    return bodies, problems


def any_administers(keys: Iterable[ApiKey]) -> bool:
    now = datetime.now(UTC)
    valid = (key for key in keys if key.expires_at is None or key.expires_at > now)
    return any("admin" in key.scopes and key.gallery is None for key in valid)


API_KEY = TypeAdapter(ApiKey)


class Keys(RecordPart):
    """API keys, and the time when each was last used."""

    def all(self) -> list[ApiKey]:
        """Return every key, the oldest first, but damaged ones, which open nothing."""
        bodies, problems = read_bodies(self._reader)
        for problem in problems:
            self._database.note_problem(problem)
        keys = [API_KEY.validate_json(body) for body in bodies]
        return sorted(keys, key=lambda key: (key.created_at, key.key_id))

    @property
    def asked_for(self) -> bool:
        """True from the first key until a command removes the last one."""
        return self._reader.row("record", "WHERE name = ?", (ASKED_FOR,)) is not None

    def last_used(self) -> dict[str, datetime]:
        rows = self._reader.rows("api_keys", "WHERE used_at IS NOT NULL")
        return {row["key_id"]: row["used_at"] for row in rows}

    @transactional
    def note_used(self, transaction: Transaction, used: Mapping[str, datetime]) -> None:
        transaction.change_many(
            "UPDATE api_keys SET used_at = ? WHERE key_id = ?",
            [(used_at, key_id) for key_id, used_at in used.items()],
            is_private=False,
        )

    @transactional
    def add(
        self, transaction: Transaction, api_key: ApiKey, beside: Sequence[ApiKey] | None = None
    ) -> None:
        """Store a key, replacing one with the same id.

        Args:
            beside: keys outside the record; together with them, some key must administer every
                gallery. None skips this check.

        Raises:
            KeyConflict: no key would administer every gallery.
        """
        if beside is not None:
            _require_administrator([*self.all(), *beside, api_key], "scopes")
        transaction.insert("api_keys", _as_row(api_key), instead=True)
        ask_for_keys(transaction)

    @transactional
    def change(self, transaction: Transaction, api_key: ApiKey) -> bool:
        """Replace a key; return False if it was revoked in the meantime."""
        return _change_body(transaction, api_key)

    @transactional
    def end_secrets(self, transaction: Transaction, hashes: Collection[str]) -> None:
        """Let no key accept the secrets of these hashes; a key without another needs a new one."""
        for key in self.all() if hashes else ():
            if {key.secret_sha256, key.former_sha256}.intersection(hashes):
                is_current = key.secret_sha256 in hashes
                secret = NO_HASH if is_current else key.secret_sha256
                ended = replace(key, secret_sha256=secret, former_sha256=None, former_until=None)
                _change_body(transaction, ended)

    @transactional
    def revoke(
        self, transaction: Transaction, key_id: str, beside: Sequence[ApiKey] | None = None
    ) -> bool:
        """Delete a key; return False if there is none with this id.

        Args:
            beside: as in `add`; with None the last key may be deleted, which ends authentication.

        Raises:
            KeyConflict: no remaining key would administer every gallery.
        """
        if not delete_keys(transaction, [key_id]):
            return False
        remaining = self.all()
        if beside is not None:
            _require_administrator([*remaining, *beside], "key_id")
        elif not transaction.value("SELECT count(*) FROM api_keys"):
            transaction.change("DELETE FROM record WHERE name = ?", (ASKED_FOR,))
        return True


def _as_row(api_key: ApiKey) -> Row:
    body = to_json(api_key).decode()
    return {
        "key_id": api_key.key_id,
        "gallery": api_key.gallery,
        "body": body,
        "checksum": key_crc(api_key.key_id, api_key.gallery, body),
    }


def _change_body(transaction: Transaction, api_key: ApiKey) -> bool:
    """Replace a key; return False if there is none with its id."""
    statement = "UPDATE api_keys SET body = :body, checksum = :checksum WHERE key_id = :key_id"
    return transaction.change(statement, _as_row(api_key)) > 0


def _require_administrator(keys: Sequence[ApiKey], field: str) -> None:
    if not any_administers(keys):
        raise KeyConflict(field)
