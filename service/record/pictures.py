"""What is kept of an enrolled image, so that another model can embed it later."""

from __future__ import annotations

import io

from PIL import Image

from model.crops.decode import decode_crop
from service.record.records import Picture
from service.settings import KeepImages

# decode_crop has read the whole file by then: the first bytes only have to tell formats apart.
SIGNATURES = ((b"\x89PNG", "image/png"), (b"\xff\xd8", "image/jpeg"), (b"RIFF", "image/webp"))
THUMBNAIL_HEIGHT = 256
THUMBNAIL_QUALITY = 90


def kept_picture(image: bytes, keep: KeepImages) -> Picture | None:
    """The original, a smaller copy of it, or nothing.

    Args:
        image: a file that can be decoded.
        keep: `original` keeps the bytes as they came; `thumbnail` a JPEG of at most 256 pixels'
            height, without metadata, and the original where that is smaller; `none` nothing.
    """
    if keep == "none":
        return None
    original = Picture(image, _content_type(image))
    if keep == "original":
        return original
    picture = Image.fromarray(decode_crop(image))
    if picture.height > THUMBNAIL_HEIGHT:
        width = max(1, round(picture.width * THUMBNAIL_HEIGHT / picture.height))
        picture = picture.resize((width, THUMBNAIL_HEIGHT), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=THUMBNAIL_QUALITY, subsampling=0)
    smaller = Picture(file.getvalue(), "image/jpeg")
    return smaller if len(smaller.content) < len(image) else original


def _content_type(image: bytes) -> str:
    for signature, content_type in SIGNATURES:
        if image.startswith(signature):
            return content_type
    return "image/bmp"
