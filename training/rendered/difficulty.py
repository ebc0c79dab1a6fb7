"""How hard rendered people are to tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Difficulty:
    """How much alike people dress, and how much cameras and crops hide.

    Attributes:
        cloths: the number of cloths of each use that the clothes of a site are made of.
        quiet: the share of cloths that are dark or grey, and plain.
        twins: the share of people who wear the same as one other person, but for shoes, bag and
            hair.
        cameras: how far the cameras differ in colour, light and sharpness; 0 for not at all.
        heights: the smallest heights of crops in pixels, one of which a camera has.
        occluded: the share of crops with something in front of the person.
        cut_off: the share of crops without the person's feet.
        shaded: the share of crops on which light of two strengths falls.
        accompanied: the share of crops in which somebody else is seen as well.
    """

    cloths: Mapping[str, int]
    quiet: float
    twins: float
    cameras: float
    heights: Sequence[int]
    occluded: float
    cut_off: float
    shaded: float
    accompanied: float


HARD = Difficulty(
    cloths={"upper": 8, "outer": 5, "lower": 5, "shoes": 4, "bag": 4},
    quiet=0.6,
    twins=0.5,
    cameras=1,
    heights=(48, 48, 64, 64, 80, 80, 110, 110, 150),
    occluded=0.22,
    cut_off=0.12,
    shaded=0.5,
    accompanied=0.15,
)
"""About as hard as photographed people, so that a training has something to learn."""

MODERATE = Difficulty(
    cloths={"upper": 30, "outer": 15, "lower": 12, "shoes": 10, "bag": 10},
    quiet=0.4,
    twins=0,
    cameras=0.75,
    heights=(80, 96, 110, 128),
    occluded=0.12,
    cut_off=0.06,
    shaded=0.35,
    accompanied=0.1,
)
"""People of more varied clothes in larger crops, for demonstrations."""
