"""Videos with drawn people who walk, and a camera's stand-in that sends one as MPEG-TS."""

import contextlib
import io
import socket
import struct
import threading
import time
from fractions import Fraction

import av
import numpy as np

from demo import drawn_videos
from demo.drawn_videos import FPS, HEIGHT, PERSON, WIDTH, write_video
from tests.drawn_photos import drawn_people
from tests.outside import free_port

__all__ = ["FPS", "HEIGHT", "PERSON", "WIDTH", "write_video"]


def draw_frame(positions, size=(WIDTH, HEIGHT)):
    """Return a picture with drawn people.

    Args:
        positions: left edge of each person who is there, by the person's number.
    """
    people = [(drawn_people()[number].resize(PERSON), left) for number, left in positions.items()]
    return drawn_videos.draw_frame(people, size)


def walk(people, seconds, **options):
    """Yield the frames of drawn people, by their numbers, who cross the picture one by one."""
    return drawn_videos.walk(
        [drawn_people()[number].resize(PERSON) for number in people], seconds, **options
    )


def note_matrix(file, right_to_right, right_to_bottom, below_to_right, below_to_bottom):
    """Note in an MP4 where a step to the right and a step down in a stored frame are shown."""
    content = bytearray(file.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40
    one = 1 << 16
    first_row = (right_to_right * one, right_to_bottom * one, 0)
    second_row = (below_to_right * one, below_to_bottom * one, 0)
    content[matrix : matrix + 36] = struct.pack(">9i", *first_row, *second_row, 0, 0, 1 << 30)
    file.write_bytes(content)


def turn_upright(file):
    """Note in an MP4 that it is shown a quarter turn to the right, as phones do."""
    note_matrix(file, 0, 1, -1, 0)


def write_frames_at(file, frames, codec="libx264"):
    """Write frames as a video, each at its own time, and return the file.

    Args:
        frames: pairs of seconds and a picture.
    """
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for seconds, picture in frames:
            frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
            frame.pts = round(1000 * seconds)
            frame.time_base = stream.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def transport_stream(video, rounds):
    """Return a video as parts of an MPEG-TS, each with the seconds at which a camera sends it.

    Args:
        video: a file, whose packets are not encoded again.
        rounds: how often it is played.
    """
    sent = io.BytesIO()
    parts = []
    options = {"flush_packets": "1"}
    with av.open(sent, "w", format="mpegts", options=options) as output:
        stream = None
        offset = 0
        for _ in range(rounds):
            with av.open(str(video)) as source:
                of_video = source.streams.video[0]
                if stream is None:
                    stream = output.add_stream_from_template(of_video)
                for packet in source.demux(of_video):
                    if packet.dts is None:
                        continue
                    seconds = float((packet.dts + offset) * packet.time_base)
                    packet.pts += offset
                    packet.dts += offset
                    packet.stream = stream
                    position = sent.tell()
                    output.mux(packet)
                    parts.append((seconds, sent.getvalue()[position:]))
                offset += of_video.duration
    return parts


class StandInCamera:
    """Sends a video over TCP on this machine, in real time, from its beginning to each viewer.

    Attributes:
        address: where viewers connect.
    """

    def __init__(self, video, rounds=100):
        """Begin to listen."""
        self._port = free_port()
        self.address = f"tcp://127.0.0.1:{self._port}"
        self._parts = transport_stream(video, rounds)
        self._ends = threading.Event()
        self._server = None
        self.mend()

    def cut(self):
        """Break the connection, and accept none."""
        self._ends.set()
        self._server.close()
        self._thread.join()

    def mend(self):
        """Accept connections again."""
        self._ends.clear()
        self._server = socket.create_server(("127.0.0.1", self._port))
        self._server.settimeout(0.05)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._ends.is_set():
            with contextlib.suppress(OSError):
                connection, _ = self._server.accept()
                with connection:
                    self._send(connection)

    def _send(self, connection):
        began = time.monotonic()
        for seconds, part in self._parts:
            if self._ends.wait(max(0.0, began + seconds - time.monotonic())):
                return
            connection.sendall(part)


@contextlib.contextmanager
def sending(video):
    """Yield a stand-in that sends a video."""
    camera = StandInCamera(video)
    try:
        yield camera
    finally:
        camera.cut()
