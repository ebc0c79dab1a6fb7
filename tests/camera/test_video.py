"""Which video of a file is read, how it is turned, and what is never opened for it."""

import http.server
import threading
from contextlib import contextmanager
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from gmn_camera.settings import read_options
from gmn_camera.source import Stream, VideoFile
from gmn_camera.try_source import try_source
from gmn_client import InvalidInput
from tests.camera.drawn_videos import FPS, HEIGHT, WIDTH, draw_frame, note_matrix, write_video
from tests.outside import encoded

FRAMES = FPS


def frames_of(file):
    settings = read_options({"camera": "c", "source": str(file)})
    return list(VideoFile(settings, threading.Event()).frames())


def write_two_videos(file, codec, size, pictures):
    """Write a video of some pictures of another size before the film, and return the file."""
    with av.open(str(file), "w") as container:
        first = container.add_stream(codec, rate=FPS)
        film = container.add_stream("libx264", rate=FPS)
        first.width, first.height = size
        film.width, film.height = WIDTH, HEIGHT
        first.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        film.pix_fmt = "yuv420p"
        for number in range(FRAMES):
            drawn = draw_frame({0: 10 * number})
            for stream in (first, film) if number < pictures else (film,):
                picture = np.asarray(drawn.resize((stream.width, stream.height)))
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame = frame.reformat(format=stream.pix_fmt)
                frame.pts = number
                frame.time_base = Fraction(1, FPS)
                container.mux(stream.encode(frame))
        for stream in (first, film):
            container.mux(stream.encode())
    return file


