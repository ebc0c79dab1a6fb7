"""What a crop takes of Redis' memory where its picture and vector lie elsewhere."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import redis

from service.record.picture_folder import PictureFolder
from service.record.record import open_redis
from service.record.values import GallerySettings
from tests.service.gallery.new_crops import EMBEDDER, NOON, without_picture
from tests.service.redis_server import redis_server

CROPS = 5000
AT_ONCE = 500
MOST_BYTES = 1500


def _crops(first):
    for number in range(first, first + AT_ONCE):
        known = {"identity": f"{number // 8:06d}", "camera": f"cam{number % 20}", "metadata": None}
        crop = without_picture(number, captured_at=NOON + timedelta(seconds=number), **known)
        label = replace(crop.record, content_type="image/png", image_bytes=13149)
        yield replace(crop, record=label, outside=0)


def bytes_of_a_crop(folder: Path) -> tuple[float, float]:
    """Of Redis' memory, and of its files on the disk."""
    with redis_server() as server, redis.Redis.from_url(server.url, protocol=2) as client:
        with contextlib.closing(open_redis(server.url)) as record:
            record.engine.outside = PictureFolder(folder.as_uri())
            number = record.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
            empty = client.info("memory")["used_memory"]
            for first in range(0, CROPS, AT_ONCE):
                record.crops.enroll(number, EMBEDDER, list(_crops(first)))
            record.engine.outside.close()
        taken = client.info("memory")["used_memory"] - empty
        files = (one.stat().st_size for one in server.folder.rglob("appendonlydir/*"))
        return taken / CROPS, sum(files) / CROPS


def test_a_crop_takes_no_more_of_redis_than_it_may(tmp_path):
    taken, on_disk = bytes_of_a_crop(tmp_path)
    sys.stdout.write(f"{taken:.0f} bytes a crop, {on_disk:.0f} on the disk\n")
    assert 1000 < taken < MOST_BYTES
    assert on_disk > 0
