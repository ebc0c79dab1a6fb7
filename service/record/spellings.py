"""Spellings: the Unicode forms in which a gallery has stored an external id.

An external id is stored as it was sent, and found in any form; all other labels are stored in NFC.
The forms that a gallery has are remembered, so that a look-up reads an index for each of them
instead of normalizing every stored id.
"""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from model.crops.texts import nfc
from service.record.schema import as_bytes

ReadRows = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]
# ASCII characters have one byte each, and a text of them is in NFC.
NOT_ASCII = f"length(text) < length({as_bytes('text')})"
# The ids of crops that changed after a version of their gallery.
CHANGED_IDS = f"""
SELECT text FROM (
    SELECT external_id AS text FROM crops
    WHERE gallery_id = ? AND changed > ? AND external_id IS NOT NULL
) AS texts WHERE {NOT_ASCII}
"""
ALL_IDS = f"""
SELECT text FROM (
    SELECT external_id AS text FROM crops WHERE gallery_id = ? AND external_id IS NOT NULL
) AS texts WHERE {NOT_ASCII}
"""
# A rule also sees its own crops, and may be rolled back.
STATE = """
SELECT version, changed <= (
    SELECT CAST(value AS INTEGER) FROM record WHERE name = 'commit'
) AS is_committed
FROM galleries WHERE gallery_id = ?
"""


@dataclass
class _Forms:
    """Forms of a gallery's external ids.

    Attributes:
        version: committed version of the gallery up to which the ids were read; None before.
        others: stored forms that are neither NFC nor NFD, by their NFC.
    """

    version: int | None = None
    others: dict[str, set[str]] = field(default_factory=dict)


class Spellings:
    """The forms that were read. Forms of ids that were removed since may be among them."""

    def __init__(self) -> None:
        self._forms: dict[int, _Forms] = {}
        self._lock = threading.Lock()

    def of(self, read: ReadRows, gallery_id: int, external_id: str) -> list[str]:
        """Return the forms in which a gallery may have stored an external id, its NFC first.

        Args:
            read: runs a statement on the record, in the caller's transaction if there is one.
        """
        normal = nfc(external_id)
        with self._lock:
            others = set(self._update(read, gallery_id).get(normal, ()))
        # A gallery may have many decomposed ids, so this form is always looked up.
        others.add(_nfd(normal))
        return [normal, *sorted(others - {normal})]

    def _update(self, read: ReadRows, gallery_id: int) -> dict[str, set[str]]:
        rows = read(STATE, (gallery_id,))
        if not rows:
            # The gallery was deleted.
            return {}
        ((version, is_committed),) = rows
        forms = self._forms.setdefault(gallery_id, _Forms())
        if forms.version is None:
            _add_forms(forms, read(ALL_IDS, (gallery_id,)))
        elif version > forms.version:
            _add_forms(forms, read(CHANGED_IDS, (gallery_id, forms.version)))
        if is_committed:
            forms.version = version
        return forms.others


def _add_forms(forms: _Forms, rows: Iterable[tuple[str]]) -> None:
    for (text,) in rows:
        normal = nfc(text)
        if text not in (normal, _nfd(text)):
            forms.others.setdefault(normal, set()).add(text)


def _nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)
