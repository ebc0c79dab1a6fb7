"""What is kept of a gallery: every change of its crops changes its entry too, which guards them."""

from __future__ import annotations

from pydantic import TypeAdapter

from service.errors import NeedsReindex, UnknownGallery
from service.record.encoding import key
from service.record.engine import Reader, Transaction
from service.record.records import GalleryRecord


def read_entry(reader: Reader, gallery_id: int) -> GalleryRecord | None:
    """A gallery's entry; None where it was deleted."""
    found = reader.json(key("gallery", gallery_id))
    return ENTRY.validate_python(found) if found else None


def require_entry(reader: Reader, gallery_id: int) -> GalleryRecord:
    """A gallery's entry.

    Raises:
        UnknownGallery: by its number, where it was deleted.
    """
    entry = read_entry(reader, gallery_id)
    if entry is None:
        raise UnknownGallery(str(gallery_id))
    return entry


def put_entry(transaction: Transaction, entry: GalleryRecord) -> None:
    """Puts a gallery's entry back."""
    transaction.put_json(key("gallery", entry.gallery_id), entry)


def bind(transaction: Transaction, entry: GalleryRecord, fingerprint: str) -> None:
    """Binds an empty gallery to another embedder.

    Raises:
        NeedsReindex: another embedder filled it.
    """
    if entry.crops:
        raise NeedsReindex(entry.name, entry.embedding_fingerprint, fingerprint)
    entry.embedding_fingerprint = fingerprint
    put_entry(transaction, entry)
    transaction.note("gallery_changed", entry.gallery_id, entry.version)


ENTRY = TypeAdapter(GalleryRecord)
