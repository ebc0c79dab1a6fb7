"""What has to be so of a deployment, one step of the story each; all raise `Failed`."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx

from tests.compose.deployment import Deployment, Failed, read_json
from tests.compose.drawn import drawn_person
from tests.compose.load import GALLERY, Kept, Load

FOLDER_CROPS = 60
LOAD_SECONDS = 6.0
BACKUP_SECONDS = 120.0
# Its cosine with itself, but for float32's last digits.
SAME_PICTURE = 0.9999


def enrol_here_and_query_there(it: Deployment, kept: Kept) -> None:
    """What one replica acknowledged, the other shows when it is asked for that version."""
    with it.replica(1) as here, it.replica(2) as there:
        for person in range(5):
            image = drawn_person(person, 0)
            version, crop_id = _enrol(here, image, f"person {person}")
            kept.note(version, crop_id, image)
            answer = _query(there, drawn_person(person, 0), version)
            if answer["gallery_version"] < version or answer["results"][0]["crop_id"] != crop_id:
                raise Failed(f"replica 2 did not show {crop_id} at version {version}: {answer}")
        version, crop_id = _enrol(there, drawn_person(99, 0), "somebody")
        gone = read_json(there.delete(f"{GALLERY}/crops/{crop_id}"))
        found = _query(here, drawn_person(99, 0), gone["gallery_version"])["results"]
        if crop_id in [one["crop_id"] for one in found]:
            raise Failed(f"replica 1 returned {crop_id}, which replica 2 had deleted")
    it.say("5 crops enrolled at replica 1 and found at replica 2 by min_version; one deleted too")


def import_a_folder(it: Deployment, kept: Kept) -> None:
    """The guide's import of a folder, by a job."""
    folder = it.folder / "crops"
    folder.mkdir()
    files = {}
    for person in range(100, 100 + FOLDER_CROPS):
        files[f"{person}.png"] = drawn_person(person, 0)
        (folder / f"{person}.png").write_bytes(files[f"{person}.png"])
    it.do("import")
    with it.through_the_proxy() as http:
        jobs = read_json(http.get("/v1/jobs"))["results"]
        if jobs[0]["state"] != "done" or jobs[0]["progress"]["landed"] != FOLDER_CROPS:
            raise Failed(f"the import did not land: {jobs[0]}")
        version = _gallery(http)["version"]
        for file in files.values():
            found = _query(http, file, version)["results"][0]
            kept.note(version, found["crop_id"], file)
    it.say(f"{FOLDER_CROPS} crops imported from a folder, each found")


def kill_each_in_turn(it: Deployment, kept: Kept, replicas: int) -> None:
    """`kill -9` under load: nothing fails but what was in flight, and nothing is lost."""
    turns = [(f"replica {number}", number) for number in range(1, replicas + 1)]
    for turn, (name, number) in enumerate([*turns, ("Redis", 0)]):
        with Load(it, kept, first_person=10_000_000 * (turn + 1)) as load:
            time.sleep(LOAD_SECONDS)
            death = it.kill_replica(number) if number else it.kill_redis()
            back = it.until_ready(replicas)
            time.sleep(LOAD_SECONDS)
        it.say(
            f"kill -9 of {name} under load, gone after {death.ended - death.began:.2f} s: "
            f"{load.account(death)}; ready in {back:.1f} s"
        )
        compare_with(it, kept, replicas, f"after kill -9 of {name}")


