"""Crops for tests of the record store; none of them shows anybody."""

import contextlib
import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np

from service.desk.tables import DeskTables
from service.forgetting import forget_person
from service.opening import open_folder
from service.ops.threads import is_cut_off
from service.record.sqlite import STEPS_PER_LOOK
from service.record.values import (
    ArchivedCrop,
    GallerySettings,
    ListFilter,
    StoredCrop,
    new_crop_id,
)
from service.watch.tables.parts import WatchTables
from tests.engines import database_url

EMBEDDER = "a" * 64
OTHER_EMBEDDER = "b" * 64
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def new_crop(number, identity="a", camera="east", **said):
    """Return a crop of which the number can be told from its image, its vector and its metadata."""
    image = b"image %d" % number
    known = {"identity": identity, "camera": camera, "captured_at": NOON}
    known |= {"metadata": {"number": number}, "crop_id": new_crop_id()}
    known |= {"created_at": datetime.now(UTC), "content_type": "image/png"}
    sha256 = hashlib.sha256(image).hexdigest()
    known |= {"sent_sha256": sha256, "sha256": sha256, "image_bytes": len(image)}
    record = StoredCrop(slot=0, **(known | said))
    return ArchivedCrop(record, np.full(4, number + 0.25, np.float32), image)


def without_picture(number, **said):
    return replace(new_crop(number, content_type=None, image_bytes=0, **said), picture=None)


@contextlib.contextmanager
def open_record(folder, first=None):
    """Open the record of a data directory, or of the first of several machines that share it."""
    with contextlib.closing(open_folder(folder, database_url(first or folder))) as record:
        yield record


def desk_of(record):
    return DeskTables(record.database)


def watch_of(record):
    return WatchTables(record.database)


def new_gallery(record, name="lobby", embedder=EMBEDDER):
    return record.galleries.create(name, embedder, GallerySettings()).gallery_id


def enroll(record, gallery, *crops):
    landed = record.crops.enroll(gallery, EMBEDDER, crops).landed
    return [str(image.crop_id) for image in landed]


def forget(record, gallery, identity):
    return record.database.write(forget_person, gallery, identity)


def listed(record, gallery):
    return record.crops.page(gallery, ListFilter()).crops


def listed_ids(record, gallery):
    return [crop.crop_id for crop in listed(record, gallery)]


def is_on_disk(folder, secret):
    return any(secret in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def only(*crop_ids):
    return ListFilter(crop_ids=frozenset(crop_ids))


@contextlib.contextmanager
def counted_steps(record):
    """Count the steps of SQLite's virtual machine, by which a slow statement is known anywhere."""
    connection = record.database.connection()
    steps = SimpleNamespace(thousands=0)

    def count():
        steps.thousands += 1
        return 0

    connection.set_progress_handler(count, 1000)
    try:
        yield steps
    finally:
        connection.set_progress_handler(is_cut_off, STEPS_PER_LOOK)
