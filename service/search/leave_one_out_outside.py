"""Leave-one-identity-out searches where an index outside this process has the vectors.

A sample of the named crops searches by the index's own searches: the nearest crops, and the nearest
crop of each of the nearest identities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.calibration import Scoring
from model.gallery_thresholds import CROPS_PER_IDENTITY, MOST_CROPS, leaders_by_name
from model.order_statistics import Array
from model.search_calibration import FEW_IDENTITIES, RANKS
from model.stranger_tail import LeftOutSearches
from service.engine.networks import LoadedModel
from service.gallery.gallery import Gallery, SearchedIndex
from service.record.values import CropFilter, IndexedCrop
from service.runtime import Runtime
from service.search.candidates import Candidates
from service.search.filters import Filter
from service.search.options import RERANK_DEPTH
from service.search.ranking import every_score

# Of an identity with more crops the others are left out of what a search found.
OWN_CROPS = 1000


@dataclass(frozen=True)
class _Asking:
    """A crop that plays a stranger; `own` are rows of its identity, and `name` is its code."""

    crop: IndexedCrop
    own: frozenset[int]
    name: int


async def search_left_out_outside(
    runtime: Runtime, gallery: Gallery, model: LoadedModel
) -> dict[Scoring, list[LeftOutSearches]]:
    """As `search_left_out`, of the whole gallery; the index is asked on the calibration's threads.

    Parts of it would serve searches that cover fewer people, which such an index does not count.
    """
    threads = runtime.pools.calibration
    networks = model.networks
    identities, asking = await threads.run(_sample, runtime, gallery.gallery_id)
    leaders: dict[Scoring, list[Array]] = {}
    for one in asking:
        shown = await threads.run(_candidates, gallery.index, one)
        logits = np.full(len(shown.row_ids), np.nan, np.float32)
        if "mnet" in model.description.scorings and len(logits):
            query = one.crop.vector[None]
            others = shown.vectors()
            logits = await runtime.device.run(networks.pair_scores, query, others)
        for scoring, scores in every_score(model, shown.cosines, logits).items():
            best = leaders_by_name(scores[None], shown.groups)
            leaders.setdefault(scoring, []).append(best)
    names = np.array([one.name for one in asking], np.int64)
    return {
        scoring: [LeftOutSearches(np.concatenate(rows), names, identities)]
        for scoring, rows in leaders.items()
    }


def _sample(runtime: Runtime, gallery_id: int) -> tuple[int, list[_Asking]]:
    crops = runtime.record.crops
    names = runtime.record.people.names(gallery_id)
    if not runtime.outside or not names:
        return 0, []
    each = min(CROPS_PER_IDENTITY, max(1, MOST_CROPS // len(names)))
    turns: list[list[_Asking]] = [[] for _ in range(each)]
    for place in np.random.default_rng(len(names)).permutation(len(names))[:MOST_CROPS].tolist():
        named = CropFilter(identity=names[place])
        own = [one.row_id for one in crops.page(gallery_id, named, limit=OWN_CROPS).crops]
        for turn, crop in enumerate(crops.indexed(gallery_id, own[:each])):
            code = runtime.outside.codes.group(crop.label)
            turns[turn].append(_Asking(crop, frozenset(own), code))
    return len(names), [one for turn in turns for one in turn][:MOST_CROPS]


def _candidates(index: SearchedIndex, asking: _Asking) -> Candidates:
    """The nearest named crops of other identities, and the nearest one of each of the nine nearest.

    They are of other cameras where these have enough identities.
    """
    query = asking.crop.vector[None]
    camera = asking.crop.label.camera
    elsewhere = (camera,) if camera is not None else ()
    for excluded in dict.fromkeys([elsewhere, ()]):
        wanted = Filter(exclude_cameras=excluded, without=asking.own)
        # Twice as many as count: crops without a name are left out.
        people = index.search_groups(query, 2 * FEW_IDENTITIES, wanted)
        people = people[(people.groups >= 0) & (people.groups != asking.name)]
        if len(people.row_ids) >= FEW_IDENTITIES:
            break
    near = index.search(query, 2 * RERANK_DEPTH, wanted)
    near = near[(near.groups >= 0) & (near.groups != asking.name)]
    return near[:RERANK_DEPTH].extended(people[:RANKS])