def compare_with(it: Deployment, kept: Kept, replicas: int, when: str) -> None:
    """Every replica has what was acknowledged and nothing that was deleted, and finds it."""
    for number in range(1, replicas + 1):
        with it.replica(number) as http:
            listed = _list_crops(http)
            lost = kept.images.keys() - listed
            returned = kept.deleted & listed
            if lost or returned:
                raise Failed(f"{when}, replica {number}: lost {lost}, returned {returned}")
            for crop_id in list(kept.images)[:: max(1, len(kept.images) // 20)]:
                picture = http.get(f"{GALLERY}/crops/{crop_id}/image")
                if picture.content != kept.images[crop_id]:
                    raise Failed(f"{when}, replica {number}: the picture of {crop_id} is another")
                found = _query(http, picture.content, kept.version, top_k=10_000)["results"]
                likeness = {one["crop_id"]: one["cosine"] for one in found}.get(crop_id, 0.0)
                if likeness < SAME_PICTURE:
                    raise Failed(f"{when}, replica {number}: {crop_id} is not found: {likeness}")
    it.say(f"{when}: {len(kept.images)} crops at each replica, none lost, no deleted one there")


def redis_goes_away(it: Deployment, kept: Kept, replicas: int, seconds: float = 60.0) -> None:
    """A minute without Redis: queries go on, writes are told when to ask again, all by itself."""
    it.compose("stop", "redis")
    until = time.monotonic() + seconds
    answered = 0
    refused = 0
    crop_id, image = next(iter(kept.images.items()))
    while time.monotonic() < until:
        for number in range(1, replicas + 1):
            with it.replica(number) as http:
                answer = _query(http, image, 0)
                if crop_id not in [one["crop_id"] for one in answer["results"]]:
                    raise Failed(f"without Redis, replica {number} does not find {crop_id}")
                if not answer.get("stale"):
                    raise Failed(f"without Redis, replica {number} does not say so: {answer}")
                answered += 1
        with it.through_the_proxy() as http:
            told = _send(http, drawn_person(7_000_000, 0), "nobody")
            if told.status_code != 503 or "retry-after" not in told.headers:
                raise Failed(f"without Redis an enrolment was {told.status_code} {told.text[:300]}")
            refused += 1
        time.sleep(1)
    it.compose("start", "redis")
    began = time.monotonic()
    with it.through_the_proxy() as http:
        while (told := _send(http, drawn_person(7_000_000, 0), "nobody")).status_code == 503:
            if time.monotonic() - began > 120:
                raise Failed(f"after Redis came back: {told.text[:300]}")
            time.sleep(0.5)
        answer = read_json(told, 201)
        kept.note(
            answer["gallery_version"], answer["results"][0]["crop_id"], drawn_person(7_000_000, 0)
        )
    it.say(
        f"Redis stopped for {seconds:.0f} s: {answered} queries answered from memory, {refused} "
        f"enrolments told to ask again; enrolling {time.monotonic() - began:.1f} s after its start"
    )
    # Each replica finds by itself that Redis is back.
    for number in range(1, replicas + 1):
        with it.replica(number) as http:
            while read_json(http.get("/readyz"))["record"]["state"] != "in_step":
                if time.monotonic() - began > 120:
                    raise Failed(f"after Redis came back, replica {number} does not follow it")
                time.sleep(0.5)
    compare_with(it, kept, replicas, "after Redis was away")


def redis_fills_up(it: Deployment, kept: Kept) -> None:
    """A full Redis refuses enrolments and goes on with the rest; more memory is enough."""
    it.do("look at Redis")
    it.redis("CONFIG", "SET", "maxmemory", "1")
    with it.through_the_proxy() as http:
        image = drawn_person(8_000_000, 0)
        told = _send(http, image, "nobody")
        if told.status_code != 507:
            raise Failed(f"a full Redis answered an enrolment with {told.status_code} {told.text}")
        version = _gallery(http)["version"]
        crop_id = kept.take()
        if crop_id is None:
            raise Failed("there is nothing to delete")
        _query(http, drawn_person(100, 0), version)
        gone = read_json(http.delete(f"{GALLERY}/crops/{crop_id}"))
        kept.note(gone["gallery_version"])
        kept.deleted.add(crop_id)
        it.do("more memory")
        answer = read_json(_send(http, image, "nobody"), 201)
        kept.note(answer["gallery_version"], answer["results"][0]["crop_id"], image)
    it.say("Redis full: an enrolment 507, a query and a deletion done; enrolled after more memory")


def watch_with_prometheus(it: Deployment, replicas: int) -> None:
    """Prometheus asks every replica, and its rules are loaded."""
    it.do("monitor")
    until = time.monotonic() + 120
    with httpx.Client(base_url=it.prometheus, timeout=10) as http:
        while True:
            try:
                up = http.get("/api/v1/query", params={"query": 'up{job="gmn"} == 1'})
                # While it starts it answers 503, as text.
                if up.is_success and len(up.json()["data"]["result"]) == replicas:
                    break
            except httpx.TransportError:
                pass
            if time.monotonic() > until:
                raise Failed("Prometheus does not see both replicas")
            time.sleep(1)
        groups = http.get("/api/v1/rules").json()["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        broken = [rule["name"] for rule in rules if rule["health"] == "err"]
        if not rules or broken:
            raise Failed(f"Prometheus cannot evaluate {broken or 'any rule'}")
        receivers = http.get("/api/v1/alertmanagers").json()["data"]["activeAlertmanagers"]
        if len(receivers) != 1:
            raise Failed("Prometheus does not know the Alertmanager")
    it.say(f"Prometheus reads {replicas} replicas, with {len(rules)} alerts for Alertmanager")
    it.do("stop monitoring")


def train_and_reindex(it: Deployment, kept: Kept, replicas: int) -> None:
    """The guide's new model: trained there, served beside the old one, every gallery reindexed."""
    people = it.folder / "datasets"
    people.mkdir()
    rows = ["path,identity,camera"]
    for person in range(24):
        for shot in range(4):
            name = f"{person}-{shot}.png"
            (people / name).write_bytes(drawn_person(50_000 + person, shot))
            rows.append(f"{name},{person},{'east' if shot % 2 else 'west'}")
    (people / "people.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    with it.through_the_proxy() as http:
        before = read_json(http.get("/v1/model"))["embedding_fingerprint"]
    it.do("train")
    it.do("serve the new model")
    it.until_ready(replicas)
    with it.through_the_proxy() as http:
        if _gallery(http)["state"] != "previous_model":
            raise Failed(f"the old model does not answer: {_gallery(http)}")
        _query(http, next(iter(kept.images.values())), 0)
    it.do("reindex")
    with it.through_the_proxy() as http:
        gallery = _gallery(http)
        after = read_json(http.get("/v1/model"))["embedding_fingerprint"]
        if gallery["embedding_fingerprint"] != after or after == before:
            raise Failed(f"the gallery was not taken over: {gallery}, from {before} to {after}")
        kept.note(gallery["version"])
    it.say(f"model {before[:12]} replaced by {after[:12]}, the gallery reindexed")
    compare_with(it, kept, replicas, "after the reindex")


def back_up(it: Deployment, kept: Kept, replicas: int) -> None:
    """A backup, and a later one: what was deleted in between is in no restore of the first."""
    it.do("back up")
    with it.through_the_proxy() as http:
        crop_id = kept.take()
        if crop_id is None:
            raise Failed("there is nothing to delete")
        gone = read_json(http.delete(f"{GALLERY}/crops/{crop_id}"))
        kept.note(gone["gallery_version"])
        kept.deleted.add(crop_id)
    it.compose("exec", "-T", "service", "gmn", "backup", "/backups")
    for number in range(1, replicas + 1):
        with it.replica(number) as http:
            shown = http.get("/metrics").text
        times = re.findall(r"^gmn_backup_last_time_seconds (\S+)$", shown, re.MULTILINE)
        if not times or time.time() - float(times[0]) > BACKUP_SECONDS:
            raise Failed(f"replica {number} does not show the age of the last backup: {times}")
    it.say("two backups, with a deletion between them; each replica shows the age of the last one")


def _enrol(http: httpx.Client, image: bytes, identity: str) -> tuple[int, str]:
    answer = read_json(_send(http, image, identity), 201)
    return answer["gallery_version"], answer["results"][0]["crop_id"]


def _send(http: httpx.Client, image: bytes, identity: str) -> httpx.Response:
    return http.post(
        f"{GALLERY}/crops",
        files={"images": ("crop.png", image)},
        data={"identity": identity, "camera": "door"},
    )


def _query(http: httpx.Client, image: bytes, version: int, top_k: int = 20) -> Any:
    answer = http.post(
        f"{GALLERY}/queries",
        files={"images": ("crop.png", image)},
        data={"min_version": str(version), "top_k": str(top_k), "scoring": "cosine"},
    )
    return read_json(answer)


def _gallery(http: httpx.Client) -> Any:
    return read_json(http.get(GALLERY))


def _list_crops(http: httpx.Client) -> set[str]:
    found: set[str] = set()
    cursor = None
    while True:
        asked = {"limit": "1000"} | ({"cursor": cursor} if cursor else {})
        page = read_json(http.get(f"{GALLERY}/crops", params=asked))
        found |= {crop["crop_id"] for crop in page["results"]}
        cursor = page["next_cursor"]
        if cursor is None:
            return found
