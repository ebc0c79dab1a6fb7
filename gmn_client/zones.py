"""Zones of a camera: polygons as text, in the settings of cameras and in the service."""

from __future__ import annotations

from typing import TypeAlias

MOST_ZONES = 16
MOST_CORNERS = 64
# Limit in characters of the text of a zone.
MAX_ZONE = 2048

Zone: TypeAlias = tuple[tuple[float, float], ...]
"""The corners of a polygon, in shares of the frame's width and height."""

ZONE_FORM = (
    f"write 3 to {MOST_CORNERS} corners X,Y in shares of the frame with spaces between them, "
    "such as '0,0.5 1,0.5 1,1 0,1' for the lower half"
)


def read_zone(text: str) -> Zone:
    """Parse the corners of a zone.

    Raises:
        ValueError: it is no polygon within the frame.
    """
    try:
        corners = [tuple(float(number) for number in corner.split(",")) for corner in text.split()]
    except ValueError as error:
        raise ValueError(f"{text!r:.80} is no zone; {ZONE_FORM}") from error
    has_shares = all(
        len(corner) == 2 and all(0.0 <= share <= 1.0 for share in corner) for corner in corners
    )
    if not has_shares or not 3 <= len(corners) <= MOST_CORNERS:
        raise ValueError(f"{text!r:.80} is no zone; {ZONE_FORM}")
    return tuple((x, y) for x, y in corners)
