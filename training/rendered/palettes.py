"""Colours of clothes, skin and hair, and how common they are."""

from __future__ import annotations

import numpy as np

from training.rendered.arrays import Numbers, Random


def palette(hexadecimal: str) -> Numbers:
    """Return colours `(n, 3)` from 0 to 1 of hexadecimal digits, six for each."""
    channels = np.frombuffer(bytes.fromhex(hexadecimal), np.uint8)
    return channels.reshape(-1, 3).astype(np.float32) / 255


DARK = palette("121216 1a1b22 23252d 2e3036 1b2238 22304f 2b2420 3a2d25 24352b 3b1d24")
GREY = palette("4a4b50 6a6c70 8d8f93 b1b2b4 cfcfce 5b5750")
LIGHT = palette("e8e8e6 f2f1ec dcd6c8 d9dfe6 efe3d4 f7f7f7")
DENIM = palette("1e2a44 2b3d63 3f5785 6a83ab 8ea4c2 30343c 15181f")
EARTH = palette("6b5138 8d6f4c b59a6e c9b48c 5b6040 7a7a52 4f3f33 a8876a 96806b")
VIVID = palette(
    "b3202a d23a2f e2702d e9b93a f0d85a 3f8f4a 1f6b45 2b8f8a 2f7fc1 1f4fa3 "
    "5a3f96 8a3f8f c94f86 e08fb0 7fbfe0 a5d0a0 f0a090 d0206a 00a0a8 88b030"
)
SKIN = {
    "caucasian": palette("f0cdb4 e3b797 d5a27d e8c0a0"),
    "asian": palette("e3b797 d5a27d c08a63 dcab88"),
    "african": palette("a06f4c 7d5238 5c3b29 442b20"),
}
HAIR = palette("0f0d0d 1d1613 2e2019 47301f 6b4527 96693a c09a5f d8c08a 5a2418")
GREY_HAIR = palette("8f8f8f c8c8c8 6f6f70")
HAIR_SHARES = (0.22, 0.22, 0.18, 0.13, 0.1, 0.06, 0.04, 0.02, 0.03)

CLOTHES = {
    "upper": ((DARK, 0.3), (GREY, 0.15), (LIGHT, 0.18), (VIVID, 0.27), (EARTH, 0.1)),
    "outer": ((DARK, 0.45), (GREY, 0.15), (LIGHT, 0.06), (VIVID, 0.2), (EARTH, 0.14)),
    "lower": (
        *((DARK, 0.38), (GREY, 0.12), (LIGHT, 0.06), (VIVID, 0.08), (EARTH, 0.12)),
        (DENIM, 0.24),
    ),
    "shoes": ((DARK, 0.45), (GREY, 0.1), (LIGHT, 0.2), (VIVID, 0.13), (EARTH, 0.12)),
    "bag": ((DARK, 0.45), (GREY, 0.1), (LIGHT, 0.05), (VIVID, 0.25), (EARTH, 0.15)),
}
"""The palettes of each use, with their shares."""

QUIET = ((DARK, 0.7), (GREY, 0.3))
"""The palettes of clothes that do not stand out."""

THINGS = ((DARK, 0.25), (GREY, 0.25), (LIGHT, 0.2), (VIVID, 0.15), (EARTH, 0.15))
"""The palettes of what stands behind or before people."""


def clothes_colour(random: Random, use: str) -> Numbers:
    """Draw a colour of clothes, `(3)` from 0 to 1; `use` is a key of `CLOTHES`."""
    colour = _colour(random, CLOTHES[use]) * random.uniform(0.82, 1.18)
    return np.clip(colour + random.normal(0, 0.025, 3), 0.01, 0.98)


def quiet_colour(random: Random) -> Numbers:
    """Draw a dark or grey colour of clothes, `(3)` from 0 to 1."""
    return np.clip(_colour(random, QUIET) * random.uniform(0.9, 1.1), 0.01, 0.98)


def thing_colour(random: Random) -> Numbers:
    """Draw a colour of walls, cars and the like, `(3)` from 0 to 1."""
    return _colour(random, THINGS) * random.uniform(0.7, 1.1)


def hair_colour(random: Random, is_grey: bool) -> Numbers:
    """Draw a colour of hair, `(3)` from 0 to 1."""
    shares = None if is_grey else HAIR_SHARES
    colour: Numbers = random.choice(GREY_HAIR if is_grey else HAIR, p=shares)
    return colour * random.uniform(0.8, 1.2)


def _colour(random: Random, palettes: tuple[tuple[Numbers, float], ...]) -> Numbers:
    chosen = random.choice(len(palettes), p=[share for _, share in palettes])
    colour: Numbers = random.choice(palettes[chosen][0])
    return colour