@pytest.mark.parametrize(
    ("name", "codec", "size", "pictures"),
    [
        # A cover, a poster that is larger than the film, and a small preview of the whole film.
        ("clip.mkv", "mjpeg", (96, 192), 1),
        ("clip.mp4", "mjpeg", (96, 192), 1),
        ("clip.mkv", "mjpeg", (1280, 960), 1),
        ("clip.mp4", "libx264", (1280, 960), 1),
        ("clip.mp4", "libx264", (160, 90), FRAMES),
        ("clip.ts", "libx264", (160, 90), FRAMES),
    ],
)
def test_the_film_is_read_and_not_the_picture_before_it(
    name, codec, size, pictures, tmp_path, caplog
):
    frames = frames_of(write_two_videos(tmp_path / name, codec, size, pictures))
    assert len(frames) == FRAMES
    assert f"has 2 videos, of which the one of {WIDTH}×{HEIGHT} pixels is read" in caplog.text
    assert {(frame.width, frame.height) for frame in frames} == {(WIDTH, HEIGHT)}


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), lambda stored: stored),
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((-1, 0, 0, -1), lambda stored: np.rot90(stored, 2)),
        ((0, 1, -1, 0), lambda stored: np.rot90(stored, -1)),
        ((0, -1, 1, 0), np.rot90),
        ((0, 1, 1, 0), lambda stored: stored.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda stored: np.rot90(stored, 2).swapaxes(0, 1)),
    ],
)
def test_a_clip_is_turned_and_mirrored_as_players_show_it(matrix, shown, tmp_path):
    # No two edges of the picture are alike.
    stored = np.asarray(draw_frame({0: 60})).copy()
    stored[:40, :80] = (250, 40, 40)
    file = write_video(tmp_path / "clip.mp4", [Image.fromarray(stored)] * 3)
    note_matrix(file, *matrix)
    frame = frames_of(file)[0]
    expected = shown(stored).astype(int)
    assert (frame.height, frame.width) == expected.shape[:2]
    assert np.abs(frame.pixels - expected).mean() < 4
    small = frame.resized(frame.width // 4, frame.height // 4, "rgb24")
    assert np.abs(small - expected[2::4, 2::4]).mean() < 8


def test_a_file_is_read_whatever_its_name_begins_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    video = write_video(tmp_path / "clip.mp4", [draw_frame({})] * FRAMES)
    for name in ("http:12.mp4", "concat:a|b.mp4", "clip%03d.mp4"):
        video.rename(name)
        assert len(frames_of(name)) == FRAMES
        video = tmp_path / name


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers with what the server has at the path, or leads to it."""

    def do_GET(self):
        self.server.asked.append(self.path)
        body = self.server.bodies.get(self.path)
        self.send_response(302 if self.path == "/redirect" else 200 if body else 404)
        if self.path == "/redirect":
            self.send_header("Location", body.decode())
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_):
        pass


@contextmanager
def serving(bodies):
    """Yield a web server, which remembers what it was asked for."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.bodies = bodies
    server.asked = []
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def playlists(url):
    """Return texts that name another address, by the name of their file."""
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n"
    return {
        "hls.m3u8": f"{hls}#EXTINF:5,\n{url}/a.ts\n#EXT-X-ENDLIST\n",
        "key.m3u8": f'{hls}#EXT-X-KEY:METHOD=AES-128,URI="{url}/key"\n#EXTINF:5,\n{url}/a.ts\n',
        "list.ffconcat": f"ffconcat version 1.0\nfile '{url}/a.ts'\n",
        "camera.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    }


@pytest.mark.parametrize("name", [*playlists(""), "redirect"])
def test_what_a_camera_answers_makes_no_one_else_be_asked(name, caplog):
    with serving({}) as other:
        body = playlists(other.url).get(name, f"{other.url}/a.ts").encode()
        with serving({f"/{name}": body}) as camera:
            settings = read_options({"camera": "c", "source": f"{camera.url}/{name}"})
            stop = threading.Event()
            stream = Stream(settings, stop)
            for _ in stream.frames():
                if stream.reconnects:
                    stop.set()
            assert camera.asked
        assert other.asked == []
    expected = "leads to another address" if name == "redirect" else "playlists"
    assert expected in caplog.text


@pytest.mark.parametrize("name", playlists(""))
@pytest.mark.parametrize("is_local", [False, True])
def test_a_file_that_names_others_opens_none(name, is_local, tmp_path):
    write_video(tmp_path / "a.ts", [draw_frame({})] * FRAMES)
    with serving({}) as other:
        text = playlists(other.url)[name]
        file = tmp_path / name
        file.write_text(text.replace(f"{other.url}/", "") if is_local else text)
        with pytest.raises(InvalidInput, match="not a playlist"):
            frames_of(file)
        assert other.asked == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("still.jpg", "no frame came; the address is that of a picture; name the address of a"),
        ("still.PNG", "no frame came; the address is that of a picture; name the address of a"),
        ("snapshot", "no frame came; the address is wrong, or sends a picture or no video"),
        (
            "hls.m3u8",
            r"no frame came; playlists \(HLS\) are not read; name the address of a stream",
        ),
        ("parts", "no frame came; the address is wrong, or sends a picture or no video"),
    ],
)
def test_an_address_that_sends_no_stream_has_no_wrong_password(name, said, tmp_path, monkeypatch):
    monkeypatch.setattr("gmn_camera.try_source.FIRST_FRAME_SECONDS", 2.0)
    picture = draw_frame({0: 60})
    bodies = {
        "still.jpg": encoded(picture, "JPEG"),
        "still.PNG": encoded(picture),
        "snapshot": encoded(picture),
        "hls.m3u8": playlists("http://127.0.0.1:9")["hls.m3u8"].encode(),
        "parts": b"no part has a boundary" * 1000,
    }
    with serving({f"/{name}": bodies[name]}) as camera:
        settings = read_options({"camera": "c", "source": f"{camera.url}/{name}"})
        with pytest.raises(InvalidInput, match=said) as refused:
            try_source(settings, 0.5, tmp_path / "seen.png")
    assert "password" not in str(refused.value)


def test_a_camera_at_an_http_address_is_read(tmp_path):
    video = write_video(tmp_path / "clip.ts", [draw_frame({})] * FRAMES)
    with serving({"/stream": video.read_bytes()}) as camera:
        settings = read_options({"camera": "c", "source": f"{camera.url}/stream"})
        stop = threading.Event()
        frames = Stream(settings, stop).frames()
        assert next(filter(None, frames)).width == WIDTH
        stop.set()
