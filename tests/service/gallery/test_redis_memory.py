"""What a crop takes of Redis' memory where its picture and vector lie elsewhere."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from datetime import timedelta

import redis

from service.record.picture_folder import PictureFolder
from service.record.record import open_redis
from service.record.records import GallerySettings
from tests.service.gallery.new_crops import EMBEDDER, NOON, without_picture
from tests.service.redis_server import redis_server

CROPS, AT_ONCE, MOST_BYTES = 5000, 500, 1500


def _crops(first):
    for number in range(first, first + AT_ONCE):
        known = {"identity": f"{number // 8:06d}", "camera": f"cam{number % 20}", "metadata": None}
        crop = without_picture(number, captured_at=NOON + timedelta(seconds=number), **known)
        label = replace(crop.record, content_type="image/png", image_bytes=13149)
        yield replace(crop, record=label, outside=0)


def test_a_crop_takes_no_more_of_redis_than_it_may(tmp_path):
    with redis_server() as server, redis.Redis.from_url(server.url, protocol=2) as client:
        with contextlib.closing(open_redis(server.url)) as record:
            record.engine.outside = PictureFolder(tmp_path.as_uri())
            number = record.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
            empty = client.info("memory")["used_memory"]
            for first in range(0, CROPS, AT_ONCE):
                record.crops.enroll(number, EMBEDDER, list(_crops(first)))
            record.engine.outside.close()
        taken = (client.info("memory")["used_memory"] - empty) / CROPS
    sys.stdout.write(f"{taken:.0f} bytes a crop\n")
    assert 1000 < taken < MOST_BYTES
