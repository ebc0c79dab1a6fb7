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
STORED: dict[TextKind, str] = {
    "identity": "SELECT name AS text FROM people WHERE gallery_id = ?1",
    "camera": "SELECT DISTINCT camera AS text FROM crops WHERE gallery_id = ?1",
    "track": "SELECT DISTINCT track AS text FROM tracks WHERE gallery_id = ?1",
    "external_id": (
        "SELECT external_id AS text FROM crops WHERE gallery_id = ?1 AND external_id IS NOT NULL"
    ),
}
# The column of each kind, and the table in which crops have it by slot.
OF_CROPS: dict[TextKind, tuple[str, str]] = {
    "identity": ("people.name", "crops"),
    "camera": ("camera", "crops"),
    "track": ("track", "tracks"),
    "external_id": ("external_id", "crops"),
}
# Ranges of the slots that changed after a change of their gallery.
CHANGED = """
SELECT runs.value ->> '$[0]' AS first_slot, runs.value ->> '$[1]' AS last_slot
FROM changes CROSS JOIN json_each(changes.slots) AS runs
WHERE changes.gallery_id = ?1 AND seq > ?2 AND kind IN ('added', 'relabelled')
"""
# After more changes, reading every text again takes less time.
MOST_CHANGES = 1000
# ASCII characters have one byte each, and a text of them is in NFC.
NOT_ASCII = "length(text) < length(CAST(text AS BLOB))"
STATE = """
SELECT restores, seq, token FROM galleries JOIN feeds USING (gallery_id) WHERE gallery_id = ?1
"""


@dataclass
class _Forms:
    """Forms of a gallery's texts of one kind.

    Attributes:
        restores: number of the gallery's restores when the texts were read.
        change: number and token of the gallery's newest change at that time.
        others: stored forms that are not NFC, by their NFC.
    """

    restores: int
    change: tuple[int, bytes]
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
        restores, *newest = rows[0]
        change = (newest[0], newest[1])
        forms = self._forms.get((gallery_id, kind))
        # A restore brings back texts as they were stored.
        if (
            forms is None
            or forms.restores != restores
            or change[0] > forms.change[0] + MOST_CHANGES
            or not _is_past(read, gallery_id, forms)
        ):
            forms = self._forms[gallery_id, kind] = _Forms(restores, change)
            _add_forms(forms, kind, read(_not_ascii(STORED[kind]), (gallery_id,)))
        elif change != forms.change:
            values = (gallery_id, forms.change[0])
            _add_forms(forms, kind, read(_not_ascii(_texts_of_changed(kind)), values))
        forms.change = change
        return forms.others


def _is_past(read: ReadRows, gallery_id: int, forms: _Forms) -> bool:
    """Return whether the record still has the change up to which the texts were read.

    It does not if that change was rolled back.
    """
    seq, token = forms.change
    statement = "SELECT token FROM changes WHERE gallery_id = ?1 AND seq = ?2"
    return read(statement, (gallery_id, seq)) == [(token,)]


def _texts_of_changed(kind: TextKind) -> str:
    column, table = OF_CROPS[kind]
    people = "JOIN people USING (person_id)" if kind == "identity" else ""
    return (
        f"SELECT {column} AS text FROM ({CHANGED}) CROSS JOIN {table} AS crops "
        f"ON crops.gallery_id = ?1 AND crops.slot BETWEEN first_slot AND last_slot {people}"
    )


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
