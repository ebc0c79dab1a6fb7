"""A record in a folder of the test, and an empty gallery in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.record.record import Record
from service.record.values import GallerySettings
from tests.service.gallery.new_crops import EMBEDDER


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with contextlib.closing(Record(tmp_path)) as opened:
        yield opened


@pytest.fixture
def gallery(record: Record) -> int:
    """Create the gallery `lobby`, and return its number."""
    return record.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
