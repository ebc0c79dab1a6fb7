"""Finds files whose names are written in another Unicode form than the requested one.

macOS decomposes names, keyboards and spreadsheets compose them, and Linux compares their bytes.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Literal

FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")


def resolve_in_any_form(path: Path, within: Path | None = None) -> Path:
    """Return the real path of a file or folder, or a path that does not exist.

    A name that does not exist as it was written is looked for composed (NFC) and decomposed (NFD).

    Args:
        path: the path as it was written.
        within: a resolved folder; outside of it, names in other forms are not searched. None for no
            limit.

    Raises:
        OSError, RuntimeError, ValueError: as `Path.resolve`, and for a name that no file has.
    """
    resolved = path.resolve()
    if not _is_within(resolved, within):
        return resolved
    existing = resolved
    missing: list[str] = []
    while not existing.exists():
        missing.append(existing.name)
        existing = existing.parent
    for name in reversed(missing):
        forms = [existing / unicodedata.normalize(form, name) for form in FORMS]
        found = next((form for form in forms if form.exists()), None)
        if found is None:
            return resolved
        existing = found.resolve()
        if not _is_within(existing, within):
            break
    return existing


def _is_within(path: Path, folder: Path | None) -> bool:
    return folder is None or path.is_relative_to(folder)
