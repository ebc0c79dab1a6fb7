"""The conversion of pictures with an embedded colour profile to sRGB."""

from __future__ import annotations

import io
import struct
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

# Profiles of printers have up to two megabytes, those of cameras and screens a few kilobytes.
MOST_PROFILE_BYTES = 3 * 1024 * 1024
# A header of this length is followed by the number of tags, each of which has 12 bytes.
HEADER_BYTES = 128
MOST_TAGS = 100
COLOUR_SPACE = slice(16, 20)
CLASS = slice(12, 16)
SIGNATURE = slice(36, 40)
TAG = struct.Struct(">4sII")
# Profiles that describe colours: of inputs, screens, outputs, and colour spaces.
CLASSES = frozenset({b"scnr", b"mntr", b"prtr", b"spac"})
# These hold any number of steps for each colour. Every profile that has them has others as well.
COSTLY_TAGS = frozenset({b"D2B0", b"D2B1", b"D2B2", b"D2B3"})
GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L"})
# A profile is that of sRGB itself if it changes no colour by more levels than rounding does.
LEVELS_OF_SRGB = 3
# Colours are compared at the corners of a grid with this many steps along each colour.
STEPS = 9
PROFILES_KEPT = 8


def convert_to_srgb(image: Image.Image, rgb: Image.Image, profile: bytes) -> Image.Image:
    """Return a picture with the colours that its profile describes, in sRGB.

    A picture with the profile of sRGB keeps its bits. So does one whose profile is damaged, too
    large, or for another kind of pictures: wrong colours are no reason to refuse it.

    Args:
        image: the picture as it was decoded.
        rgb: the same picture in RGB; it may be changed.
        profile: its profile, not empty.
    """
    space = _colour_space(profile)
    if space == b"CMYK" and image.mode == "CMYK":
        return _apply(profile, image, "CMYK") or rgb
    if space == b"GRAY" and image.mode in GREY_MODES:
        return _apply(profile, rgb.getchannel(0), "L") or rgb
    if space == b"RGB " and image.mode not in GREY_MODES and image.mode != "CMYK":
        return _apply(profile, rgb, "RGB") or rgb
    return rgb


def _colour_space(profile: bytes) -> bytes | None:
    """Return the colour space of a profile; None for one that is not to be read."""
    if not HEADER_BYTES + 4 <= len(profile) <= MOST_PROFILE_BYTES:
        return None
    if profile[SIGNATURE] != b"acsp" or profile[CLASS] not in CLASSES:
        return None
    count = int.from_bytes(profile[HEADER_BYTES : HEADER_BYTES + 4], "big")
    tags_end = HEADER_BYTES + 4 + count * TAG.size
    if count > MOST_TAGS or tags_end > len(profile):
        return None
    tags = {name for name, _, _ in TAG.iter_unpack(profile[HEADER_BYTES + 4 : tags_end])}
    return None if tags & COSTLY_TAGS else profile[COLOUR_SPACE]


def _apply(profile: bytes, source: Image.Image, mode: str) -> Image.Image | None:
    """Return a picture in sRGB; None if it is already, or if the profile cannot be used."""
    try:
        transform = _transform(profile, mode)
        if transform is None:
            return None
        if mode == "RGB":
            ImageCms.applyTransform(source, transform, inPlace=True)
            return source
        return ImageCms.applyTransform(source, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


@lru_cache(maxsize=PROFILES_KEPT)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform of pictures in a mode to sRGB; None if it changes nothing.

    Raises:
        PyCMSError, OSError, ValueError, TypeError: the profile is damaged.
    """
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    return None if mode != "CMYK" and _is_of_srgb(transform, mode) else transform


def _is_of_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    levels = np.linspace(0, 255, STEPS).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    if mode == "L":
        colours = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, -1, 3)
    before = Image.fromarray(colours)
    after = ImageCms.applyTransform(before.getchannel(0) if mode == "L" else before, transform)
    change = np.abs(np.asarray(after, dtype=np.int16) - colours)
    return bool(change.max() <= LEVELS_OF_SRGB)
