"""Spellings: the Unicode forms in which a gallery has stored a text.

Labels are stored in NFC, so one form is looked up. Version 0.5.0 and earlier stored labels as they
were sent, and an external id still is. The other forms that a gallery has are remembered, so that a
look-up reads an index for each of them instead of normalizing every stored text.
"""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from model.crops.texts import nfc

TextKind = Literal["identity", "camera", "track", "external_id"]
ReadRows = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]
SINCE = "WHERE crops.gallery_id = ?1 AND changed > ?2"
STORED: dict[TextKind, str] = {
    "identity": "SELECT name AS text FROM people WHERE gallery_id = ?1",
    "camera": "SELECT DISTINCT camera AS text FROM crops WHERE gallery_id = ?1",
    "track": "SELECT DISTINCT track AS text FROM tracks WHERE gallery_id = ?1",
    "external_id": (
        "SELECT external_id AS text FROM crops WHERE gallery_id = ?1 AND external_id IS NOT NULL"
    ),
}
# The texts of crops that changed after a version of their gallery.
CHANGED: dict[TextKind, str] = {
    "identity": f"SELECT name AS text FROM crops JOIN people USING (person_id) {SINCE}",
    "camera": f"SELECT camera AS text FROM crops {SINCE}",
    "track": f"SELECT track AS text FROM crops JOIN tracks USING (gallery_id, slot) {SINCE}",
    "external_id": f"SELECT external_id AS text FROM crops {SINCE}",
}
# ASCII characters have one byte each, and a text of them is in NFC.
NOT_ASCII = "length(text) < length(CAST(text AS BLOB))"
# A rule also sees its own crops, and may be rolled back.
STATE = """
SELECT version, changed <= (SELECT value FROM record WHERE name = 'commit') AS is_committed
FROM galleries WHERE gallery_id = ?1
"""


@dataclass
class _Forms:
    """Forms of a gallery's texts of one kind.

    Attributes:
        version: committed version of the gallery up to which the texts were read; None before.
        others: stored forms that are not NFC, by their NFC.
    """

    version: int | None = None
    others: dict[str, set[str]] = field(default_factory=dict)


class Spellings:
    """The forms that were read. Forms of texts that were removed since may be among them."""

    def __init__(self) -> None:
        self._forms: dict[tuple[int, TextKind], _Forms] = {}
        self._lock = threading.Lock()

    def of(
        self, read: ReadRows, gallery_id: int, kind: TextKind, texts: Iterable[str]
    ) -> list[str]:
        """Return the forms in which a gallery may have stored texts, their NFC first.

        Args:
            read: runs a statement on the record, in the caller's transaction if there is one.
        """
        normal = list(dict.fromkeys(nfc(text) for text in texts))
        if not normal:
            return []
        with self._lock:
            stored = self._update(read, gallery_id, kind)
            others = {form for text in normal for form in stored.get(text, ())}
        if kind == "external_id":
            others.update(_nfd(text) for text in normal)
        return [*normal, *sorted(others.difference(normal))]

    def _update(self, read: ReadRows, gallery_id: int, kind: TextKind) -> dict[str, set[str]]:
        rows = read(STATE, (gallery_id,))
        if not rows:
            # The gallery was deleted.
            return {}
        ((version, is_committed),) = rows
        forms = self._forms.setdefault((gallery_id, kind), _Forms())
        if forms.version is None:
            _add_forms(forms, kind, read(_not_ascii(STORED[kind]), (gallery_id,)))
        elif version > forms.version:
            values = (gallery_id, forms.version)
            _add_forms(forms, kind, read(_not_ascii(CHANGED[kind]), values))
        if is_committed:
            forms.version = version
        return forms.others


def _not_ascii(statement: str) -> str:
    return f"SELECT text FROM ({statement}) WHERE {NOT_ASCII}"


def _add_forms(forms: _Forms, kind: TextKind, rows: Iterable[tuple[str]]) -> None:
    for (text,) in rows:
        normal = nfc(text)
        # The decomposed form of an external id is always looked up: a gallery may have many.
        if text != normal and not (kind == "external_id" and text == _nfd(text)):
            forms.others.setdefault(normal, set()).add(text)


def _nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)
