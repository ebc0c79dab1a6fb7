"""The still of a camera for which the service asks."""

from __future__ import annotations

import io

from PIL import Image

from gmn_camera.frame import Frame

# The service's limit on a still.
MAX_STILL_BYTES = 256 * 1024
# A zone is drawn well on a picture of the first of these sizes. The others are for frames full of
# noise, which JPEG compresses badly.
LONGEST_SIDES = (1280, 800, 480)
JPEG_QUALITY = 75


def encode_still(frame: Frame) -> bytes:
    """Return a frame as a JPEG of at most `MAX_STILL_BYTES`."""
    jpeg = b""
    for longest_side in LONGEST_SIDES:
        scale = min(1.0, longest_side / max(frame.width, frame.height))
        pixels = frame.resized(
            max(1, round(scale * frame.width)), max(1, round(scale * frame.height)), "rgb24"
        )
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
        jpeg = file.getvalue()
        if len(jpeg) <= MAX_STILL_BYTES:
            break
    return jpeg
