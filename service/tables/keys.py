"""API keys in the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from pydantic_core import to_json

from service.errors import KeyConflict
from service.record.api_keys import API_KEY, ApiKey, any_administers
from service.tables.schema import API_KEYS, RECORD
from service.tables.transaction import Reader, RecordPart, Transaction, transactional
from service.tables.values import as_micros, as_moment

# This row stays where every key has expired or went with its gallery: then nobody may do anything.
ASKED_FOR = "keys_asked_for"


class Keys(RecordPart):
    """API keys, and when each was last used."""

    def all(self) -> list[ApiKey]:
        """Return every key that was not revoked, oldest first."""
        return _read_keys(self._reader)

    @property
    def asked_for(self) -> bool:
        """True from the first key on, until a command removes the last one."""
        return self._reader.row(RECORD, "WHERE name = ?", (ASKED_FOR,)) is not None

    def last_used(self) -> dict[str, datetime]:
        """Return the last use of each key that was ever used."""
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
