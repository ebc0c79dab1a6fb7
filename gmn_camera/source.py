"""Frames of a video file, all of them in order, or of a stream, always the newest."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, TypeAlias

import av
import numpy as np
from numpy.typing import NDArray

from gmn_camera.address import redact
from gmn_camera.settings import CameraSettings
from gmn_client.errors import InvalidInput

Pixels: TypeAlias = NDArray[np.uint8]

log = logging.getLogger(__name__)
# Time to open a stream, and to wait for its next packet.
TIMEOUT_SECONDS = 5.0
# A stream that sends packets for so long without a frame is opened again.
FRAMELESS_SECONDS = 30.0
# A decoder that does not return for so long hangs; nothing in the process can end its call.
STUCK_SECONDS = 60.0
POLL_SECONDS = 0.5
# A camera that is back is found soon: cameras restart in a minute, and an attempt costs little.
LONGEST_WAIT = 2.0
# FFmpeg reads so much of a stream to find out its rate, which nothing here needs.
ANALYZED_MICROSECONDS = "1000000"
# A stream that is joined between two key frames begins with packets that cannot be decoded.
MOST_DAMAGED = 250
MOST_PIXELS = 8192 * 4352


class SourceStuck(Exception):
    """The decoder of a stream does not return; the process has to be started anew."""


class Frame:
    """A frame of a video, upright.

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
        # Phones store upright videos lying on the side.
        self._quarter_turns = round(picture.rotation / 90) % 4
        self._is_turned = self._quarter_turns % 2 == 1
        self.width = picture.height if self._is_turned else picture.width
        self.height = picture.width if self._is_turned else picture.height

    @cached_property
    def pixels(self) -> Pixels:
        """RGB `(height, width, 3)`."""
        return self._upright(self._picture.to_ndarray(format="rgb24"))

    def resized(self, width: int, height: int, pixel_format: str) -> Pixels:
        """Return the frame in another size, `(height, width, 3)`.

        Args:
            pixel_format: `rgb24` or `bgr24`.
        """
        small = self._picture.reformat(
            width=height if self._is_turned else width,
            height=width if self._is_turned else height,
            format=pixel_format,
        )
        return self._upright(small.to_ndarray())

    def _upright(self, pixels: NDArray[Any]) -> Pixels:
        return np.rot90(pixels, self._quarter_turns)


class VideoFile:
    """The frames of a video file in order, and their times."""

    reconnects = 0

    def __init__(self, settings: CameraSettings, stop: threading.Event) -> None:
        """Remember the file, which is opened by `frames`."""
        self._settings = settings
        self._stop = stop

    def frames(self) -> Iterator[Frame]:
        """Yield `fps` frames for each second of the video.

        Raises:
            InvalidInput: the file is no video, or its length is unknown.
        """
        source = self._settings.source
        try:
            with av.open(source) as container:
                started = self._find_start(container)
                began = time.monotonic()
                age = (datetime.now(UTC) - started).total_seconds()
                for seconds, picture in chosen_frames(decoded(container), self._settings.fps):
                    if self._settings.live:
                        self._stop.wait(max(0.0, began + seconds - time.monotonic()))
                    if self._stop.is_set():
                        return
                    captured_at = started + timedelta(seconds=seconds)
                    yield Frame(captured_at, picture, began - age + seconds)
        except FileNotFoundError as error:
            raise InvalidInput(f"{source}: there is no such file; name a video file") from error
        except (av.FFmpegError, OSError) as error:
            raise InvalidInput(
                f"{source}: cannot be read as a video ({error.strerror}); name a video file"
            ) from error

    def _find_start(self, container: Any) -> datetime:
        now = datetime.now(UTC)
        if self._settings.started is not None:
            return self._settings.started
        if self._settings.live:
            return now
        if container.duration is None:
            raise InvalidInput(
                f"{self._settings.source}: does not say how long it is; give the time of its first "
                "frame with --started"
            )
        return now - timedelta(seconds=container.duration / av.time_base)


