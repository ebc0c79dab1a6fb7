"""Makes records and a snapshot as the program of some commit writes them, with that commit's code.

    mkdir /tmp/then && git archive COMMIT | tar -x -C /tmp/then
    cd /tmp/then && PYTHONPATH=$PWD python .../old_formats/make.py FOLDER

Pictures are a few bytes, vectors are drawn. `version_0.1.0` is of commit 2b079a4d.
Snapshots of other folders, and records of older formats, are of programs before the first version.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import sys
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from service.record.snapshot_file import write_snapshot

from service.record.keys import ApiKey
from service.record.record import Record, open_redis, open_sqlite
from service.record.values import ArchivedCrop, GallerySettings, StoredCrop, new_crop_id
from tests.service.redis_server import redis_server

CROPS = 30
EMBEDDER = "a" * 64
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def _crop(number: int) -> ArchivedCrop:
    image = b"\x89PNG drawn %d" % number
    known: dict[str, Any] = {
        "sha256": hashlib.sha256(image).hexdigest(),
        "identity": f"{number % 7:04d}",
        "camera": ("east", "west")[number % 2],
        "captured_at": NOON,
        "created_at": NOON,
        "external_id": f"x{number}",
        "metadata": {"number": number},
        "content_type": "image/png",
        "image_bytes": len(image),
    }
    vector = np.random.default_rng(number).standard_normal(8).astype(np.float32)
    return ArchivedCrop(StoredCrop(row_id=0, crop_id=new_crop_id(), **known), vector, image)


def _fill(record: Record, snapshot: Path) -> None:
    """Enrolls crops, removes the first, takes a snapshot, and merges two identities."""
    settings = GallerySettings(retention_days=36_500)
    gallery = record.galleries.create("lobby", EMBEDDER, settings).gallery_id
    crops = [_crop(number) for number in range(CROPS)]
    landed = record.crops.enroll(gallery, EMBEDDER, crops).landed
    record.crops.remove(gallery, [landed[0].crop_id])
    with record.crops.archive(gallery) as archive:
        write_snapshot(snapshot, archive.crops)
    record.identities.rename(gallery, "0005", "0006")
    record.keys.add(ApiKey("door", "0" * 64, ("query",), None, "", NOON))


def main() -> None:
    """Writes a record of SQLite, one of Redis, and a snapshot into a new folder."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    database = folder / "galleries.sqlite3"
    snapshot = folder / "snapshot.gmn"
    with contextlib.closing(open_sqlite(database)) as record:
        _fill(record, snapshot)
    database.with_suffix(".acknowledged").unlink()
    with redis_server() as server:
        with contextlib.closing(open_redis(server.url)) as record:
            _fill(record, snapshot)
        server.kill()
        with tarfile.open(folder / "redis.tar.gz", "w:gz") as file:
            file.add(server.folder / "appendonlydir", "appendonlydir")
    for path in (database, snapshot):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        path.unlink()


if __name__ == "__main__":
    main()
