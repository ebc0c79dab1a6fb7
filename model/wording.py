"""Numbers in sentences."""

from __future__ import annotations


def counted(count: int, one: str, several: str | None = None) -> str:
    """Return a number with the counted noun, such as `1 crop` and `2,000 crops`.

    Args:
        one: words after the number 1, which may include a verb.
        several: words after any other number; `one` with an s by default.
    """
    if several is None:
        several = f"{one}s"
    return f"{count:,} {one if count == 1 else several}"
