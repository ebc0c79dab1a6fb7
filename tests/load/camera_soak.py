"""`make camera-soak`: a camera whose stream is cut and whose service is killed, again and again.

Usage: python -m tests.load.camera_soak [--clip phone.mp4] [--minutes 60] [--outages 20]

Each outage takes six seconds. The service has to accept every crop that the camera's program chose
and to store none, and the memory of the program must not grow. The figures go to
`runs/camera.json`.
"""

import argparse
import contextlib
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2

from gmn_client import Client
from tests.camera.drawn_videos import sending, walk, write_video
from tests.load.growth import FEWEST
from tests.load.run import report
from tests.load.soak import WARM_UP, judge_growth, sampled
from tests.outside import free_port
from tests.service.conftest import Served

ROOT = Path(__file__).parents[2]
OUTAGE_SECONDS = 6.0
# A camera is looked for every second or two, and its first key frame has to come.
BACK_SECONDS = 60.0
STOP_SECONDS = 30.0
SAMPLES_EVERY_SECONDS = 5.0
ENDED = re.compile(
    r"ended; frames (\d+), tracks (\d+), "
    r"crops (\d+): (\d+) accepted, (\d+) refused, (\d+) dropped"
)
COUNTS = ("frames", "tracks", "crops", "accepted", "refused", "dropped")


class WatchedCamera:
    """`gmn camera run` of a stream."""

    def __init__(self, address, url, log):
        """Start it."""
        self.log = log
        self._port = free_port()
        command = [sys.executable, str(ROOT / "gmn.py"), "camera", "run", address]
        command += ["--camera", "gate", "--url", url, "--metrics", str(self._port)]
        with log.open("wb") as errors:
            self.program = subprocess.Popen(command, stderr=errors)

    @property
    def process(self):
        """The process that watches the camera, a child of the program."""
        children = Path(f"/proc/{self.program.pid}/task/{self.program.pid}/children")
        for child in children.read_text().split():
            if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
                return int(child)
        raise ProcessLookupError("the process of the camera has not started, or has ended")

    @property
    def cpu_seconds(self):
        fields = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def figure(self, name):
        """Return a metric of the camera; None while it is unknown."""
        with contextlib.suppress(httpx2.TransportError):
            shown = httpx2.get(f"http://127.0.0.1:{self._port}/metrics", timeout=5.0).text
            if found := re.search(rf"^gmn_camera_{name}{{.*}} (\S+)$", shown, re.MULTILINE):
                return float(found[1])
        return None

    def wait_for_frames(self, seconds=BACK_SECONDS):
        """Wait until a frame is newer than this call, and return how long that took."""
        began = time.monotonic()
        while (age := self.figure("frame_age_seconds")) is None or (age > time.monotonic() - began):
            if time.monotonic() - began > seconds:
                raise TimeoutError(f"no frame within {seconds:.0f} s: {self.log.read_text()}")
            time.sleep(0.1)
        return time.monotonic() - began - age

    def stop(self):
        """Return the exit status, and what the program says that it did."""
        self.program.send_signal(signal.SIGTERM)
        status = self.program.wait(STOP_SECONDS)
        if (found := ENDED.search(self.log.read_text())) is None:
            return status, None
        return status, dict(zip(COUNTS, map(int, found.groups()), strict=True))


def soak(video, folder, artefact, seconds, outages):
    """Return what was measured, with violations under `wrong`.

    Args:
        outages: how often the stream is cut, and how often the service is killed.
    """
    port = free_port()
    back_s = []
    load = []

    def serve():
        # A measured runtime would take a restart longer.
        runtime = {"runtime": "openvino", "dtype": "float32"}
        settings = {"artefact": artefact, "data_dir": folder / "data", "port": port, **runtime}
        return Served(folder / "log", forked=False, **settings)

    served = serve()
    client = Client(str(served.http.base_url))
    camera = None
    try:
        with sending(video) as stream:
            camera = WatchedCamera(stream.address, client.url, folder / "camera.log")
            camera.wait_for_frames()
            pause = seconds / (2 * outages)
            every = min(SAMPLES_EVERY_SECONDS, seconds * (1 - WARM_UP) / (2 * FEWEST))
            began = time.monotonic()
            used = camera.cpu_seconds
            with sampled(camera.process, every) as samples:
                for number in range(2 * outages):
                    due = began + pause * (number + 0.5)
                    time.sleep(max(0.0, due - time.monotonic()))
                    load.append(os.getloadavg()[0])
                    if number % 2:
                        served.kill()
                        time.sleep(OUTAGE_SECONDS)
                        served = serve()
                    else:
                        stream.cut()
                        time.sleep(OUTAGE_SECONDS)
                        stream.mend()
                        back_s.append(camera.wait_for_frames())
                time.sleep(max(0.0, began + seconds - time.monotonic()))
            took = time.monotonic() - began
            used = camera.cpu_seconds - used
            status, counts = camera.stop()
        stored = sum(gallery.crops for gallery in client.galleries())
    finally:
        client.close()
        if camera is not None and camera.program.poll() is None:
            camera.program.kill()
            camera.program.wait()
        served.kill()
    figures, wrong = judge_growth(samples)
    if status != 0 or counts is None:
        wrong.append(f"the camera ended with status {status}")
    elif not counts["crops"] == counts["accepted"] > 0:
        wrong.append(f"not every crop was accepted: {counts}")
    if stored:
        wrong.append(f"{stored} crops were stored")
    return {
        "minutes": round(took / 60, 2),
        "outages": outages,
        **(counts or {}),
        "back_s": {"median": round(statistics.median(back_s), 2), "slowest": round(max(back_s), 2)},
        "cores": round(used / took, 3),
        "load_average": round(statistics.median(load), 1),
        **figures,
        "wrong": wrong,
    }


def main():
    """Serve, watch, break and judge; return the exit status."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--clip", type=Path, help="a video with people; drawn unless given")
    options.add_argument("--artefact", default="small")
    options.add_argument("--minutes", type=float, default=60.0)
    options.add_argument("--outages", type=int, default=20)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="gmn-camera-") as name:
        folder = Path(name)
        clip = asked.clip or write_video(folder / "clip.mp4", walk([0, 1, 2], 8))
        measured = soak(clip, folder, asked.artefact, asked.minutes * 60, asked.outages)
    return report(measured, "camera.json")


if __name__ == "__main__":
    sys.exit(main())
