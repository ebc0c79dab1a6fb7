"""Identities that may be the same person as another one, by the scores of a search."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

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

# The crops of an identity that search the others: the mean of their scores counts.
BEST_CROPS = 8


class OfOthers(QueryOptions):
    """A search of the named crops of other identities; `own` are the rows that are left out."""

    own: frozenset[int]

    def filter(self, camera: str | None, without: frozenset[int]) -> Filter:
        """Return the filter of any search, for named crops alone."""
        return replace(super().filter(camera, without | self.own), named=True)


async def find_similar(
    runtime: Runtime, gallery: Gallery, identity: str, limit: int
) -> SimilarIdentities:
    """Identities in the order of their likeness to one, judged as a search by its best crops is.

    Each has the score of its crop that is most alike. The search is not kept for the calibration.

    Raises:
        UnknownIdentity: no crop bears it.
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
    ranking = None
    async with runtime.admission.admit(cost):
        while ranking is None:
            current = runtime.calibrations.current(gallery, None)
            features = np.stack([crop.vector for crop in queries])
            try:
                ranking = await run_search(runtime, Search(gallery, current, options, features))
            except EmbedderChanged:
                queries = await read(crops.indexed, number, best)
    found = [result for result in ranking.results if result.identity and result.verdict]
    names = [result.identity or "" for result in found]
    counts = await read(partial(people.counts, number, names))
    return SimilarIdentities(
        results=[
            SimilarIdentity.model_validate({**vars(result), "crops": counts[name]})
            for name, result in zip(names, found, strict=True)
            if name in counts
        ]
    )
