"""A record with its indexer, beside the same crops in FAISS, without model and HTTP."""

import contextlib
import time
from dataclasses import replace
from datetime import timedelta

import numpy as np

from service.index.filters import EVERY_CROP
from service.milvus.index import MilvusIndexes
from service.milvus.indexer import Indexer
from service.milvus.rows import Codes
from service.milvus.tables import CollectionState
from service.milvus.writing import CollectionWriter
from service.opening import open_folder
from service.record.values import GallerySettings
from tests.service.filled_index import FilledIndex
from tests.service.gallery.new_crops import EMBEDDER, NOON, new_crop, only
from tests.waiting import eventually

DIMENSION = 32
CAMERAS = ("east", "west", "nörd\n'\"", None)


def drawn(number, dimension=DIMENSION):
    drawing = np.random.default_rng(number)
    return (drawing.normal(size=dimension) * drawing.uniform(1, 9)).astype(np.float32)


def drawn_crop(number, **said):
    return replace(new_crop(number, **said), vector=drawn(number), picture=None)


def mixed_crop(number):
    """Draw a crop of one of several people, cameras and times, or of none."""
    return drawn_crop(
        number,
        identity=None if number % 5 == 0 else f"person {number % 11}",
        camera=CAMERAS[number % len(CAMERAS)],
        captured_at=None if number % 7 == 0 else NOON + timedelta(minutes=number),
    )


def units(vectors):
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / lengths


def slowed(call, seconds, calls):
    """Return a call that begins later; `calls` gets its arguments."""

    def slowly(*args):
        time.sleep(seconds)
        calls.append(args)
        return call(*args)

    return slowly


class Lab:
    """The indexer of one process on a record, and its searches."""

    def __init__(self, folder, milvus):
        self.folder = folder
        self.milvus = milvus
        self.record = open_folder(folder)
        self.server = milvus.connect()
        self.codes = Codes(self.record.galleries.group_secret())
        self.writer = CollectionWriter(self.record, self.server, self.codes)
        self.indexer = Indexer(self.writer)
        self.indexes = MilvusIndexes(self.indexer)

    def gallery(self, name="default"):
        for gallery in self.record.galleries.all():
            if gallery.name == name:
                return gallery
        return self.record.galleries.create(name, EMBEDDER, GallerySettings())

    def enroll(self, gallery, *crops):
        added = self.record.crops.enroll(gallery.gallery_id, EMBEDDER, list(crops)).added
        return [crop.slot for crop in added]

    def indexed(self, *numbers, name="default"):
        """Return a gallery with drawn crops that its collection shows, and their rows."""
        gallery = self.gallery(name)
        rows = self.enroll(gallery, *(drawn_crop(number) for number in numbers))
        self.caught_up(gallery)
        return gallery, rows

    def remove(self, gallery, *rows):
        crops = self.record.crops
        ids = [crop.crop_id for crop in crops.by_slot(gallery.gallery_id, rows).values()]
        crops.remove(gallery.gallery_id, ids)

    def change(self, gallery, row, **fields):
        crops = self.record.crops
        (crop,) = crops.by_slot(gallery.gallery_id, [row]).values()
        crops.change(gallery.gallery_id, only(crop.crop_id), fields)

    def want_rebuild(self, gallery):
        self.writer.states.change(gallery.gallery_id, wanted=True)

    def state(self, gallery):
        return self.writer.states.state(gallery.gallery_id) or CollectionState(-1)

    def caught_up(self, gallery, seconds=30.0):
        entry = self.record.galleries.get(gallery.gallery_id)

        def up():
            state = self.state(gallery)
            filled = bool(state.collection) or not entry.crops
            current = state.generation == entry.generation
            return current and filled and state.version >= entry.version

        eventually(up, seconds)

    def hits(self, gallery, query, limit=1000, wanted=EVERY_CROP):
        """Return what Milvus proposes at the watermark."""
        state = self.state(gallery)
        asked = (units(query), limit, wanted, self.codes, state.timestamp)
        return self.server.search(state.collection, *asked)

    def found(self, gallery, *args, **more):
        return [hit["id"] for hit in self.hits(gallery, *args, **more)]

    def is_whole(self, gallery):
        return not self.writer.differing(gallery.gallery_id)

    def index(self, gallery, embedder=EMBEDDER):
        return self.indexes.of(gallery.gallery_id, embedder)

    def in_faiss(self, gallery):
        index = FilledIndex(DIMENSION, self.codes.secret)
        index.fill(self.record.crops.vectors(gallery.gallery_id))
        return index

    def assert_same(self, gallery, queries, limits, wanted=EVERY_CROP):
        inside = self.in_faiss(gallery)
        cameras = [None] * len(queries)
        for limit in limits:
            for grouped in (False, True):
                expected = inside.search(queries, cameras, limit, wanted, grouped)
                found = self.index(gallery).search(queries, cameras, limit, wanted, grouped)
                assert found.slots.tolist() == expected.slots.tolist(), (limit, grouped)
                assert found.groups.tolist() == expected.groups.tolist()
                np.testing.assert_allclose(found.cosines, expected.cosines, atol=1e-6)
                np.testing.assert_allclose(found.vectors, units(expected.vectors), atol=1e-6)

    def close(self):
        self.indexes.close()
        self.record.close()


@contextlib.contextmanager
def lab(folder, milvus):
    with contextlib.closing(Lab(folder, milvus)) as own:
        own.gallery()
        own.indexer.start()
        yield own
