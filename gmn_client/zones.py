"""Zones of a camera: polygons as text, in the settings of cameras and in the service."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

MOST_ZONES = 16
MOST_CORNERS = 64
# Limits in characters of the text of a zone, and of its name.
MAX_ZONE = 2048
MAX_ZONE_NAME = 64
# Share of the frame that a zone encloses at least: about a pixel.
LEAST_AREA = 1e-6
# Takes the place of bytes that are not UTF-8.
REPLACEMENT = "\ufffd"

Corner = tuple[float, float]

ZONE_FORM = (
    f"write 3 to {MOST_CORNERS} corners X,Y in shares of the frame with spaces between them, "
    "such as '0,0.5 1,0.5 1,1 0,1' for the lower half, or with a name 'door: 0,0.5 1,0.5 1,1 0,1'"
)


class Zone(NamedTuple):
    """A polygon in the picture of a camera.

    Attributes:
        name: None for a zone without a name; several zones may have the same.
        corners: X and Y in shares of the frame's width and height.
    """

    name: str | None
    corners: tuple[Corner, ...]


def read_zone(text: str) -> Zone:
    """Parse a zone: its corners, perhaps with a name and a colon before them.

    Raises:
        ValueError: it is no polygon with an area within the frame, or cannot have that name.
    """
    name, colon, corners = text.rpartition(":")
    return Zone(_read_name(name) if colon else None, _read_corners(text, corners))


def _read_name(text: str) -> str:
    name = unicodedata.normalize("NFC", text[:MAX_ZONE]).strip()
    is_readable = name.isprintable() and REPLACEMENT not in name
    is_readable &= any(character.isalnum() for character in name)
    if not is_readable or len(name) > MAX_ZONE_NAME:
        raise ValueError(
            f"{name!r:.80} is no name of a zone; write 1 to {MAX_ZONE_NAME} printable characters "
            "with a letter or digit before the colon, or leave out both"
        )
    return name


def _read_corners(text: str, written: str) -> tuple[Corner, ...]:
    try:
        corners = [
            tuple(float(number) for number in corner.split(",")) for corner in written.split()
        ]
    except ValueError as error:
        raise ValueError(f"{text!r:.80} is no zone; {ZONE_FORM}") from error
    has_shares = all(
        len(corner) == 2 and all(0.0 <= share <= 1.0 for share in corner) for corner in corners
    )
    if not has_shares or not 3 <= len(corners) <= MOST_CORNERS:
        raise ValueError(f"{text!r:.80} is no zone; {ZONE_FORM}")
    polygon = tuple((x, y) for x, y in corners)
    if _measure_area(polygon) < LEAST_AREA:
        raise ValueError(
            f"{text!r:.80} is no zone, as its corners enclose no area and nobody can stand in it; "
            f"{ZONE_FORM}"
        )
    return polygon


def _measure_area(polygon: Sequence[Corner]) -> float:
    """Return about the area in which a person counts; it is 0 only for a zone without any.

    Between the heights of two corners, edges are straight. Two lines at each of these parts show
    how wide it is, also if edges cross each other on one of the lines.
    """
    edges = list(zip(polygon, [*polygon[1:], polygon[0]], strict=True))
    area = 0.0
    for low, high in pairwise(sorted({y for _, y in polygon})):
        widths = []
        for share in (0.3, 0.6):
            y = low + share * (high - low)
            crossings = sorted(
                x0 + (y - y0) / (y1 - y0) * (x1 - x0)
                for (x0, y0), (x1, y1) in edges
                if (y0 > y) != (y1 > y)
            )
            widths.append(sum(crossings[1::2]) - sum(crossings[::2]))
        area += (high - low) * max(widths)
    return area
