"""From image files to features: decode, prepare the stored picture, embed."""

from __future__ import annotations

import asyncio
import hashlib
import io
import itertools
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial

from PIL import Image

from model.arrays import Pixels
from model.crops.decode import CropLimits, CropProblem, decode_crop, decode_photo
from model.crops.frames import FrameCrop, ImageFile, png_of
from model.crops.metadata import strip_metadata
from model.crops.quality import QualityFault, measure_quality, quality_faults
from model.people_detector import DETAIL_PIXELS, DetectedPerson, PeopleDetector, passes_of
from model.preprocessing import Preprocessing
from service.engine.admission import (
    LARGE_PIXELS,
    MEGAPIXEL,
    PER_CUT_MEGAPIXEL,
    PER_DETECTOR_PASS,
    PER_FRAME_MEGAPIXEL,
    PER_IMAGE,
    pixels_of,
)
from service.engine.device import (
    NOTHING_PREPARED,
    Embedded,
    MicroBatcher,
    PreparedImage,
    WaitingCrop,
    device_error,
    pass_error,
)
from service.errors import UnusableImages
from service.ops.memory import return_free_memory
from service.ops.threads import MonitoredThreadPool
from service.settings import KeepImages, QualityPolicy, Settings

log = logging.getLogger(__name__)
# Quality of a crop: its sharpness times its rows, of which at most MOST_ROWS count because networks
# see no more. Crops with faults are multiplied by FAULTY.
MOST_ROWS = 256
FAULTY = 0.1
# decode_crop has already read the whole file: the first bytes identify the format.
SIGNATURES = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8", "image/jpeg"),
    (b"RIFF", "image/webp"),
    (b"BM", "image/bmp"),
)
# Width and height in pixels. An image within its limits may be wider than a JPEG can be.
THUMBNAIL_SIZE = (1024, 256)
THUMBNAIL_QUALITY = 90


@dataclass(frozen=True)
class PicturePolicy:
    """Policy for the picture that is stored of an image file.

    Attributes:
        keep: `original` stores the received file; `thumbnail` stores a JPEG at most 256 pixels
            high and 1,024 wide without metadata, or the original if that is smaller; `none` stores
            nothing.
        keep_metadata: whether originals keep their metadata.
        max_original_bytes: larger originals are stored as thumbnails.
    """

    keep: KeepImages
    keep_metadata: bool
    max_original_bytes: int | None = None

    def prepare(self, file: bytes, decoded: Image.Image, quality: float | None) -> PreparedImage:
        """Hash a file and make the picture that is kept of it.

        Args:
            file: a whole image file.
            decoded: the decoded file, in RGB.
            quality: the measured quality; None if it was not measured.
        """
        sent_sha256 = hashlib.sha256(file).hexdigest()
        if self.keep == "none":
            return PreparedImage(sent_sha256, quality=quality)
        content_type = find_content_type(file) or "image/bmp"
        picture = file if self.keep_metadata else strip_metadata(file)
        too_large = self.max_original_bytes is not None and len(picture) > self.max_original_bytes
        if self.keep == "thumbnail" or too_large:
            thumbnail = _encode_thumbnail(decoded)
            if len(thumbnail) < len(picture):
                picture = thumbnail
                content_type = "image/jpeg"
        other_sha256 = None
        if picture is not file:
            other_sha256 = hashlib.sha256(picture).hexdigest()
        return PreparedImage(sent_sha256, picture, content_type, quality, other_sha256)


def find_content_type(file: bytes) -> str | None:
    types = (name for signature, name in SIGNATURES if file.startswith(signature))
    return next(types, None)


def _encode_thumbnail(decoded: Image.Image) -> bytes:
    picture = decoded.copy()
    picture.thumbnail(THUMBNAIL_SIZE, Image.Resampling.LANCZOS, reducing_gap=None)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=THUMBNAIL_QUALITY, subsampling=0)
    return file.getvalue()


