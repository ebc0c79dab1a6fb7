"""A record, and a gallery in it."""

from __future__ import annotations

import pytest

from service.record.record import Record
from service.record.values import GallerySettings
from tests.service.gallery.new_crops import EMBEDDER


@pytest.fixture
def reopen(tmp_path):
    """Return a function that opens the record, and opens it again later."""
    opened = []

    def open_store():
        for store in opened:
            store.close()
        opened.append(Record(tmp_path))
        return opened[-1]

    yield open_store
    opened[-1].close()


@pytest.fixture
def store(reopen):
    return reopen()


@pytest.fixture
def gallery(store):
    return store.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
