"""Bytes of an image file to one upright RGB array; every way it can fail is a `CropProblem`."""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from model.crops.structure import check_whole, has_known_signature, too_many_parts
from model.problems import InputProblem

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")

# What Pillow raises on damaged bytes, found by fuzzing it; UnidentifiedImageError is an OSError.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    struct.error,
)

UPRIGHT_BY = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that turns an image of each EXIF orientation upright; 1 is upright already."""
REMEDY = "send the person's crop, not the whole frame"

# Large headers and odd metadata raise a CropProblem or are ignored, without a warning. Set once:
# `warnings.catch_warnings` is not safe in the threads that decode.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class CropLimits:
    """Limits of one image file.

    Attributes:
        max_bytes: largest file, bytes.
        max_pixels: largest width × height, checked from the header before any pixel is decoded.
        min_side: smallest width or height, pixels.
    """

    max_bytes: int = 10 * 1024 * 1024
    max_pixels: int = 16_000_000
    min_side: int = 8


class CropProblem(InputProblem):
    """One image that cannot be used: a `code` that stays the same, and a `detail` for people."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def decode_crop(data: bytes, limits: CropLimits | None = None) -> NDArray[np.uint8]:
    """Decodes one image file to pixels `(height, width, 3)` uint8 RGB.

    The type is read from the bytes. EXIF orientation is applied, transparency is laid over white,
    CMYK and palette images become RGB, 16-bit grey is scaled to 8 bits, and of an animated image
    the first frame counts. The limits are `CropLimits()` by default.

    Raises:
        CropProblem: with code `empty`, `file_too_large`, `not_an_image`, `too_many_parts`,
            `too_many_pixels`, `too_small` or `truncated`.
    """
    limits = limits or CropLimits()
    if not data:
        raise CropProblem("empty", "the file has 0 bytes; send the image itself")
    if len(data) > limits.max_bytes:
        raise CropProblem(
            "file_too_large",
            f"the file has {len(data):,} bytes, over the limit of {limits.max_bytes:,}; {REMEDY}",
        )
    if (many := too_many_parts(data)) is not None:
        raise CropProblem("too_many_parts", f"{many}; save the picture anew and send that")
    image = _open(data, limits)
    try:
        check_whole(data, image.format)
        image.seek(0)
        image.load()
        return np.asarray(_to_rgb(_upright(image)), dtype=np.uint8)
    except DAMAGE as error:
        raise CropProblem(
            "truncated", f"the image data is cut off or damaged ({error}); send the whole file"
        ) from error


def _open(data: bytes, limits: CropLimits) -> Image.Image:
    """The image, of which the header is read, of a size within the limits."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise CropProblem(
            "too_many_pixels",
            f"the header announces more pixels than the limit of {limits.max_pixels:,}; {REMEDY}",
        ) from error
    except DAMAGE as error:
        if has_known_signature(data):
            raise CropProblem(
                "truncated", "the image's header is cut off or damaged; send the whole file"
            ) from error
        raise CropProblem(
            "not_an_image",
            "the bytes are not a JPEG, PNG, WebP or BMP image; convert the file to one of these",
        ) from error
    width, height = image.size
    found = f"the image is {width}×{height} pixels"
    if width * height > limits.max_pixels:
        raise CropProblem(
            "too_many_pixels", f"{found}, over the limit of {limits.max_pixels:,}; {REMEDY}"
        )
    if min(width, height) < limits.min_side:
        raise CropProblem("too_small", f"{found}; each side needs at least {limits.min_side}")
    return image


def _upright(image: Image.Image) -> Image.Image:
    """Applies the EXIF orientation; metadata that cannot be read is ignored."""
    try:
        transpose = UPRIGHT_BY.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except DAMAGE:
        return image
    return image if transpose is None else image.transpose(transpose)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        grey = np.asarray(image, dtype=np.float32)
        return Image.fromarray(np.clip(grey / 257.0, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