async def _results_of(futures: Sequence[Future[Embedded]]) -> list[Embedded]:
    """Wait for all futures, or until one fails; raises its error.

    The event loop is woken once. `asyncio.wrap_future` would wake it for each image.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    # Threads end the futures, and `next` counts each of them once.
    left = itertools.count(len(futures) - 1, -1)

    def note_end(future: Future[Embedded]) -> None:
        is_last = next(left) == 0
        failed = future.cancelled() or future.exception() is not None
        if (is_last or failed) and not loop.is_closed():
            loop.call_soon_threadsafe(ended.set)

    for future in futures:
        future.add_done_callback(note_end)
    if futures:
        await ended.wait()
    # The result of a future that has not ended would block the event loop.
    for future in futures:
        if future.done():
            future.result()
    return [future.result() for future in futures]


class Pipeline:
    """Decodes, resizes and embeds images; a bad image does not affect the others.

    Attributes:
        threads: decode and resize images of up to two megapixels, and answer short queries.
        large_threads: do so for larger images and find people, so that crops need not wait.
        short_work: held by a thread for the parts of a short query that run Python, beside those
            that wait for the network. Threads that run them at the same time would hand each other
            the interpreter's lock at every step.
        embeds_at_once: True if `embed_now` waits for no other crop.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        batcher: MicroBatcher,
        threads: MonitoredThreadPool,
        large_threads: MonitoredThreadPool,
        settings: Settings,
    ) -> None:
        self.threads = threads
        self.large_threads = large_threads
        self.short_work = threading.Lock()
        self.embeds_at_once = batcher.embeds_at_once
        self._preprocessing = preprocessing
        self._batcher = batcher
        self._limits = CropLimits(settings.max_image_bytes, settings.max_image_pixels)
        self._quality_limits = settings.quality_limits

    async def embed(
        self,
        images: Sequence[ImageFile],
        quality: QualityPolicy = "off",
        pictures: PicturePolicy | None = None,
    ) -> list[Embedded]:
        """Embed images and return one outcome per image, in order.

        If the caller is cancelled, work that has not started is skipped.

        Args:
            images: file contents, crops of a frame that `open_frame` has decoded, or problems that
                are already known.
            quality: `warn` embeds a crop beyond the quality limits of the settings and notes its
                faults; `refuse` turns it into a problem with the code of the first fault and the
                details of all.
            pictures: how to fill `EmbeddedImage.prepared`; the file of a crop of a frame is a PNG.
                None leaves it empty.
        """
        futures: list[Future[Embedded]] = []
        for image in images:
            future: Future[Embedded] = Future()
            futures.append(future)
            if isinstance(image, CropProblem):
                future.set_result(image)
                continue
            threads = self.threads_for(image)
            run = threads.submit(self._decode_and_submit, image, future, quality, pictures)
            run.add_done_callback(partial(pass_error, future))
        try:
            return await _results_of(futures)
        finally:
            # If one has failed, nobody waits for the others.
            for future in futures:
                future.cancel()

    def embed_now(
        self, image: ImageFile, quality: QualityPolicy, pictures: PicturePolicy | None
    ) -> Embedded:
        """Embed a small image as `embed` does, on this thread; blocks.

        Raises:
            DeviceFull, DeviceLost, MachineFull: see `MicroBatcher`.
        """
        if isinstance(image, CropProblem):
            return image
        with self.short_work:
            crop = self._prepare(image, quality, pictures)
        if isinstance(crop, CropProblem):
            return crop
        self._batcher.submit(crop)
        return crop.future.result()

    async def open_frame(self, images: Sequence[ImageFile]) -> None:
        """Decode the frame that images are cut from, if they are cut from one.

        Raises:
            UnusableImages: it cannot be decoded.
        """
        frame = next((image.frame for image in images if isinstance(image, FrameCrop)), None)
        if frame is None:
            return
        try:
            await self.threads_for(frame.file).run(frame.decode, self._limits)
        except CropProblem as problem:
            raise UnusableImages([problem]) from problem

    def cost(self, images: Sequence[ImageFile]) -> float:
        max_pixels = self._limits.max_pixels
        frames = {image.frame.file for image in images if isinstance(image, FrameCrop)}
        megapixels = sum(PER_FRAME_MEGAPIXEL * pixels_of(frame, max_pixels) for frame in frames)
        for image in images:
            price = PER_CUT_MEGAPIXEL if isinstance(image, FrameCrop) else 1.0
            megapixels += price * pixels_of(image, max_pixels)
        return PER_IMAGE * len(images) + megapixels / MEGAPIXEL

    def cost_of_photo(self, photo: bytes) -> float:
        passes = passes_of(pixels_of(photo, self._limits.max_pixels))
        return self.cost([photo]) + PER_DETECTOR_PASS * passes

    async def detect_people(
        self, photo: bytes, detector: PeopleDetector
    ) -> tuple[int, int, list[DetectedPerson]]:
        """Return the width and height of a photo in pixels, and the people on it.

        Raises:
            UnusableImages: the photo cannot be decoded.
        """

        def detect() -> tuple[int, int, list[DetectedPerson]]:
            decoded = decode_photo(photo, DETAIL_PIXELS, self._limits)
            width = decoded.width
            height = decoded.height
            people = detector.detect(decoded)
            del decoded
            if width * height > LARGE_PIXELS:
                return_free_memory()
            return width, height, people

        try:
            # The detector computes one photo at a time. Crops need not wait for it.
            return await self.large_threads.run(detect)
        except CropProblem as problem:
            raise UnusableImages([problem]) from problem

    def threads_for(self, image: ImageFile) -> MonitoredThreadPool:
        large = pixels_of(image, self._limits.max_pixels) > LARGE_PIXELS
        return self.large_threads if large else self.threads

    async def resize(self, image: ImageFile) -> Pixels:
        """Return the embedder's input for an image, `(height, width, 3)` uint8.

        Raises:
            CropProblem: the image cannot be decoded.
        """

        resize = self._preprocessing.resize
        return await self.threads_for(image).run(lambda: resize(self._decode(image)))

    async def thumbnail(self, image: ImageFile) -> bytes:
        return await self.threads_for(image).run(lambda: _encode_thumbnail(self._decode(image)))

    def _decode(self, image: ImageFile) -> Image.Image:
        if isinstance(image, CropProblem):
            raise image
        if isinstance(image, FrameCrop):
            return image.cut(self._limits)
        return decode_crop(image, self._limits)

    def _decode_and_submit(
        self,
        image: bytes | FrameCrop,
        future: Future[Embedded],
        quality: QualityPolicy,
        pictures: PicturePolicy | None,
    ) -> None:
        if future.cancelled():
            return
        crop = self._prepare(image, quality, pictures)
        if isinstance(crop, CropProblem):
            if future.set_running_or_notify_cancel():
                future.set_result(crop)
            return
        self._batcher.submit(replace(crop, future=future))

    def _prepare(
        self, image: bytes | FrameCrop, quality: QualityPolicy, pictures: PicturePolicy | None
    ) -> WaitingCrop | CropProblem:
        """Decode and resize an image, and measure its quality.

        Raises:
            MachineFull: there is too little memory.
        """
        began = time.perf_counter()
        try:
            crop = self._decode(image)
            faults: tuple[QualityFault, ...] = ()
            score = None
            if quality != "off":
                measured = measure_quality(crop)
                faults = quality_faults(measured, self._quality_limits)
                share = FAULTY if faults else 1.0
                score = share * measured.sharpness * min(measured.height, MOST_ROWS)
            if faults and quality == "refuse":
                return CropProblem(faults[0].code, "; ".join(fault.detail for fault in faults))
            prepared = NOTHING_PREPARED
            if pictures:
                file = png_of(crop) if isinstance(image, FrameCrop) else image
                prepared = pictures.prepare(file, crop, score)
            resized = self._preprocessing.resize(crop)
        except CropProblem as problem:
            return problem
        except Exception as error:
            if (failure := device_error(error)) is not error:
                log.warning("an image could not be decoded: %s", failure)
                raise failure from None
            # Decoders read hostile files: treat any error as a problem of this file alone.
            log.warning("an image could not be decoded", exc_info=error)
            return CropProblem(
                "not_an_image", "the image data is damaged; send the file again or convert it"
            )
        seconds = time.perf_counter() - began
        return WaitingCrop(
            resized, decode=seconds, faults=faults, prepared=prepared, height=crop.height
        )
