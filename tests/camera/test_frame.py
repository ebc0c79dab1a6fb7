"""A frame in other sizes and formats."""

import time
from datetime import UTC, datetime

import av
import numpy as np
import pytest

from gmn_camera.frame import Frame

SIZE = (1920, 1080)


def pictures(count):
    """Yield decoded pictures, none of which was converted before."""
    planes = np.random.default_rng(1).integers(0, 256, (SIZE[1] * 3 // 2, SIZE[0]), np.uint8)
    for _ in range(count):
        yield av.VideoFrame.from_ndarray(planes, "yuv420p")


@pytest.mark.parametrize(
    "convert",
    [lambda frame: frame.pixels, lambda frame: frame.resized(544, 306, "bgr24")],
    ids=["whole", "small"],
)
def test_a_frame_is_converted_by_the_thread_that_asks_for_it_alone(convert):
    frames = [Frame(datetime.now(UTC), picture, 0.0) for picture in pictures(40)]
    process_began = time.process_time()
    thread_began = time.thread_time()
    for frame in frames:
        convert(frame)
    of_thread = time.thread_time() - thread_began
    of_process = time.process_time() - process_began
    assert of_thread > 0.9 * of_process
