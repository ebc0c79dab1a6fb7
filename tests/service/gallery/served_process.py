"""One process on a record: its galleries, without the service around them."""

import asyncio
import contextlib

import numpy as np

from service.engine.device import DeviceThread
from service.gallery.registry import DEFAULT_GALLERY, GalleryRegistry
from tests.service.gallery.new_crops import EMBEDDER, OTHER_EMBEDDER, open_record

ANY_QUERY = np.ones((1, 4), np.float32)


class ServedProcess:
    """The galleries of a record in memory, and its changes as the service makes them."""

    def __init__(self, folder):
        with contextlib.ExitStack() as opened:
            self.record = opened.enter_context(open_record(folder))
            self.device = opened.enter_context(DeviceThread())
            # A new gallery is bound to the first.
            embedders = {EMBEDDER: 4, OTHER_EMBEDDER: 4}
            held = GalleryRegistry(self.record, self.device, embedders, lambda _: None)
            self.galleries = opened.enter_context(contextlib.closing(held))
            held.load()
            self.close = opened.pop_all().close

    @property
    def gallery(self):
        return self.galleries.get(DEFAULT_GALLERY)

    def change(self, write, *args):
        def commit(gallery_id):
            return write(gallery_id, *args)

        return asyncio.run(self.galleries.change("any", self.gallery, commit))

    def enroll(self, *crops):
        landed = self.change(self.record.crops.enroll, EMBEDDER, crops).landed
        return [image.crop_id for image in landed]

    def remove(self, *crop_ids):
        self.change(self.record.crops.remove, crop_ids)

    def search(self, *asked):
        return self.device.submit(
            self.gallery.index.search, ANY_QUERY, [None], 1000, *asked
        ).result()

    def confirmed(self, rows):
        return self.galleries.read_crops(self.gallery, rows)

    def found(self):
        """Return the stored crop of each row of a search, by crop id, or by row if it has none."""
        rows = self.search().slots.tolist()
        there = self.confirmed(rows)
        return {there[row].crop_id if row in there else row: there.get(row) for row in rows}
