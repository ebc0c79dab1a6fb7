"""Numbers in sentences."""

from __future__ import annotations


def counted(count: int, one: str, several: str | None = None) -> str:
    """Return a number and what it counts, such as `1 crop` and `2,000 crops`.

    Args:
        one: what follows a single one; a verb may be a part of it.
        several: what follows any other number; `one` with an s unless given.
    """
    if several is None:
        several = f"{one}s"
    return f"{count:,} {one if count == 1 else several}"
