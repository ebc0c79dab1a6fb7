"""A device thread, and crops that wait for it together."""

import threading

import numpy as np

from service.engine.device import WaitingCrop
from tests.waiting import LONGEST_SECONDS

POISON = 13


def submit(batcher, value):
    crop = WaitingCrop(np.full((4, 2, 3), value, np.uint8))
    batcher.submit(crop)
    return crop.future


def submit_together(device, batcher, values):
    """Submit crops while the device is busy, so that they share batches."""
    gate = threading.Event()
    device.submit(gate.wait, LONGEST_SECONDS)
    futures = [submit(batcher, value) for value in values]
    gate.set()
    return futures


def vectors(futures):
    return [future.result(LONGEST_SECONDS).vector[0] for future in futures]


class StandInModel:
    """Embeds a crop as its first pixel, and fails with every batch that has a poisoned crop.

    Attributes:
        room: largest batch; a larger one raises `no_room`.
        error: raised by every batch, such as a lost device.
        passes: sizes of the batches.
    """

    def __init__(self, room=1000, no_room=None):
        self.room = room
        self.no_room = no_room
        self.error = None
        self.passes = []

    def embed(self, crops):
        self.passes.append(len(crops))
        if self.error:
            raise self.error
        if len(crops) > self.room:
            raise self.no_room
        values = crops[:, 0, 0, :1].astype(np.float32)
        if (values == POISON).any():
            raise RuntimeError("poison")
        return values

    def probe(self):
        return self.embed(np.ones((1, 4, 2, 3), np.uint8))
