"""A record store of each kind, and a gallery in it."""

from __future__ import annotations

import pytest

from service.record.record import Record, open_redis, open_sqlite
from service.record.values import GallerySettings
from tests.service.gallery.new_crops import EMBEDDER


@pytest.fixture(params=["sqlite", "redis", "tables"])
def reopen(request, tmp_path):
    """Opens the store, and again what an earlier opening left."""
    opened = []
    if request.param == "redis":
        server = request.getfixturevalue("redis_record")
        server.ask("FLUSHALL")

    def open_store():
        for store in opened:
            store.close()
        if request.param == "redis":
            opened.append(open_redis(server.url))
        elif request.param == "tables":
            opened.append(Record(tmp_path))
        else:
            opened.append(open_sqlite(tmp_path / "record"))
        return opened[-1]

    yield open_store
    opened[-1].close()


@pytest.fixture
def store(reopen):
    return reopen()


@pytest.fixture
def gallery(store):
    return store.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