class Stream:
    """The newest frame of a stream, which is opened again whenever it breaks off.

    Attributes:
        reconnects: number of times that it was opened again.
        is_connected: False while it is away.
    """

    def __init__(self, settings: CameraSettings, stop: threading.Event) -> None:
        """Remember the stream, which is opened by `frames`."""
        self.reconnects = 0
        self.is_connected = False
        self._address = settings.source
        self._fps = settings.fps
        self._stop = stop
        self._newest: Frame | None = None
        self._has_newest = threading.Condition()
        self._returned_at = time.monotonic()

    def frames(self) -> Iterator[Frame | None]:
        """Yield the newest frame, at most `fps` in a second, until the program stops.

        It yields None after each half a second without a frame.

        Raises:
            SourceStuck: the decoder hangs.
        """
        threading.Thread(target=self._follow, name="decoder", daemon=True).start()
        while not self._stop.is_set():
            began = time.monotonic()
            with self._has_newest:
                self._has_newest.wait_for(lambda: self._newest is not None, POLL_SECONDS)
                newest = self._newest
                self._newest = None
            if newest is not None:
                yield newest
                self._stop.wait(max(0.0, 1 / self._fps - (time.monotonic() - began)))
                continue
            if time.monotonic() - self._returned_at > STUCK_SECONDS:
                raise SourceStuck(f"{redact(self._address)}: the decoder hangs")
            yield None

    def _follow(self) -> None:
        wait = 1.0
        while not self._stop.is_set():
            self._returned_at = time.monotonic()
            try:
                for frame in self._open():
                    if not self.is_connected:
                        log.info("%s: frames arrive", redact(self._address))
                        self.is_connected = True
                        wait = 1.0
                    with self._has_newest:
                        self._newest = frame
                        self._has_newest.notify()
                    if self._stop.is_set():
                        return
                reason = "the stream ended"
            except av.error.ExitError:
                # So PyAV ends a call that takes too long.
                reason = f"nothing came for {TIMEOUT_SECONDS:g} s"
            except (av.FFmpegError, OSError) as error:
                # The text of the error may repeat the address with its password.
                reason = error.strerror or type(error).__name__
            except InvalidInput as error:
                reason = str(error)
            if self.is_connected or self.reconnects == 0:
                log.warning(
                    "%s: %s; it is opened again until it is back", redact(self._address), reason
                )
            self.is_connected = False
            self.reconnects += 1
            self._stop.wait(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    def _open(self) -> Iterator[Frame]:
        # Cameras lose packets over UDP, and half a frame looks like a torn person.
        is_rtsp = self._address.lower().startswith("rtsp")
        options = {"analyzeduration": ANALYZED_MICROSECONDS}
        if is_rtsp:
            options["rtsp_transport"] = "tcp"
        timeout = (TIMEOUT_SECONDS, TIMEOUT_SECONDS)
        framed_at = time.monotonic()
        with av.open(self._address, options=options, timeout=timeout) as container:
            for picture in decoded(container):
                self._returned_at = time.monotonic()
                if picture is not None:
                    framed_at = self._returned_at
                    yield Frame(datetime.now(UTC), picture, self._returned_at)
                elif self._returned_at - framed_at > FRAMELESS_SECONDS:
                    raise InvalidInput("packets arrive, but no frame")


def decoded(container: Any) -> Iterator[av.VideoFrame | None]:
    """Yield the frames of a container's first video, and None for a packet without a frame.

    Raises:
        InvalidInput: there is no video, or its frames are too large.
        av.FFmpegError: the source cannot be decoded.
    """
    if not container.streams.video:
        raise InvalidInput(f"{redact(container.name)}: has no video; name another source")
    video = container.streams.video[0]
    # Each thread that decodes frames beside the others would hold one frame back.
    video.thread_type = "SLICE"
    video.codec_context.thread_count = 1
    damaged = 0
    for packet in container.demux(video):
        try:
            pictures = packet.decode()
            damaged = 0
        except (av.error.InvalidDataError, av.error.ArgumentError):
            damaged += 1
            if damaged > MOST_DAMAGED:
                raise
            pictures = []
        for picture in pictures:
            if picture.width * picture.height > MOST_PIXELS:
                raise InvalidInput(
                    f"{redact(container.name)}: frames of {picture.width}×{picture.height} pixels "
                    "are too large; use a smaller stream of the camera"
                )
            yield picture
        if not pictures:
            yield None


def chosen_frames(
    pictures: Iterator[av.VideoFrame | None], fps: float
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Yield frames at most `fps` times a second, with their seconds since the first frame."""
    first: float | None = None
    due = 0.0
    for picture in pictures:
        if picture is None:
            continue
        moment = picture.time or 0.0
        first = moment if first is None else first
        seconds = moment - first
        # The times of frames are rounded.
        if seconds >= due - 0.1 / fps:
            due = max(due + 1 / fps, seconds + 0.5 / fps)
            yield seconds, picture
