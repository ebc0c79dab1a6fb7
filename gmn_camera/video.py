"""Opens files and streams by FFmpeg, and decodes their video."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import av
from av.stream import Disposition

from gmn_client.errors import InvalidInput
from model.wording import counted

log = logging.getLogger(__name__)
# Formats of cameras, recorders and phones. Playlists and lists of files are left out, as they name
# other addresses and files: another machine could answer for a camera and have those opened.
FORMATS = (
    *("asf", "av1", "avi", "dhav", "dv", "flv", "h263", "h264", "hevc", "hxvs", "ivf"),
    *("jpeg_pipe", "live_flv", "m4v", "matroska", "mjpeg", "mov", "mpeg", "mpegts", "mpegvideo"),
    *("mpjpeg", "mxf", "nut", "obu", "ogg", "rm", "rtp", "rtsp", "vc1"),
)
STREAM_PROTOCOLS = (
    *("http", "httpproxy", "https", "rtmp", "rtmps", "rtp", "rtsp", "srt", "srtp"),
    *("tcp", "tls", "udp"),
)
# FFmpeg reads this much of a stream to find out its frame rate, which nothing here needs.
ANALYZED_MICROSECONDS = "1000000"
# A stream that is joined between two key frames begins with packets that cannot be decoded.
MOST_DAMAGED = 250
MOST_PIXELS = 8192 * 4352
# A frame rate outside these limits is a mistake of the file. FFmpeg, too, assumes the usual rate
# for a raw video.
LOWEST_RATE = 1
HIGHEST_RATE = 240
USUAL_RATE = 25
PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
PICTURE_CODECS = ("bmp", "gif", "mjpeg", "png", "webp")


def open_file(file: str) -> Any:
    """Open a video file, also if its name begins like an address.

    Raises:
        av.FFmpegError: the file cannot be read.
    """
    return av.open(
        f"file:{file}",
        options={"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"},
    )


def open_stream(address: str, timeout_seconds: float) -> Any:
    """Open a stream.

    Args:
        timeout_seconds: limit for opening the stream, and for each packet.

    Raises:
        av.FFmpegError: the stream cannot be read.
    """
    options = {
        "analyzeduration": ANALYZED_MICROSECONDS,
        "format_whitelist": ",".join(FORMATS),
        "protocol_whitelist": ",".join(STREAM_PROTOCOLS),
    }
    scheme, _, _ = address.lower().partition(":")
    if scheme.startswith("rtsp"):
        # Cameras lose packets over UDP, and half a frame looks like a torn person.
        options["rtsp_transport"] = "tcp"
    if scheme.startswith("http"):
        # A redirection may lead to any machine that this one reaches.
        options["max_redirects"] = "0"
    return av.open(address, options=options, timeout=(timeout_seconds, timeout_seconds))


def find_video(container: Any, name: str) -> Any:
    """Return the largest video of a container; prefer videos to covers and previews.

    Args:
        name: name of the source, for messages.

    Raises:
        InvalidInput: the container has no video.
    """
    videos = container.streams.video
    if not videos:
        raise InvalidInput(f"{name}: has no video; name another source")
    return max(videos, key=_likeness_to_a_film)


def _likeness_to_a_film(video: Any) -> tuple[bool, bool, bool, int]:
    return (
        not video.disposition & PICTURES,
        # Containers that do not count their frames say 0.
        video.frames != 1,
        video.codec_context.name not in PICTURE_CODECS,
        video.codec_context.width * video.codec_context.height,
    )


def seconds_of_a_frame(video: Any) -> float:
    """Return the usual time between two frames of a video, in seconds."""
    rate = video.guessed_rate or video.average_rate
    if rate is None or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        return 1 / USUAL_RATE
    return float(1 / rate)


def decoded(container: Any, video: Any, name: str) -> Iterator[av.VideoFrame | None]:
    """Yield the frames of a video, and None for a packet without a frame.

    Args:
        name: name of the source, for messages.

    Raises:
        InvalidInput: the frames are too large, or too many of them are damaged.
        av.FFmpegError: the source cannot be read.
    """
    # With frame threading, each further thread would delay the video by a frame.
    video.thread_type = "SLICE"
    video.codec_context.thread_count = 1
    damaged = 0
    all_damaged = 0
    for packet in container.demux(video):
        try:
            pictures = packet.decode()
            damaged = 0
        except av.FFmpegError as error:
            damaged += 1
            all_damaged += 1
            if damaged > MOST_DAMAGED:
                raise InvalidInput(
                    f"{name}: {damaged} packets in a row cannot be decoded; use another stream of "
                    "the camera, or repair the file"
                ) from error
            pictures = []
        for picture in pictures:
            if picture.width * picture.height > MOST_PIXELS:
                raise InvalidInput(
                    f"{name}: frames of {picture.width}×{picture.height} pixels are too large; "
                    "use a smaller stream of the camera"
                )
            yield picture
        if not pictures:
            yield None
    if all_damaged:
        log.warning("%s: %s could not be decoded", name, counted(all_damaged, "packet"))
