"""What is kept of a gallery: every change of its crops changes its entry too, which guards them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from service.errors import NeedsReindex, UnknownGallery
from service.record.encoding import key
from service.record.engine import Reader, Transaction


@dataclass
class Entry:
    """A gallery as it is kept.

    Attributes:
        at: which generation of crops is searched; a restore fills another one and switches to it.
        side: which vectors are searched; a reindex fills others, `staged_side`, and switches.
        generations, sides, rows: how many numbers were given out of each.
        staged_crops: how many crops have a staged vector.
        archives: how many were begun, so that beginning one changes the entry.
    """

    gallery_id: int
    name: str
    embedding_fingerprint: str
    created_at: str
    settings: dict[str, Any]
    staged_fingerprint: str | None = None
    version: int = 0
    crops: int = 0
    identities: int = 0
    image_bytes: int = 0
    at: int = 0
    side: int = 0
    staged_side: int | None = None
    staged_crops: int = 0
    generations: int = 1
    sides: int = 1
    rows: int = 0
    archives: int = 0


def entry_key(gallery_id: int) -> bytes:
    """The key of a gallery's entry."""
    return key("gallery", gallery_id)


def read_entry(reader: Reader, gallery_id: int) -> Entry | None:
    """A gallery's entry; None where it was deleted."""
    found = reader.json(entry_key(gallery_id))
    return Entry(**found) if found else None


def require_entry(reader: Reader, gallery_id: int) -> Entry:
    """A gallery's entry.

    Raises:
        UnknownGallery: by its number, where it was deleted.
    """
    entry = read_entry(reader, gallery_id)
    if entry is None:
        raise UnknownGallery(str(gallery_id))
    return entry


def put_entry(transaction: Transaction, entry: Entry) -> None:
    """Puts a gallery's entry back."""
    transaction.put_json(entry_key(entry.gallery_id), vars(entry))


def raise_version(transaction: Transaction, entry: Entry) -> int:
    """Puts a gallery's entry back with its next version, which it answers."""
    entry.version += 1
    put_entry(transaction, entry)
    return entry.version


def bind(transaction: Transaction, entry: Entry, fingerprint: str) -> None:
    """Binds an empty gallery to an embedder.

    Raises:
        NeedsReindex: another embedder filled it.
    """
    if entry.embedding_fingerprint == fingerprint:
        return
    if entry.crops:
        raise NeedsReindex(entry.name, entry.embedding_fingerprint, fingerprint)
    entry.embedding_fingerprint = fingerprint
    put_entry(transaction, entry)
    transaction.note("gallery_changed", entry.gallery_id, entry.version)
