"""One process on a record: its galleries, without the service around them."""

from __future__ import annotations

import asyncio
import contextlib

from service.engine.device import DeviceThread
from service.gallery.registry import DEFAULT_GALLERY, GalleryRegistry
from service.record.record import Record
from tests.service.gallery.new_crops import EMBEDDER


class ServedProcess:
    """The galleries of a record in memory, and its changes as the service makes them."""

    def __init__(self, folder):
        with contextlib.ExitStack() as opened:
            self.record = opened.enter_context(contextlib.closing(Record(folder)))
            self.device = opened.enter_context(DeviceThread())
            held = GalleryRegistry(self.record, self.device, {EMBEDDER: 4}, lambda _: None)
            self.galleries = opened.enter_context(contextlib.closing(held))
            held.load()
            self.close = opened.pop_all().close

    @property
    def gallery(self):
        return self.galleries.get(DEFAULT_GALLERY)

    def change(self, write, *args):
        return asyncio.run(self.galleries.change("any", self.gallery, write, *args))

    def enroll(self, *crops):
        landed = self.change(self.record.crops.enroll, EMBEDDER, crops).landed
        return [image.crop_id for image in landed]

    def remove(self, *crop_ids):
        self.change(self.record.crops.remove, crop_ids)
