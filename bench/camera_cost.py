"""Processor time that `gmn camera` takes for a second of video, of checkouts beside each other.

`python -m bench.camera_cost CLIP FOLDER --checkout OTHER` looks at three videos by `gmn camera
try`: the clip; the clip as a camera of 1920×1080 pixels sends it; and its first frame, which has to
show nobody, as such a camera sends it by night. They are written to FOLDER, if they are not there.
The checkouts take turns, this one first.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import av
import numpy as np
import typer

from gmn_camera.frame import Pixels

WIDTH = 1920
HEIGHT = 1080
FPS = 25
BITS_A_SECOND = 4_000_000
# Standard deviations of the noise of a brightness, of 255.
NOISE_BY_DAY = 2.0
NOISE_BY_NIGHT = 8.0
NOISE_PICTURES = 6
SEED = 17
EMPTY_SECONDS = 60
THIS_CHECKOUT = Path(__file__).parent.parent


def scaled_frames(clip: Path) -> Iterator[tuple[float, Pixels]]:
    """Yield the time of each frame in seconds, and its planes in YUV 4:2:0 `(1620, 1920)`."""
    with av.open(str(clip)) as container:
        for frame in container.decode(video=0):
            if frame.time is not None:
                planes = frame.to_ndarray(width=WIDTH, height=HEIGHT, format="yuv420p")
                yield frame.time, planes.astype(np.uint8, copy=False)


def at_camera_rate(frames: Iterable[tuple[float, Pixels]]) -> Iterator[Pixels]:
    """Repeat or leave out frames, so that there are 25 a second."""
    written = 0
    for seconds, planes in frames:
        while written <= seconds * FPS:
            yield planes
            written += 1


def write_as_camera(file: Path, frames: Iterable[Pixels], noise: float) -> None:
    """Write frames `(1620, 1920)` with noise as a camera does: a stream without B-frames."""
    generator = np.random.default_rng(SEED)
    noises = [
        generator.normal(0.0, noise, (HEIGHT, WIDTH)).round().astype(np.int16)
        for _ in range(NOISE_PICTURES)
    ]
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width = WIDTH
        stream.height = HEIGHT
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = BITS_A_SECOND
        stream.options = {"preset": "superfast", "tune": "zerolatency"}
        stream.gop_size = 2 * FPS
        for number, planes in enumerate(frames):
            noisy = planes.copy()
            # The noise of each frame is shifted, so that no two frames have the same.
            shifted = np.roll(noises[number % NOISE_PICTURES], 7 * number, axis=1)
            noisy[:HEIGHT] = np.clip(planes[:HEIGHT] + shifted, 0, 255)
            frame = av.VideoFrame.from_ndarray(noisy, "yuv420p")
            frame.pts = number
            frame.time_base = Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_videos(clip: Path, folder: Path) -> dict[str, Path]:
    """Write the videos that are missing, and return the file of each by its name."""
    people = folder / "people.mp4"
    if not people.is_file():
        write_as_camera(people, at_camera_rate(scaled_frames(clip)), NOISE_BY_DAY)
    empty = folder / "empty.mp4"
    if not empty.is_file():
        _, scene = next(scaled_frames(clip))
        write_as_camera(empty, [scene] * (EMPTY_SECONDS * FPS), NOISE_BY_NIGHT)
    return {"clip": clip, "people, 1920×1080": people, "nobody, 1920×1080": empty}


def try_video(checkout: Path, video: Path) -> dict[str, Any]:
    """Return what `gmn camera try --json` of a checkout says of a video."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(checkout / "gmn.py"), "camera", "try", str(video), "--json"]
        ran = subprocess.run(
            [*command, "--out", f"{folder}/picture.png"],
            env={**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            check=True,
        )
    tried: dict[str, Any] = json.loads(ran.stdout)
    return tried


def summarise(trials: list[dict[str, Any]]) -> dict[str, Any]:
    cores = [
        tried["cpu_milliseconds"] * tried["frames"] / 1000 / tried["seconds"] for tried in trials
    ]
    first = trials[0]
    return {
        "cores": round(statistics.median(cores), 3),
        "least": round(min(cores), 3),
        "most": round(max(cores), 3),
        "tracks": len(first["tracks"]),
        "tracks_with_crops": sum(track["crops"] > 0 for track in first["tracks"]),
        "crops": first["crops"],
    }


def main(
    clip: Path,
    folder: Path,
    checkout: Annotated[list[Path] | None, typer.Option()] = None,
    rounds: int = 3,
) -> None:
    """Print the figures of each video and checkout as a line of JSON.

    Args:
        clip: a video of people who walk past; its first frame shows nobody.
        folder: gets the videos; they show the people of the clip.
        checkout: further checkouts of this project.
        rounds: how often each checkout looks at each video.
    """
    checkouts = [THIS_CHECKOUT, *(checkout or [])]
    for name, video in write_videos(clip, folder).items():
        trials: dict[Path, list[dict[str, Any]]] = {each: [] for each in checkouts}
        for _ in range(rounds):
            for each in checkouts:
                trials[each].append(try_video(each, video))
        for each in checkouts:
            row = {"video": name, "checkout": str(each), **summarise(trials[each])}
            typer.echo(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    typer.run(main)
