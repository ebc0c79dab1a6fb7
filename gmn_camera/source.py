"""The sources of frames: a video file gives them in order, and a stream always the newest."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from errno import EIO
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import av

from gmn_camera.address import redact
from gmn_camera.frame import Frame
from gmn_camera.settings import CameraSettings
from gmn_camera.time_line import TimeLine
from gmn_camera.video import decoded, find_video, open_file, open_stream, seconds_of_a_frame
from gmn_client.errors import InvalidInput
from model.wording import counted

log = logging.getLogger(__name__)
# Limit for opening a stream, and for each packet.
TIMEOUT_SECONDS = 5.0
# A stream that sends packets for longer than this without a frame is opened again.
FRAMELESS_SECONDS = 30.0
# A decoder that does not return for longer than this hangs; no thread can end its call.
STUCK_SECONDS = 60.0
POLL_SECONDS = 0.5
PICTURES = frozenset((".bmp", ".gif", ".heic", ".jpeg", ".jpg", ".png", ".webp"))
PLAYLISTS = frozenset((".m3u", ".m3u8", ".mpd"))
# Longest pause between attempts. They cost little, and a camera restarts within a minute.
LONGEST_WAIT = 2.0


class SourceStuck(Exception):
    """The decoder of a stream hangs, so that the process has to be started anew."""


class VideoFile:
    """The frames of a video file in order, and their times."""

    reconnects = 0
    unread: str | None = None

    def __init__(self, settings: CameraSettings, stop: threading.Event) -> None:
        self._settings = settings
        self._stop = stop
        self._name = redact(settings.source)

    def frames(self) -> Iterator[Frame]:
        """Yield `fps` frames for each second of the video.

        Raises:
            InvalidInput: the file is no video.
        """
        try:
            started = self._find_start()
            began = time.monotonic()
            age = (datetime.now(UTC) - started).total_seconds()
            for seconds, picture in chosen_frames(self._timed_pictures(), self._settings.fps):
                if self._settings.live:
                    self._stop.wait(max(0.0, began + seconds - time.monotonic()))
                if self._stop.is_set():
                    return
                captured_at = started + timedelta(seconds=seconds)
                yield Frame(captured_at, picture, began - age + seconds)
        except FileNotFoundError as error:
            raise InvalidInput(f"{self._name}: there is no such file; name a video file") from error
        except av.error.ArgumentError as error:
            raise InvalidInput(
                f"{self._name}: is no kind of video that is read; name a video file, not a "
                "playlist, or convert it to MP4"
            ) from error
        except (av.FFmpegError, OSError) as error:
            raise InvalidInput(
                f"{self._name}: cannot be read as a video ({error.strerror}); name a video file"
            ) from error

    def measure_seconds(self) -> float:
        """Read the whole file to measure its length, as its header leaves out joined parts."""
        with open_file(self._settings.source) as container:
            video = find_video(container, self._name)
            frame_seconds = seconds_of_a_frame(video)
            time_line = TimeLine(frame_seconds)
            newest = 0.0
            for packet in container.demux(video):
                if self._stop.is_set():
                    break
                # The demuxer ends with an empty packet.
                if packet.size:
                    moment = packet.pts if packet.dts is None else packet.dts
                    newest = time_line.seconds_at(
                        None if moment is None else float(moment * packet.time_base)
                    )
        return newest + frame_seconds

    def _timed_pictures(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """Yield each picture with its seconds since the first one."""
        with open_file(self._settings.source) as container:
            video = find_video(container, self._name)
            frame_seconds = seconds_of_a_frame(video)
            time_line = TimeLine(frame_seconds)
            self._name_other_videos(len(container.streams.video), video)
            has_times = True
            for picture in decoded(container, video, self._name):
                if picture is None:
                    continue
                if picture.time is None and has_times:
                    has_times = False
                    log.warning(
                        "%s: its frames have no times; %.3g frames are taken for a second",
                        self._name,
                        1 / frame_seconds,
                    )
                yield time_line.seconds_at(picture.time), picture
            if time_line.jumps:
                log.warning(
                    "%s: the times of its frames begin anew or jump, and go on there as if nothing "
                    "were missing (%s)",
                    self._name,
                    counted(time_line.jumps, "time"),
                )

    def _name_other_videos(self, count: int, video: Any) -> None:
        if count > 1:
            log.warning(
                "%s: has %d videos, of which the one of %d×%d pixels is read",
                self._name,
                count,
                video.codec_context.width,
                video.codec_context.height,
            )

    def _find_start(self) -> datetime:
        if self._settings.started is not None:
            return self._settings.started
        if self._settings.live:
            return datetime.now(UTC)
        return datetime.now(UTC) - timedelta(seconds=self.measure_seconds())


class Stream:
    """A stream, which is opened again whenever it breaks off.

    Attributes:
        reconnects: number of times that it was opened again.
        is_connected: False until frames arrive, and while the stream is broken off.
        unread: why what the address sends cannot be read, and what to name instead; None as long as
            that is not the trouble.
    """

    def __init__(self, settings: CameraSettings, stop: threading.Event) -> None:
        self.reconnects = 0
        self.is_connected = False
        self.unread: str | None = None
        self._address = settings.source
        self._fps = settings.fps
        self._stop = stop
        self._newest: Frame | None = None
        self._has_newest = threading.Condition()
        self._returned_at = time.monotonic()

    def frames(self) -> Iterator[Frame | None]:
        """Yield the newest frame, at most `fps` times a second, until `stop` is set.

        After each half a second without a frame, yield None.

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
                # PyAV raises this when a call takes too long.
                reason = f"nothing came for {TIMEOUT_SECONDS:g} s"
            except (av.error.ArgumentError, av.error.InvalidDataError):
                reason = self.unread = _describe_unread(self._address)
            except (av.FFmpegError, OSError) as error:
                reason = _reason_of(error, self._address)
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
        framed_at = time.monotonic()
        name = redact(self._address)
        with open_stream(self._address, TIMEOUT_SECONDS) as container:
            for picture in decoded(container, find_video(container, name), name):
                self._returned_at = time.monotonic()
                if picture is not None:
                    framed_at = self._returned_at
                    yield Frame(datetime.now(UTC), picture, self._returned_at)
                elif self._returned_at - framed_at > FRAMELESS_SECONDS:
                    raise InvalidInput("packets arrive, but no frame")


def _describe_unread(address: str) -> str:
    """Say why an address that answers is no stream, without the address itself."""
    suffix = PurePosixPath(urlsplit(address).path).suffix.lower()
    if suffix in PICTURES:
        what = "the address is that of a picture"
    elif suffix in PLAYLISTS:
        what = "playlists (HLS) are not read"
    else:
        what = (
            "the address is wrong, or sends a picture or no video that is read, as playlists (HLS)"
        )
    return f"{what}; name the address of a stream, best one that begins with rtsp://"


def _reason_of(error: av.FFmpegError | OSError, address: str) -> str:
    """Describe an error without the address of the stream, which may contain a password."""
    reason = error.strerror or type(error).__name__
    if error.errno == EIO and address.lower().startswith("http"):
        return f"{reason}; if the address leads to another address, name that one"
    return reason


def chosen_frames(
    pictures: Iterable[tuple[float, av.VideoFrame]], fps: float
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Yield at most `fps` pictures for each second of a video.

    Args:
        pictures: pairs of seconds since the first picture, and the picture.
    """
    due = 0.0
    for seconds, picture in pictures:
        # The times of frames are rounded, so that one may come a little early.
        if seconds >= due - 0.1 / fps:
            due = max(due + 1 / fps, seconds + 0.5 / fps)
            yield seconds, picture
