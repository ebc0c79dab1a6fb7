"""The galleries whose vectors are on the networks' device, within a share of its memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from service.index.gallery_index import DELTA_ROWS, GalleryIndex

# Galleries keep their places for this long, since a new place means a new copy of the vectors.
RANKED_FOR_SECONDS = 600.0


class DevicePlacement:
    """Chooses the galleries that are searched most; each of the others is searched on the CPU.

    Attributes:
        budget_bytes: memory for the vectors of all galleries.
    """

    def __init__(self, budget_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.budget_bytes = budget_bytes
        self._clock = clock
        self._ranked_until = clock()
        self._use: dict[int, float] = {}
        self._counted: dict[int, int] = {}

    def choose(self, indexes: Mapping[int, GalleryIndex]) -> set[int]:
        """Return the galleries, of indexes by gallery id, whose vectors fit into the budget."""
        from service.index.gpu import device_bytes

        if self._clock() >= self._ranked_until:
            self._rank(indexes)
        left = self.budget_bytes
        chosen: set[int] = set()
        for gallery_id in sorted(indexes, key=lambda name: (-self._use.get(name, 0.0), name)):
            columns = indexes[gallery_id].columns
            needed = device_bytes(columns.count, columns.dimension)
            if columns.count <= DELTA_ROWS:
                # A segment over this few crops remains only from a time with more crops.
                needed = 0
            if needed <= left:
                left -= needed
                chosen.add(gallery_id)
        return chosen

    def _rank(self, indexes: Mapping[int, GalleryIndex]) -> None:
        """Rank galleries by their searches since the last time, and half of their former rank."""
        for gallery_id, index in indexes.items():
            recent = index.searches - self._counted.get(gallery_id, 0)
            self._use[gallery_id] = self._use.get(gallery_id, 0.0) / 2 + recent
            self._counted[gallery_id] = index.searches
        self._ranked_until = self._clock() + RANKED_FOR_SECONDS


def read_device_memory(device: str) -> int:
    """Return the bytes of a device's memory, such as of `cuda:0`."""
    import torch

    _, total = torch.cuda.mem_get_info(device)
    return int(total)
