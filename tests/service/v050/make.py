"""Writes a data directory and a backup as version 0.5.0 does; run it with the code of that version.

From the root of the repository, with an environment that has what 0.5.0 needs:

    git worktree add /tmp/v050 v0.5.0
    cp tests/service/v050/make.py /tmp/v050/make_v050.py
    (cd /tmp/v050 && PYTHONPATH=/tmp/v050 python make_v050.py /tmp/made)
    tar --sort=name --owner=0 --group=0 -C /tmp/made -cJf tests/service/v050/made.tar.xz .

Its pictures are drawn squares, and its vectors are drawn by chance.
"""

import contextlib
import hashlib
import io
import random
import shutil
import sys
import unicodedata
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image
from service.record.archive import describe_snapshot, write_archive
from service.record.restoring import write_backup

from gmn_client.models import Forecast, WatchSettings
from service.ops.audit import AuditLog
from service.ops.data_directory import snapshot_name
from service.record.jobs import Job
from service.record.keys import ApiKey
from service.record.record import Record
from service.record.values import ArchivedCrop, GallerySettings, StoredCrop, new_crop_id

EMBEDDER = "a" * 64
NEXT_EMBEDDER = "b" * 64
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
JOSE = "José"
OF_MACS = unicodedata.normalize("NFD", JOSE)
ZOE = unicodedata.normalize("NFD", "Zoé")
CAFE = unicodedata.normalize("NFD", "Café")
FORECAST = {
    "threshold": 0.5,
    "people": 1,
    "tracks_per_day": 100.0,
    "traffic_tracks": 0,
    "false_alarms": 0.1,
    "low": None,
    "high": None,
    "promised": True,
    "found": None,
    "found_low": None,
    "found_high": None,
    "found_basis": "not_known",
    "basis": "reference",
    "sentence": "A forecast.",
}
CHANCE = random.Random(5)


def draw():
    content = io.BytesIO()
    colour = tuple(CHANCE.randrange(256) for _ in range(3))
    Image.new("RGB", (24, 48), colour).save(content, "PNG")
    return content.getvalue()


def crop(identity=None, camera=CAFE, outside=False, **labels):
    picture = draw()
    record = StoredCrop(
        row_id=0,
        crop_id=new_crop_id(),
        identity=identity,
        camera=camera,
        captured_at=NOON,
        created_at=datetime.now(UTC),
        content_type="image/png",
        sha256=hashlib.sha256(picture).hexdigest(),
        image_bytes=len(picture),
        **labels,
    )
    vector = np.array([CHANCE.random() for _ in range(4)], np.float32)
    # A picture in a bucket is not in the record.
    return ArchivedCrop(record, vector, None if outside else picture)


def enroll(record, gallery, *crops):
    landed = record.crops.enroll(gallery, EMBEDDER, crops).landed
    return [str(image.crop_id) for image in landed]


def take_snapshot(record, gallery, snapshot_id):
    path = record.database.folder / snapshot_name(gallery, snapshot_id)
    write_archive(record.database, path, gallery)
    record.snapshots.keep(gallery, describe_snapshot(path, datetime.now(UTC)))
    return path


def fill(record, backups):
    lobby = record.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
    gone = record.galleries.create("gone", EMBEDDER, GallerySettings()).gallery_id
    wanted = record.galleries.create("wanted", EMBEDDER, GallerySettings()).gallery_id
    enroll(
        record,
        lobby,
        crop(JOSE, metadata={"number": 1.0}),
        crop(JOSE, camera="Café"),
        crop(OF_MACS, track=f"{CAFE} 7", external_id=CAFE),
        crop(ZOE),
        crop("Ann", outside=True),
        crop("Bob"),
        crop(),
    )
    enroll(record, gone, crop("Eve"))
    record.galleries.delete(gone)
    take_snapshot(record, lobby, "20260301T120000Z-0000000a")
    damaged = take_snapshot(record, lobby, "20260301T130000Z-0000000b")
    (damaged / "record.sqlite3").write_bytes(b"damaged" * 100)
    record.people.rename(lobby, "Bob", "Ann")
    enroll(record, wanted, crop("Mia"))
    settings = WatchSettings(
        budget=3, expires_at=NOON + timedelta(days=3650), reason="a test", retention_days=30
    )
    record.watches.arm(wanted, settings, Forecast(**FORECAST), EMBEDDER, "door")
    record.staged.begin(lobby, NEXT_EMBEDDER)
    first = record.staged.missing(lobby, 0, 2)
    record.staged.add(lobby, {one.row_id: np.ones(3, np.float32) for one in first})
    record.keys.add(
        ApiKey("door", hashlib.sha256(b"0" * 64).hexdigest(), ("admin",), None, "the door", NOON)
    )
    record.keys.add(ApiKey("gate", "2" * 64, ("query",), None, "the gate", NOON))
    search = {
        "query_id": f"{1_772_366_400_000:012x}{1:020x}",
        "created_at": int(datetime.now(UTC).timestamp() * 1e6),
        "key_id": "door",
        "request": "{}",
        "answer": '{"verdict": "no_match"}',
        "results": "[]",
        "crop_id": None,
        "content_type": "image/png",
    }
    record.kept.keep(lobby, [(search, draw())], 100)
    case = record.cases.create(lobby, "case 7", "notes", "door")
    record.cases.hold(lobby, case.case_id, search["query_id"], "a note", "door")
    job = Job("import-1", lobby, "import", {"camera": "east"}, NOON, NOON, "running")
    record.jobs.create(job)
    upload = record.database.folder / "imports" / job.job_id
    upload.mkdir(parents=True)
    (upload / "archive").write_bytes(b"an archive that is being received")
    record.webhooks.create(
        wanted, {"url": "https://example.org/", "secret": "s", "note": "", "key_id": "door"}
    )
    removed, forgotten = enroll(record, lobby, crop("Ann"), crop("Tom"))
    record.crops.remove(lobby, [removed])
    backup = write_backup(record.database, backups)
    # What the backup has, and the record no longer.
    record.crops.remove(lobby, [forgotten])
    record.keys.revoke("gate")
    return backup


def main():
    out = Path(sys.argv[1])
    shutil.rmtree(out, ignore_errors=True)
    data = out / "data"
    data.mkdir(parents=True)
    with contextlib.closing(Record(data)) as record, AuditLog(data) as audit:
        audit.record("a test")
        fill(record, out / "backups")
    (data / "lock").touch()


main()
