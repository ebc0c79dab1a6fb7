"""Write a record of format 7, backups of it and of one in Redis, and their answers.

Run with the code of the last version that wrote format 7, from a checkout of its commit:

    git archive 46000010 | tar -x -C /tmp/then
    cd /tmp/then && PYTHONPATH=$PWD:.../tests/service/record/format_7 python .../make.py FOLDER

It writes `records.tar.gz` and `answers.json` to the folder. Pictures are a few bytes, and vectors
have four numbers, but those of `served`: a service with the artefact `small` has filled that.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tarfile
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
from answers import answers
from service.record.api_keys import ApiKey
from service.record.backup import write_backup
from service.record.entries import files_of
from service.record.kept_queries import Case, KeptQuery, KeptResult, Review
from service.record.records import CropFilter, GallerySettings
from service.record.snapshot_file import SnapshotHeader, describe_snapshot, write_snapshot

from gmn_client.models import JobProblem
from service.ops.data_directory import DATABASE_NAME, snapshot_name
from service.record.crop_changes import RequestKey
from service.record.jobs import Job
from service.record.keys import new_crop_id
from service.record.people import Grouping
from service.record.picture_folder import PictureFolder
from service.record.record import open_redis, open_sqlite
from tests.conftest import draw_crops
from tests.service.conftest import Served
from tests.service.gallery.new_crops import EMBEDDER, NOON, OTHER_EMBEDDER, new_crop
from tests.service.redis_server import redis_server

REQUEST = RequestKey("key", "0" * 64, '["a problem"]')


def search(key_id, shown, **more):
    kept = {"query_id": new_crop_id(), "created_at": NOON, "key_id": key_id}
    results = [KeptResult(crop_id, 0.9, 1.0, 0.8, "match") for crop_id in shown]
    kept |= {"request": {"top_k": 3}, "answer": {"verdict": "match"}, "results": results}
    return KeptQuery(**kept, **more)


def fill(folder):
    """Write something of everything that a record keeps."""
    record = open_sqlite(folder / DATABASE_NAME)
    record.galleries.create("gone", EMBEDDER, GallerySettings())
    settings = GallerySettings(retention_days=30, retention_from="enrolled")
    lobby = record.galleries.create("lobby", EMBEDDER, settings).gallery_id
    record.galleries.create("empty", OTHER_EMBEDDER, GallerySettings())
    record.galleries.delete(1)
    names = ["b", "a", "a", "c", None, "Ähre 10", "Ähre 9"]
    crops = [new_crop(n, name, external_id=f"x{n}", quality=n / 7) for n, name in enumerate(names)]
    crops += [replace(new_crop(8), picture=None), new_crop(9, content_type=None, image_bytes=0)]
    crops[-1] = replace(crops[-1], picture=None)
    ids = [crop.record.crop_id for crop in crops]
    record.crops.enroll(lobby, EMBEDDER, crops, REQUEST)
    record.crops.remove(lobby, ids[:1])
    take_snapshot(record, folder, lobby)
    record.identities.rename(lobby, "c", "a")
    record.groups.put(lobby, Grouping("job", NOON, 2, [([5], 0.5)], 3))
    fill_desk(record, lobby, ids)
    record.calibrations.add_searches(lobby, "mnet", [("one", b"1\0x"), ("two", b"2")])
    record.calibrations.publish(lobby, "mnet", "{}", 0)
    record.calibrations.add_searches(lobby, "cosine", [("one", b"3")])
    record.staged.begin(lobby, OTHER_EMBEDDER)
    record.staged.add(lobby, [(2, np.arange(3, dtype=np.float32)), (3, np.ones(3, np.float32))])
    record.keys.add(ApiKey("door", "0" * 64, ("query",), "lobby", "", NOON))
    record.keys.note_used({"door": NOON})
    record.runtimes.keep_first(EMBEDDER, "openvino")
    problem = JobProblem(position=3, source="a.png", detail="no image", code="undecodable_image")
    for name in ("ended", "open"):
        record.jobs.create(Job(name, lobby, "import", {"path": "x"}, NOON, NOON, key_id="door"))
    record.jobs.update("ended", "done", {"done": 4}, [problem], "a remark")
    record.stray_files.expect(lobby, ["stray"], NOON)
    return record, lobby


def take_snapshot(record, folder, gallery):
    path = folder / snapshot_name(gallery, "20260301T120000Z-00000000")
    with record.crops.archive(gallery) as archive:
        origin = SnapshotHeader(gallery="lobby", embedding_fingerprint=EMBEDDER, version=2)
        write_snapshot(path, archive.crops, origin)
    record.snapshots.keep(describe_snapshot(path, NOON))


def fill_desk(record, gallery, ids):
    searches = [search("door", ids[2:3], content_type="image/png"), search("other", ids[3:5])]
    record.kept.keep(gallery, [(searches[0], b"picture"), (searches[1], None)], 10)
    review = Review("confirmed", NOON, "door")
    record.kept.review(gallery, searches[0].query_id, ids[2:4], review)
    case = {"case_id": "case", "name": "A case", "notes": "…", "key_id": "door"}
    case |= {"created_at": NOON, "changed_at": NOON, "deleted_searches": {date(2026, 3, 1): 2}}
    record.cases.create(gallery, Case(**case))
    record.cases.hold(gallery, "case", searches[1].query_id, "seen twice")


def fill_redis(url, data):
    """Write three crops to Redis, with their images and vectors beside it."""
    crops = [new_crop(number) for number in range(3)]
    record = open_redis(url)
    images = record.engine.outside = PictureFolder(str(data / "images"))
    gallery = record.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
    side = record.galleries.get(gallery).side
    for crop in crops:
        images.put(gallery, files_of(gallery, crop, side))
    outside = [replace(crop, picture=None, outside=side) for crop in crops]
    record.crops.enroll(gallery, EMBEDDER, outside)
    return record


def serve(data, log):
    served = Served(log, artefact="small", data_dir=data, keep_images="none")
    served.create("lobby")
    crops = draw_crops()
    images = [crop.png for crop in crops]
    labels = {"identity": [crop.identity for crop in crops]}
    labels["camera"] = [crop.camera for crop in crops]
    enrolled = served.enroll("lobby", *images, **labels).json()["results"]
    served.http.delete(f"/v1/galleries/lobby/crops/{enrolled[0]['crop_id']}")
    served.http.patch("/v1/galleries/lobby/identities/0001", data={"new_identity": "Ann"})
    served.http.post("/v1/galleries/lobby/snapshots")
    found = {
        "crops": served.http.get("/v1/galleries/lobby/crops?limit=100").json()["results"],
        "people": served.http.get("/v1/galleries/lobby/identities").json()["results"],
        "queries": [served.query("lobby", image, top_k=10).json() for image in images[::5]],
    }
    served.stop()
    return found


def main():
    """Write everything into the folder of the first argument."""
    folder = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        for name in ("data", "redis"):
            (place / name).mkdir()
        record, lobby = fill(place / "data")
        with contextlib.closing(record):
            found = answers(record, lobby, CropFilter())
            state = record.remote_indexes.claim(lobby, "worker", 60.0)
            state = record.remote_indexes.advance(state, building="gmn_2_1")
            state = record.remote_indexes.advance(state, collection="gmn_2_1", building="gmn_2_2")
            write_backup(record.engine, place / "data", place / "backups")
        with (
            redis_server() as server,
            contextlib.closing(fill_redis(server.url, place / "redis")) as record,
        ):
            write_backup(record.engine, place / "redis", place / "redis_backups")
        shutil.rmtree(place / "redis")
        found["served"] = serve(place / "served", place / "log")
        (place / "log").unlink()
        (folder / "answers.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        with tarfile.open(folder / "records.tar.gz", "w:gz") as packed:
            for path in sorted(place.iterdir()):
                packed.add(path, path.name)


if __name__ == "__main__":
    main()
