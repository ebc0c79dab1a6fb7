"""Checks of a deployment, one step of the story each; all raise `Failed`."""

import re
import time

import httpx2

from tests.compose.deployment import Failed, read_json
from tests.compose.load import GALLERY, Load
from tests.conftest import draw_crop

FOLDER_CROPS = 60
LOAD_SECONDS = 6.0
BACKUP_SECONDS = 120.0
CAMERA_SECONDS = 120.0
# Inside the container of the cameras, so that it reaches its camera on any machine.
STREAM = "tcp://127.0.0.1:9000"
SEND_STREAM = """
import sys, time
from pathlib import Path
import av
from demo.camera import draw_clips
clip, _ = draw_clips(Path("/tmp"))
listening = f"{sys.argv[1]}?listen=1"
with av.open(listening, "w", format="mpegts") as sent, av.open(str(clip)) as drawn:
    video = drawn.streams.video[0]
    stream = sent.add_stream_from_template(video)
    began = time.monotonic()
    for packet in drawn.demux(video):
        if packet.dts is not None:
            due = began + float(packet.dts * packet.time_base)
            time.sleep(max(0.0, due - time.monotonic()))
            packet.stream = stream
            sent.mux(packet)
"""
SCRAPED = ("the service", "the cameras")
# Its cosine with itself, but for float32's last digits.
SAME_PICTURE = 0.9999


def enroll_here_and_query_there(it, kept):
    """Check that each process shows a version that the other one has acknowledged."""
    with it.processes() as (here, there):
        for person in range(5):
            image = draw_crop(person, 0, 0)
            version, crop_id = enroll(here, image, f"person {person}")
            kept.note(version, crop_id, image)
            answer = find(there, draw_crop(person, 0, 0), version)
            if answer["gallery_version"] < version or answer["results"][0]["crop_id"] != crop_id:
                raise Failed(f"the other did not show {crop_id} at version {version}: {answer}")
        version, crop_id = enroll(there, draw_crop(99, 0, 0), "somebody")
        read_json(there.delete(f"{GALLERY}/crops/{crop_id}"))
        found = find(here, draw_crop(99, 0, 0), 0)["results"]
        if crop_id in [result["crop_id"] for result in found]:
            raise Failed(f"one process returned {crop_id}, which another had deleted")
    it.say("5 crops enrolled in one process and found by another; one deleted there at once")


def import_a_folder(it, kept):
    """Import a folder by a job, as the guide does."""
    folder = it.folder / "crops"
    folder.mkdir()
    files = {}
    for person in range(100, 100 + FOLDER_CROPS):
        files[f"{person}.png"] = draw_crop(person, 0, 0)
        (folder / f"{person}.png").write_bytes(files[f"{person}.png"])
    it.do("import")
    with it.through_the_proxy() as http:
        jobs = read_json(http.get("/v1/jobs"))["results"]
        if jobs[0]["state"] != "done" or jobs[0]["progress"]["landed"] != FOLDER_CROPS:
            raise Failed(f"the import did not land: {jobs[0]}")
        version = _gallery(http)["version"]
        for file in files.values():
            found = find(http, file, version)["results"][0]
            kept.note(version, found["crop_id"], file)
    it.say(f"{FOLDER_CROPS} crops imported from a folder, each found")


def kill_each_in_turn(it, kept):
    """Kill processes under load: only requests in flight fail, and nothing is lost.

    Without Redis nothing fails at all.
    """
    kills = {"a process": it.kill_process, "the container": it.kill_container}
    for turn, (name, kill) in enumerate((kills | {"Redis": it.kill_redis}).items(), 1):
        with Load(it, kept, first_person=10_000_000 * turn) as load:
            time.sleep(LOAD_SECONDS)
            death = kill()
            back = it.until_ready()
            time.sleep(LOAD_SECONDS)
        account = load.account(death if name in kills else None)
        it.say(
            f"kill -9 of {name} under load, gone after {death.ended - death.began:.2f} s: "
            f"{account}; ready in {back:.1f} s"
        )
        compare_with(it, kept, f"after kill -9 of {name}")


def compare_with(it, kept, when):
    """Check that each process finds all acknowledged crops and no deleted one."""
    with it.processes() as processes:
        for http in processes:
            compare(http, kept, when)
    crops = len(kept.images)
    it.say(f"{when}: {crops} crops at each process, none lost, no deleted one there")


