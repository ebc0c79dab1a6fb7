"""Videos with drawn people who walk past."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

WIDTH = 640
HEIGHT = 360
PERSON = (120, 240)
"""Width and height of a person, in pixels."""
FLOOR = 40
FPS = 10
BACKGROUND = (120, 125, 118)
# Long enough for a track to end.
PAUSE_SECONDS = 3


def read_person(picture: bytes) -> Image.Image:
    """Return a picture of a person in the size that a frame shows."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    return image.resize(PERSON, Image.Resampling.LANCZOS)


def draw_frame(
    people: Iterable[tuple[Image.Image, float]], size: tuple[int, int] = (WIDTH, HEIGHT)
) -> Image.Image:
    """Return a frame with people, each with the position of their left edge in pixels."""
    frame = Image.new("RGB", size, BACKGROUND)
    for person, left in people:
        frame.paste(person, (round(left), size[1] - PERSON[1] - FLOOR))
    return frame


def walk(
    people: Sequence[Image.Image], seconds: float, speed: float = 40.0
) -> Iterator[Image.Image]:
    """Yield the frames of people who enter one after the other, each alone, and cross the picture.

    Args:
        seconds: how long each is there.
        speed: pixels a second.
    """
    for person in people:
        for step in range(round(seconds * FPS)):
            yield draw_frame([(person, 60 + speed * step / FPS)])
        for _ in range(PAUSE_SECONDS * FPS):
            yield draw_frame([])


def write_video(
    file: Path, frames: Iterable[Image.Image], fps: int = FPS, container_format: str | None = None
) -> Path:
    """Write frames as an H.264 video, and return its file."""
    with av.open(str(file), "w", format=container_format) as container:
        stream = None
        for number, picture in enumerate(frames):
            if stream is None:
                stream = container.add_stream("libx264", rate=fps, options={"crf": "20"})
                stream.width, stream.height = picture.size
                stream.pix_fmt = "yuv420p"
                stream.gop_size = fps
            frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
            frame.pts = number
            frame.time_base = Fraction(1, fps)
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode())
    return file
