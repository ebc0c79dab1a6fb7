"""Frames, whole images from which boxes cut the crops of several people."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from model.crops.decode import CropLimits, CropProblem, decode_crop


class Frame:
    """An image file that is decoded once for all its boxes."""

    def __init__(self, file: bytes) -> None:
        self.file = file
        self._picture: Image.Image | None = None

    def decode(self, limits: CropLimits) -> Image.Image:
        """Return the picture in RGB, or raise a `CropProblem`."""
        if self._picture is None:
            self._picture = decode_crop(self.file, limits)
        return self._picture


@dataclass(frozen=True, eq=False)
class FrameCrop:
    """A crop in a box of a frame, in pixels from its upper left corner."""

    frame: Frame
    x: int
    y: int
    width: int
    height: int

    def cut(self, limits: CropLimits) -> Image.Image:
        """Return a copy of the frame's pixels in the box, in RGB.

        Raises:
            CropProblem: the frame cannot be decoded, or the box is not usable.
        """
        picture = self.frame.decode(limits)
        frame_width, frame_height = picture.size
        right = self.x + self.width
        lower = self.y + self.height
        if self.x < 0 or self.y < 0 or right > frame_width or lower > frame_height:
            raise CropProblem(
                "box_outside",
                f"the box {self.width}×{self.height} at {self.x}, {self.y} leads out of the image "
                f"of {frame_width}×{frame_height} pixels; cut it at the edge",
            )
        limits.require_size(self.width, self.height)
        return picture.crop((self.x, self.y, right, lower))


# An image in a request: its file, a crop of a frame, or the reason why it cannot be used.
ImageFile = bytes | CropProblem | FrameCrop


def png_of(picture: Image.Image) -> bytes:
    """Encode a picture as PNG.

    Duplicates are found by their bytes, which are the same for the same box of a frame.
    """
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
