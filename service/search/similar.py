"""Identities that may be the same person as another one, by the scores of a search."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gmn_client.models import SimilarIdentities, SimilarIdentity
from service.engine.cost import search_cost
from service.errors import UnknownIdentity
from service.gallery.gallery import Gallery
from service.runtime import Runtime
from service.search.filters import Filter
from service.search.options import RERANK_DEPTH, QueryOptions
from service.search.query import run_search
from service.search.ranking import EmbedderChanged, Search

# Number of crops of an identity that search the others; the mean of their scores counts.
BEST_CROPS = 8


class OfOthers(QueryOptions):
    """Options of a search of named crops of other identities; `own` are the rows to leave out."""

    own: frozenset[int]

    def filter(self, camera: str | None, without: frozenset[int]) -> Filter:
        return replace(super().filter(camera, without | self.own), named=True)


async def find_similar(
    runtime: Runtime, gallery: Gallery, identity: str, limit: int
) -> SimilarIdentities:
    """Rank other identities by likeness to one, judged as a search by its best crops.

    Each has the score of its most similar crop. The search does not serve the calibration.

    Raises:
        UnknownIdentity: no crop bears the identity.
        NeedsReindex, QueueFull, IndexUnavailable: nothing was searched.
    """
    people = runtime.record.people
    crops = runtime.record.crops
    number = gallery.gallery_id
    read = runtime.galleries.read
    own, best = await read(people.rows, number, identity, BEST_CROPS)
    queries = await read(crops.indexed, number, best)
    if not queries:
        raise UnknownIdentity(gallery.name, identity)
    options = OfOthers(own=frozenset(own), group_by="identity", top_k=limit)
    cost = search_cost(BEST_CROPS, RERANK_DEPTH, limit, False)
    results = None
    async with runtime.admission.admit(cost):
        while results is None:
            current = runtime.calibrations.current(gallery, None)
            features = np.stack([crop.vector for crop in queries])
            try:
                search = Search(gallery, current, options, features)
                _, results = await run_search(runtime, search)
            except EmbedderChanged:
                queries = await read(crops.indexed, number, best)
    similar = {result.identity: result for result in results if result.identity and result.verdict}
    counts = await read(people.counts, number, list(similar))
    return SimilarIdentities(
        results=[
            SimilarIdentity.model_validate({**dict(result), "crops": counts[name]})
            for name, result in similar.items()
            if name in counts
        ]
    )
