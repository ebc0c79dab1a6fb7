"""Learn: remember what a search's scores with random crops were, to judge later ones by."""

from __future__ import annotations

import contextlib
import hashlib

import numpy as np
from numpy.typing import NDArray

from service.gallery.gallery import Gallery
from service.gallery.index import GalleryIndex
from service.gallery.rows import Filter
from service.gallery.search_memory import COSINES, MNET_SCORES, SearchMemory
from service.problems import ServiceStopping
from service.runtime import Runtime


def learn_from(
    runtime: Runtime, gallery: Gallery, query: NDArray[np.float32], wanted: Filter
) -> None:
    """Has a search remembered; of many that come at once only some are.

    Args:
        runtime: of the service.
        gallery: what was searched.
        query: the features `(d,)` of the one image that was asked about.
        wanted: which crops were searched.
    """
    own = runtime.calibrations.of(gallery)
    if not own.wants(busy=runtime.device.waiting > 0):
        return

    def remember() -> None:
        if gallery.needs_reindex:
            return
        digest = hashlib.blake2b(query.tobytes(), digest_size=8).digest()
        name = int.from_bytes(digest, "little")
        if own.memory.knows(name):
            return
        rows = _random_rows(gallery.index, wanted, name)
        if len(rows) == 0:
            return
        vectors = gallery.index.table.vectors[rows]
        units = vectors / gallery.index.table.norms[rows, None]
        cosines = units @ (query / max(float(np.linalg.norm(query)), 1e-12))
        mnet = runtime.model_of(gallery).networks.pair_scores(query[None], vectors[:MNET_SCORES])

        def record(memory: SearchMemory) -> None:
            memory.remember(name, cosines.astype(np.float32), mnet)

        if own.remember(record):
            runtime.calibrations.fit_later(gallery)

    with contextlib.suppress(ServiceStopping):
        runtime.device.submit(remember)


def _random_rows(index: GalleryIndex, wanted: Filter, seed: int) -> NDArray[np.int64]:
    """Rows that a search met, all of them or so many at random."""
    random = np.random.default_rng(seed)
    if not wanted.passes_all or index.table.live <= 4 * COSINES:
        rows = index.table.select(wanted)
    else:
        drawn = np.unique(random.integers(0, index.table.size, 2 * COSINES))
        rows = drawn[index.table.alive[drawn]]
    return rows if len(rows) <= COSINES else random.permutation(rows)[:COSINES]
