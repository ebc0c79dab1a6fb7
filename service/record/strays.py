"""Pictures outside the record that belong to no crop, or to none yet; they are removed later."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic_core import from_json

from service.record.encoding import LOOKUP, key
from service.record.engine import Reader, Scan, Transaction
from service.record.records import StoredCrop, StrayPicture


def note(transaction: Transaction, gallery_id: int, crop_ids: Sequence[str], moment: str) -> None:
    """Notes pictures that can be removed from a moment on."""
    forget(transaction, crop_ids)
    for crop_id in crop_ids:
        transaction.put_json(key("stray", moment, crop_id), gallery_id)
        transaction.put_json(LOOKUP + key("stray since", crop_id), moment)


def note_elsewhere(
    transaction: Transaction, gallery_id: int, crops: Iterable[StoredCrop], moment: str
) -> None:
    """Notes those pictures of crops about to be removed that lie outside the record."""
    outside = [crop.crop_id for crop in crops if crop.content_type and not crop.inside]
    note(transaction, gallery_id, outside, moment)


def forget(transaction: Transaction, crop_ids: Sequence[str]) -> None:
    """Notes that pictures are gone, or belong to a crop now."""
    keys = [LOOKUP + key("stray since", crop_id) for crop_id in crop_ids]
    for own, crop_id, moment in zip(keys, crop_ids, transaction.get(keys), strict=True):
        if moment is not None:
            transaction.delete(own, key("stray", from_json(moment), crop_id))


def until(reader: Reader, moment: str, limit: int) -> list[StrayPicture]:
    """Up to `limit` pictures that can be removed by a moment, the first ones first."""
    ranged = Scan(key("stray"), key("stray", moment) + b"\xff", limit)
    prefix = len(key("stray"))
    return [
        StrayPicture(from_json(body), found[prefix:].split(b"\0")[1].decode())
        for found, body in reader.scan(ranged)[0]
    ]
