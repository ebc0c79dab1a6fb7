"""Makes files of the format that the program of some commit writes, with that commit's own code.

    git worktree add --detach /tmp/then COMMIT
    cd /tmp/then && PYTHONPATH=$PWD python .../old_formats/make.py FOLDER

Nobody is shown: pictures are a few bytes, vectors are drawn.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import inspect
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

CROPS = 30
EMBEDDER = "a" * 64
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def _crop(number: int) -> Any:
    """The crop of that number, as the records of the time describe it."""
    from service.record import records

    image = b"\x89PNG drawn %d" % number
    said = {
        "sha256": hashlib.sha256(image).hexdigest(),
        "vector": np.random.default_rng(number).standard_normal(8).astype(np.float32),
        "identity": f"{number % 7:04d}",
        "camera": ("east", "west")[number % 2],
        "captured_at": NOON,
        "external_id": f"x{number}",
        "metadata": {"number": number},
    }
    if "image" in inspect.signature(records.NewCrop).parameters:
        return records.NewCrop(image=image, content_type="image/png", **said)
    return records.NewCrop(picture=records.Picture(image, "image/png"), **said)


def _make_first(path: Path) -> None:
    from service.gallery.sqlite_store import SqliteStore

    store = SqliteStore(path)
    gallery = store.create_gallery("lobby", EMBEDDER).gallery_id
    landed = store.enroll(gallery, EMBEDDER, [_crop(number) for number in range(CROPS)]).landed
    store.remove_crop(gallery, landed[0].crop_id)
    store.close()


def _fill(store: Any) -> int:
    from service.record.api_keys import ApiKey
    from service.record.records import GallerySettings

    settings = GallerySettings(retention_days=36_500)
    with_dtype = "search_dtype" in inspect.signature(store.galleries.create).parameters
    more = ("float32",) if with_dtype else ()
    gallery = store.galleries.create("lobby", EMBEDDER, settings, *more).gallery_id
    crops = [_crop(number) for number in range(CROPS)]
    landed = store.crops.enroll(gallery, EMBEDDER, crops).landed
    store.crops.remove(gallery, [landed[0].crop_id])
    store.keys.add(ApiKey("door", "0" * 64, ("query",), None, "", NOON))
    return int(gallery)


def _make_snapshot(store: Any, gallery: int, path: Path) -> None:
    from service.record.snapshot_file import write_snapshot

    with store.crops.archive(gallery) as archive:
        write_snapshot(path, archive.crops)


def main() -> None:
    """Writes `galleries.sqlite3.gz`, and `snapshot.gmn.gz` where there are snapshots."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    database, snapshot = folder / "galleries.sqlite3", folder / "snapshot.gmn"
    try:
        from service.gallery.sqlite.store import SqliteStore
    except ImportError:
        _make_first(database)
    else:
        store = SqliteStore(database)
        gallery = _fill(store)
        with contextlib.suppress(ImportError):
            _make_snapshot(store, gallery, snapshot)
        store.close()
    if url := os.environ.get("REDIS"):
        from service.gallery.redis.store import RedisStore

        record = RedisStore(url)
        _fill(record)
        record.close()
    database.with_suffix(".acknowledged").unlink(missing_ok=True)
    for path in (database, snapshot):
        if path.exists():
            packed = path.with_name(f"{path.name}.gz")
            packed.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
            path.unlink()


if __name__ == "__main__":
    main()
