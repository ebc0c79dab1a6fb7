"""Another embedder's vectors beside those that are searched, in Redis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from service.gallery.records import IndexedCrop, StoredCrop
from service.gallery.redis import scanning
from service.gallery.redis.chores import do_chores
from service.gallery.redis.database import Argument, Database
from service.gallery.redis.sums import content_sum
from service.gallery.stored_values import vector_bytes

VECTORS_PER_WRITE = 200


class RedisStagedVectors:
    """Implements `StagedVectors`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, gallery_id: int, embedding_fingerprint: str) -> None:
        """Prepares for an embedder; what was prepared for another one is dropped."""
        self._database.write("stage", gallery_id, embedding_fingerprint)
        do_chores(self._database)

    def missing(self, gallery_id: int, after: int, limit: int) -> list[StoredCrop]:
        """Up to `limit` crops that have no vector yet, with a `row_id` above `after`."""
        return scanning.read_crops(self._database, "unstaged", gallery_id, after, limit)

    def count(self, gallery_id: int) -> int:
        """How many crops have one."""
        return int(self._database.read("count_staged", gallery_id))

    def add(self, gallery_id: int, vectors: Sequence[tuple[int, NDArray[np.float32]]]) -> None:
        """Adds vectors `(d,)` by `row_id`; those of crops that are gone are left out."""
        for batch in scanning.batches(vectors, VECTORS_PER_WRITE):
            sent: list[Argument] = []
            for row_id, vector in batch:
                content = vector_bytes(vector)
                sent += (row_id, content, content_sum(content))
            self._database.write("stage_vectors", gallery_id, *sent)

    def vectors(self, gallery_id: int) -> Iterator[IndexedCrop]:
        """Every crop that has one, with it, by `row_id`."""
        return scanning.read_vectors(self._database, gallery_id, "staged")

    def switch(self, gallery_id: int) -> int | None:
        """Makes them the gallery's own in one step; None, and no change, where any is missing."""
        answer = self._database.write("switch", gallery_id)
        if "refused" in answer:
            return None
        do_chores(self._database)
        return int(answer["version"])

    def drop(self, gallery_id: int) -> None:
        """Removes what was prepared."""
        self._database.write("stage", gallery_id, "")
        do_chores(self._database)
