"""`gmn camera run`: from a file or a stream to a real service."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from PIL import Image

from tests.camera.drawn_videos import HEIGHT, WIDTH, sending, walk, write_video
from tests.outside import free_port, run_command
from tests.service.watch_places import alerts, arm
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
PEOPLE = (0, 1)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Return a video in which two drawn people walk past, one after the other."""
    return write_video(tmp_path_factory.mktemp("videos") / "walk.mp4", walk(PEOPLE, 3))


@pytest.fixture(scope="module")
def watching(start):
    """Return a service whose cameras this file alone runs."""
    return start()


def command(*arguments):
    return [sys.executable, "-m", "gmn", "camera", "run", *map(str, arguments)]


def environment(served, **more):
    url = str(served.http.base_url).rstrip("/")
    return os.environ | {"GMN_URL": url, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | more


def run(served, folder, *arguments, **more):
    """Run the program to its end."""
    return run_command(*command(*arguments), env=environment(served, **more), cwd=folder)


@contextlib.contextmanager
def running(served, folder, *arguments, **more):
    """Yield the program while it runs; it writes its log to `log` in the folder."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command(*arguments), env=environment(served, **more), cwd=folder, stderr=log
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                process.kill()
                process.wait()


def chosen(log):
    """Return how many crops were chosen, accepted, refused and dropped, by the last line."""
    found = re.search(r"crops (\d+): (\d+) accepted, (\d+) refused, (\d+) dropped\n$", log)
    assert found, log
    return tuple(map(int, found.groups()))


def camera_of(served, name):
    """Return a camera as the service lists it; None before it was heard."""
    cameras = [camera for camera in served.results("/v1/cameras") if camera["camera"] == name]
    return cameras[0] if cameras else None


def counted(served, name):
    """Return how many crops and tracks of a camera the service has counted so far."""
    camera = camera_of(served, name) or {"crops": 0, "tracks": 0}
    return camera["crops"], camera["tracks"]


def children_of(process):
    """Return the ids of the processes of the cameras."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [
        int(child)
        for child in listed
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def has_ended(process_id):
    with contextlib.suppress(OSError):
        return "\nState:\tZ" in Path(f"/proc/{process_id}/status").read_text()
    return True


# It starts a service of its own, for which the artefact is drawn first.
@pytest.mark.promise("camera-stores")
@pytest.mark.timeout(600)
def test_a_run_of_a_file_stores_nothing_anywhere(start, video, tmp_path):
    served = start(data_dir=tmp_path / "data")
    temporary = tmp_path / "temporary"
    work = tmp_path / "work"
    for folder in (temporary, work):
        folder.mkdir()
    ran = run(served, work, video, "--camera", "gate", TMPDIR=str(temporary))
    assert ran.returncode == 0, ran.stderr
    crops, accepted, refused, dropped = chosen(ran.stderr)
    assert crops >= len(PEOPLE)
    assert (accepted, refused, dropped) == (crops, 0, 0)
    eventually(lambda: counted(served, "gate") == (crops, len(PEOPLE)))
    assert [gallery["crops"] for gallery in served.results("/v1/galleries")] == [0]
    assert list(temporary.iterdir()) == list(work.iterdir()) == []
    served.stop()
    stored = [file for file in (tmp_path / "data").rglob("*") if file.is_file()]
    assert stored
    for file in stored:
        # The first bytes of a JPEG and of its first segment.
        assert b"\xff\xd8\xff\xe0" not in file.read_bytes(), file


@pytest.mark.promise("camera-stores")
def test_a_gallery_that_keeps_everybody_for_ever_is_refused(watching, video, tmp_path):
    watching.create("for-ever")
    ran = run(watching, tmp_path, video, "--camera", "door", "--enroll", "for-ever")
    assert ran.returncode == 2
    assert "'for-ever' would keep everybody whom the camera sees" in ran.stderr
    assert "gmn gallery set for-ever --retention-days 30" in ran.stderr
    assert watching.read("/v1/galleries/for-ever")["crops"] == 0


def test_enrolled_people_are_named_and_ring_when_they_come_again(watching, video, tmp_path):
    watching.create("hall", retention_days=30)
    ran = run(watching, tmp_path, video, "--camera", "hall", "--enroll", "hall")
    assert ran.returncode == 0, ran.stderr
    crops, accepted, _, _ = chosen(ran.stderr)
    assert accepted == crops
    stored = watching.results("/v1/galleries/hall/crops")
    assert len(stored) == crops
    assert {(crop["camera"], crop["identity"]) for crop in stored} == {("hall", None)}
    tracks = {crop["track"] for crop in stored}
    assert len(tracks) == len(PEOPLE)
    watching.create("list")
    for track in sorted(tracks):
        for crop in stored:
            if crop["track"] == track:
                picture = watching.http.get(f"/v1/galleries/hall/crops/{crop['crop_id']}/image")
                watching.enrolled("list", picture.content, identity=track)
    arm(watching, "list", budget="30")
    again = run(watching, tmp_path, video, "--camera", "gate")
    assert again.returncode == 0, again.stderr
    eventually(lambda: {alert["camera"] for alert in alerts(watching)} >= {"gate"})


def test_a_wrong_key_ends_the_run(start, video, tmp_path):
    served = start()
    served.make_key("admin")
    ran = run(served, tmp_path, video, "--camera", "gate", GMN_API_KEY="gmn_wrong")
    assert ran.returncode == 2
    assert "gmn reads GMN_API_KEY" in ran.stderr


def test_the_key_of_a_file_takes_the_place_of_that_in_the_environment(start, video, tmp_path):
    served = start()
    _, admin = served.make_key("admin")
    _, header = served.make_key("sight", headers=admin)
    key = tmp_path / "camera_key"
    key.write_text(header["Authorization"].removeprefix("Bearer ") + "\n")
    options = (video, "--camera", "gate", "--api-key-file", key)
    ran = run(served, tmp_path, *options, GMN_API_KEY="gmn_wrong")
    assert ran.returncode == 0, ran.stderr
    assert chosen(ran.stderr)[1] > 0


def test_a_stream_is_watched_until_sigterm(watching, video, tmp_path):
    metrics = free_port()
    with sending(video) as stand_in:
        options = (stand_in.address, "--camera", "yard", "--metrics", metrics)
        with running(watching, tmp_path, *options) as process:
            eventually(lambda: (counted(watching, "yard"))[1] >= 2)
            heartbeat = camera_of(watching, "yard")["heartbeat"]
            assert heartbeat["state"] in ("ok", "no_frames")
            with urlopen(f"http://127.0.0.1:{metrics}/metrics") as answer:
                page = answer.read().decode()
            assert re.search(r'^gmn_camera_sent_total\{camera="yard"\} [1-9]', page, re.MULTILINE)
            assert 'gmn_camera_frame_age_seconds{camera="yard"}' in page
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    crops, accepted, refused, dropped = chosen((tmp_path / "log").read_text())
    assert (accepted, refused, dropped) == (crops, 0, 0)


def test_a_stream_sends_the_still_that_is_asked_for_and_uses_the_zones_of_the_service(
    watching, video, tmp_path
):
    porch = "/v1/cameras/porch"
    # The service knows the camera already.
    watching.http.post(f"{porch}/heartbeat", data={"state": "ok"})
    assert watching.http.post(f"{porch}/still").status_code == 202
    nowhere = "0,0 0.01,0 0.01,0.01 0,0.01"
    assert watching.http.put(f"{porch}/zones", data={"zones": nowhere}).status_code == 204
    with (
        sending(video) as stand_in,
        running(watching, tmp_path, stand_in.address, "--camera", "porch"),
    ):
        eventually(lambda: watching.http.get(f"{porch}/still").status_code == 200)
    still = watching.http.get(f"{porch}/still").content
    assert Image.open(io.BytesIO(still)).size == (WIDTH, HEIGHT)
    log = (tmp_path / "log").read_text()
    assert "the zones drawn in the service are used: 1" in log
    assert "was sent, as an administrator asked" in log
    assert counted(watching, "porch") == (0, 0)


@pytest.mark.promise("camera-again")
def test_a_camera_whose_process_dies_is_watched_again_and_the_others_go_on(
    watching, video, tmp_path
):
    with sending(video) as first, sending(video) as second:
        (tmp_path / "cameras.toml").write_text(
            f'[camera.first]\nsource = "{first.address}"\n'
            f'[camera.second]\nsource = "{second.address}"\n'
        )
        with running(watching, tmp_path, "--config", "cameras.toml") as process:
            eventually(lambda: all(counted(watching, name)[0] for name in ("first", "second")))
            before = children_of(process)
            assert len(before) == 2
            os.kill(before[0], signal.SIGKILL)
            eventually(
                lambda: len(children_of(process)) == 2 and before[0] not in children_of(process)
            )
            assert before[1] in children_of(process)
            crops = counted(watching, "first")[0]
            eventually(lambda: counted(watching, "first")[0] > crops)
            assert process.poll() is None
    assert "the process of first ended with status -9" in (tmp_path / "log").read_text()


@pytest.mark.promise("camera-again")
def test_cameras_end_with_the_program_even_if_it_is_killed(watching, video, tmp_path):
    with (
        sending(video) as stand_in,
        running(watching, tmp_path, stand_in.address, "--camera", "roof") as process,
    ):
        eventually(lambda: counted(watching, "roof")[0])
        (child,) = children_of(process)
        process.kill()
        process.wait()
        eventually(lambda: has_ended(child))
