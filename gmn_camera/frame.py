"""A frame of a video, with its time."""

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from typing import Any, TypeAlias

import av
import numpy as np
from av.sidedata.sidedata import Type
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8]
# By default FFmpeg's scaler starts a thread for each core and frame, which costs processor time and
# takes more cores than the camera was given.
SCALER_THREADS = 1


class Frame:
    """A frame of a video, upright as video players show it.

    Attributes:
        captured_at: time of capture; for streams the time of arrival.
        seconds: the same moment by `time.monotonic`. Intervals are measured by it, because the
            clock of a machine may be set back or forward at any time.
        width, height: in pixels.
    """

    def __init__(self, captured_at: datetime, picture: av.VideoFrame, seconds: float) -> None:
        self.captured_at = captured_at
        self.seconds = seconds
        self._picture = picture
        self._matrix = _read_matrix(picture)
        self._is_turned = bool(abs(self._matrix[0, 1]) > abs(self._matrix[0, 0]))
        self.width = picture.height if self._is_turned else picture.width
        self.height = picture.width if self._is_turned else picture.height

    @cached_property
    def pixels(self) -> Pixels:
        """Return RGB pixels `(height, width, 3)`."""
        return self._upright(self._picture.to_ndarray(format="rgb24", threads=SCALER_THREADS))

    def resized(self, width: int, height: int, pixel_format: str) -> Pixels:
        """Return the frame in another size: `(height, width, 3)`, or `(height, width)` in grey.

        Args:
            pixel_format: `rgb24`, `bgr24` or `gray`.
        """
        small = self._picture.reformat(
            width=height if self._is_turned else width,
            height=width if self._is_turned else height,
            format=pixel_format,
            threads=SCALER_THREADS,
        )
        return self._upright(small.to_ndarray())

    def _upright(self, pixels: NDArray[Any]) -> Pixels:
        """Rotate and mirror pixels by the display matrix."""
        (to_right, to_bottom), (below_to_right, below_to_bottom) = self._matrix
        if self._is_turned:
            pixels = pixels.swapaxes(0, 1)
            to_right = below_to_right
            below_to_bottom = to_bottom
        if to_right < 0:
            pixels = pixels[:, ::-1]
        if below_to_bottom < 0:
            pixels = pixels[::-1]
        return pixels


def _read_matrix(picture: av.VideoFrame) -> NDArray[Any]:
    """Return the display matrix of a picture `(2, 2)`.

    The first row says how far a step to the right in the stored picture leads to the right and down
    in the shown one; the second row says it of a step down. Phones store upright videos lying on
    their side, front cameras store mirrored ones, and cameras at a ceiling store them upside down.
    """
    side_data: Any = picture.side_data
    matrix = side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return np.eye(2)
    return np.frombuffer(matrix, np.int32).reshape(3, 3)[:2, :2].astype(float)
