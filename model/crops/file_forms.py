"""Finds files whose names are written in another Unicode form than the requested one.

macOS decomposes names, keyboards and spreadsheets compose them, and Linux compares their bytes.
"""

from __future__ import annotations

from pathlib import Path

from model.crops.texts import nfc


class FileForms:
    """Finds files by names in any Unicode form; each searched folder is listed once."""

    def __init__(self) -> None:
        self._names: dict[Path, dict[str, str]] = {}

    def resolve(self, path: Path, within: Path | None = None) -> Path:
        """Return the real path of a file or folder, or a path that does not exist.

        A name in the given form comes before one in another form.

        Args:
            path: the path as it was written.
            within: a resolved folder; outside of it, names in other forms are not searched. None
                for no limit.

        Raises:
            OSError, RuntimeError, ValueError: as `Path.resolve`, and for a name that no file has.
        """
        resolved = path.resolve()
        if within is not None and not resolved.is_relative_to(within):
            return resolved
        existing = resolved
        missing: list[str] = []
        while not existing.exists():
            missing.append(existing.name)
            existing = existing.parent
        for name in reversed(missing):
            found = self._list(existing).get(nfc(name))
            if found is None:
                return resolved
            existing = existing / found
        return existing.resolve()

    def _list(self, folder: Path) -> dict[str, str]:
        if folder not in self._names:
            try:
                names = sorted(path.name for path in folder.iterdir())
            except OSError:
                # It is a file, or may not be read.
                names = []
            self._names[folder] = {nfc(name): name for name in names}
        return self._names[folder]
