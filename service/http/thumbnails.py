"""Thumbnails: small JPEGs of stored pictures, which clients revalidate before each use."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Query, Request, Response
from PIL import Image

from model.crops.decode import CropLimits, CropProblem, decode_crop
from service.http.problems import Responses, content, problems
from service.record.values import Picture
from service.runtime import Runtime

JPEG_QUALITY = 85
# Maximum ratio of height to width: a JPEG has at most 65,535 pixels per side.
TALLEST = 8
# A stored file was already decoded once, under limits that may have changed since.
STORED_LIMITS = CropLimits(max_bytes=2**31, max_pixels=2**28, min_side=1)
# Cost of a thumbnail, whose file is in memory until a thread is free.
PER_THUMBNAIL = 4.0
PICTURE: Responses = {
    **problems("queue_full", among=content("image/*", "The file, or with `width` a JPEG.")),
    304: {"description": "The client's copy of the `ETag` is the answer."},
}
# In pixels.
Width = Annotated[
    int | None,
    Query(
        ge=16,
        le=512,
        description="For a JPEG of this many pixels' width at most, in place of the file; never "
        "enlarged.",
    ),
]


async def answer_picture(
    request: Request,
    runtime: Runtime,
    picture_id: str,
    width: int | None,
    read: Callable[[], Awaitable[Picture]],
) -> Response:
    """Answer with a stored picture or its thumbnail.

    Clients that cache a thumbnail revalidate it and get 304 as long as the picture exists, so
    deleted pictures are not shown again.

    Args:
        picture_id: names an existing picture and is never reused for another one.
        width: as in `thumbnail`; None for the stored file itself.
        read: reads the stored file.
    """
    if width is None:
        picture = await read()
        return Response(picture.content, media_type=picture.content_type)
    tag = f'"{picture_id}.{width}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    # The header may list several tags and mark them as weak.
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    try:
        async with runtime.admission.admit(PER_THUMBNAIL):
            picture = await read()
            # Limits thumbnails to as many at a time as images are decoded for searches.
            threads = runtime.model.pipeline.threads_for(picture.content)
            small = await threads.run(thumbnail, picture.content, width)
    except CropProblem:
        # The stored file is damaged: send it as it is.
        return Response(picture.content, media_type=picture.content_type)
    return Response(small, headers=headers, media_type="image/jpeg")


def thumbnail(image: bytes, width: int) -> bytes:
    """Return a JPEG of an image file, upright, without metadata and never enlarged.

    Args:
        width: maximum width in pixels; images more than eight times as high as wide get smaller.

    Raises:
        CropProblem: the file is damaged.
    """
    picture = decode_crop(image, STORED_LIMITS)
    picture.thumbnail((width, TALLEST * width), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()