def compare(http, kept, when):
    """Check that a process finds all acknowledged crops and no deleted one."""
    listed = _list_crops(http)
    lost = kept.images.keys() - listed
    returned = kept.deleted & listed
    if lost or returned:
        raise Failed(f"{when}: lost {lost}, returned {returned}")
    for crop_id in list(kept.images)[:: max(1, len(kept.images) // 20)]:
        picture = http.get(f"{GALLERY}/crops/{crop_id}/image")
        if picture.content != kept.images[crop_id]:
            raise Failed(f"{when}: the picture of {crop_id} is another")
        found = find(http, picture.content, kept.version, top_k=10_000)["results"]
        likeness = {result["crop_id"]: result["cosine"] for result in found}.get(crop_id, 0.0)
        if likeness < SAME_PICTURE:
            raise Failed(f"{when}: {crop_id} is not found: {likeness}")


def replace_under_load(it, kept):
    """Upgrade as the guide does: the versions serve beside each other, and no request fails."""
    version = it.compose("exec", "-T", "service", "gmn", "--version").strip()
    it.change("pyproject.toml", 'version = "', 'version = "9.')
    it.set(IMAGE_TAG="compose-test-next")
    with Load(it, kept, first_person=50_000_000) as load:
        it.do("start the next version")
        it.until_ready(containers=2)
        time.sleep(LOAD_SECONDS)
        it.do("stop the former version")
        time.sleep(LOAD_SECONDS)
    it.settle()
    it.until_ready()
    newer = it.compose("exec", "-T", "service", "gmn", "--version").strip()
    it.say(f"{version} replaced by {newer} under load: {load.account()}")
    compare_with(it, kept, f"after the upgrade from {version} to {newer}")


def redis_goes_away(it, kept):
    """Check that each process enrolls, finds and deletes without Redis."""
    it.compose("stop", "redis")
    with it.processes() as processes:
        for number, http in enumerate(processes):
            image = draw_crop(7_000_000 + number, 0, 0)
            version, crop_id = enroll(http, image, "anybody")
            kept.note(version, crop_id, image)
            if find(http, image, version)["results"][0]["crop_id"] != crop_id:
                raise Failed(f"without Redis {crop_id} is not found")
            deleted = kept.take()
            if deleted is None:
                raise Failed("there is nothing to delete")
            kept.note(read_json(http.delete(f"{GALLERY}/crops/{deleted}"))["gallery_version"])
            kept.deleted.add(deleted)
    it.compose("start", "redis")
    it.say("Redis stopped: each process enrolled, found and deleted as before")
    compare_with(it, kept, "after Redis was away")


def watch_cameras(it):
    """Check that the container of the cameras sends the people of a stream by its own key."""
    with (it.folder / "docker" / "secrets" / "cameras").open("a", encoding="utf-8") as file:
        file.write(f'[camera.gate]\nsource = "{STREAM}"\n')
    it.do("watch cameras")
    sent = ("exec", "-T", "camera", "python", "-c", SEND_STREAM, STREAM)
    it.compose("--profile", "camera", *sent)
    until = time.monotonic() + CAMERA_SECONDS
    with it.through_the_proxy() as http:
        while True:
            heard = read_json(http.get("/v1/cameras"))["results"]
            if any(camera["crops"] for camera in heard):
                break
            if time.monotonic() > until:
                raise Failed(f"the service got no crop of the camera: {heard}")
            time.sleep(1)
    (camera,) = heard
    if (camera["key_id"], camera["camera"]) != ("camera", "gate") or not camera["heartbeat"]:
        raise Failed(f"the service hears another camera: {camera}")
    it.say(f"the container of the cameras sent {camera['crops']} crops of a stream by its own key")


def watch_with_prometheus(it):
    """Check that Prometheus scrapes the service and the cameras, and has loaded its rules."""
    it.do("monitor")
    until = time.monotonic() + 120
    with httpx2.Client(base_url=it.prometheus, timeout=10) as http:
        while True:
            try:
                up = http.get("/api/v1/query", params={"query": "up == 1"})
                # While it starts it answers 503, as text.
                if up.is_success and len(up.json()["data"]["result"]) == len(SCRAPED):
                    break
            except httpx2.TransportError:
                pass
            if time.monotonic() > until:
                raise Failed("Prometheus does not see the service and the cameras")
            time.sleep(1)
        groups = http.get("/api/v1/rules").json()["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        broken = [rule["name"] for rule in rules if rule["health"] == "err"]
        if not rules or broken:
            raise Failed(f"Prometheus cannot evaluate {broken or 'any rule'}")
        receivers = http.get("/api/v1/alertmanagers").json()["data"]["activeAlertmanagers"]
        if len(receivers) != 1:
            raise Failed("Prometheus does not know the Alertmanager")
    it.say(
        f"Prometheus reads the service and the cameras, with {len(rules)} alerts for Alertmanager"
    )
    it.do("stop monitoring")


def train_and_reindex(it, kept):
    """Train a new model as in the guide, serve it beside the old one, and reindex all galleries."""
    people = it.folder / "datasets"
    people.mkdir()
    rows = ["path,identity,camera"]
    for person in range(24):
        for shot in range(4):
            name = f"{person}-{shot}.png"
            (people / name).write_bytes(draw_crop(50_000 + person, shot % 2, shot))
            rows.append(f"{name},{person},{'east' if shot % 2 else 'west'}")
    (people / "people.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    with it.through_the_proxy() as http:
        before = read_json(http.get("/v1/model"))["embedding_fingerprint"]
    it.do("train")
    it.do("serve the new model")
    it.until_ready()
    with it.through_the_proxy() as http:
        if _gallery(http)["state"] != "previous_model":
            raise Failed(f"the old model does not answer: {_gallery(http)}")
        find(http, next(iter(kept.images.values())), 0)
    it.do("reindex")
    with it.through_the_proxy() as http:
        gallery = _gallery(http)
        after = read_json(http.get("/v1/model"))["embedding_fingerprint"]
        if gallery["embedding_fingerprint"] != after or after == before:
            raise Failed(f"the gallery was not taken over: {gallery}, from {before} to {after}")
        kept.note(gallery["version"])
    it.say(f"model {before[:12]} replaced by {after[:12]}, the gallery reindexed")
    compare_with(it, kept, "after the reindex")


def back_up(it, kept):
    """Back up twice: a restore of the first backup has nothing that was deleted in between."""
    it.do("back up")
    with it.through_the_proxy() as http:
        crop_id = kept.take()
        if crop_id is None:
            raise Failed("there is nothing to delete")
        gone = read_json(http.delete(f"{GALLERY}/crops/{crop_id}"))
        kept.note(gone["gallery_version"])
        kept.deleted.add(crop_id)
    it.compose("exec", "-T", "service", "gmn", "backup", "/backups")
    with it.processes() as processes:
        for http in processes:
            shown = http.get("/metrics").text
            times = re.findall(r"^gmn_backup_last_time_seconds (\S+)$", shown, re.MULTILINE)
            if not times or time.time() - float(times[0]) > BACKUP_SECONDS:
                raise Failed(f"a process does not show the age of the last backup: {times}")
    it.say("two backups, with a deletion between them; each process shows the age of the last one")


def enroll(http, image, identity):
    """Enroll a crop, and return the version of the gallery and the crop's id."""
    answer = http.post(
        f"{GALLERY}/crops",
        files={"images": ("crop.png", image)},
        data={"identity": identity, "camera": "door"},
    )
    enrolled = read_json(answer, 201)
    return enrolled["gallery_version"], enrolled["results"][0]["crop_id"]


def ask(http, image, version=0, top_k=20):
    return http.post(
        f"{GALLERY}/queries",
        files={"images": ("crop.png", image)},
        data={"min_version": str(version), "top_k": str(top_k), "scoring": "cosine"},
    )


def find(http, image, version, top_k=20):
    """Return the answer to a query by an image."""
    return read_json(ask(http, image, version, top_k))


def _gallery(http):
    return read_json(http.get(GALLERY))


def _list_crops(http):
    found = set()
    cursor = None
    while True:
        asked = {"limit": "1000"} | ({"cursor": cursor} if cursor else {})
        page = read_json(http.get(f"{GALLERY}/crops", params=asked))
        found |= {crop["crop_id"] for crop in page["results"]}
        cursor = page["next_cursor"]
        if cursor is None:
            return found
