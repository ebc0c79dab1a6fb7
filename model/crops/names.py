"""Which files are taken for images by their names; what they are is told by their bytes."""

from __future__ import annotations

from pathlib import PurePosixPath

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


def is_image_name(name: str) -> bool:
    """Whether a path names an image that is neither hidden nor a by-product of packing."""
    path = PurePosixPath(name)
    names = [part for part in path.parts if part not in (".", "..")]
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in names)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden


def shown(name: str, length: int = 200) -> str:
    """A name that a stranger chose, as a log or a report can hold it."""
    printable = "".join(letter if letter.isprintable() else "�" for letter in name[: length + 1])
    return printable if len(printable) <= length else f"{printable[:length]}…"
