"""Leave-one-identity-out searches where an index outside this process has the vectors.

A sample of the named crops searches by the index's own searches: the nearest crops, and the nearest
crop of each of the nearest identities. Of these, parts of the gallery have those that belong to
their identities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.calibration import Scoring
from model.gallery_thresholds import CROPS_PER_IDENTITY, MOST_CROPS, leaders_by_name, subgalleries
from model.search_calibration import FEW_IDENTITIES, RANKS
from model.stranger_tail import Array, LeftOutSearches
from service.engine.networks import LoadedModel
from service.gallery.gallery import Gallery
from service.record.records import CropFilter, CropLabel, IndexedCrop
from service.runtime import Runtime
from service.search.candidates import Candidates, SearchedIndex
from service.search.filters import Filter
from service.search.leave_one_out import CROPS_OF_A_PART
from service.search.options import RERANK_DEPTH
from service.search.ranking import DEEPEST, every_score

NAMES_PER_PAGE = 1000
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
    """As `search_left_out`; what waits for the network runs on the threads of the calibration."""
    threads, networks = runtime.pools.calibration, model.networks
    names, asking = await threads.run(_sample, runtime, gallery.gallery_id)
    parts = subgalleries(names, np.random.default_rng(len(names)))
    leaders: list[dict[Scoring, list[Array]]] = [{} for _ in parts]
    for place, one in enumerate(asking):
        query = one.crop.vector[None]
        near, people = await threads.run(_candidates, gallery.index, one)
        for number, identities in enumerate(parts if place < CROPS_OF_A_PART else parts[:1]):
            shown = near[np.isin(near.groups, identities)] if number else near
            others = people[np.isin(people.groups, identities)] if number else people
            more = max(RANKS, RERANK_DEPTH - len(shown.row_ids)) if number else RANKS
            shown = shown.extended(others[:more])
            logits = np.full(len(shown.row_ids), np.nan, np.float32)
            if "mnet" in model.description.scorings and len(logits):
                logits = await runtime.device.run(networks.pair_scores, query, shown.vectors())
            for scoring, scores in every_score(model, shown.cosines, logits).items():
                best = leaders_by_name(scores[None], shown.groups)
                leaders[number].setdefault(scoring, []).append(best)
    codes = np.array([one.name for one in asking], np.int64)
    found: dict[Scoring, list[LeftOutSearches]] = {}
    for identities, by_scoring in zip(parts, leaders, strict=True):
        for scoring, rows in by_scoring.items():
            searches = LeftOutSearches(np.concatenate(rows), codes[: len(rows)], len(identities))
            found.setdefault(scoring, []).append(searches)
    return found


def _sample(runtime: Runtime, gallery_id: int) -> tuple[NDArray[np.int64], list[_Asking]]:
    """The codes of all identities, and crops of a sample of them, each one's first crops first."""
    crops, names = runtime.record.crops, list[str]()
    while page := crops.identities(gallery_id, names[-1] if names else "", NAMES_PER_PAGE):
        names += [one.identity for one in page]
    if not runtime.outside or not names:
        return np.empty(0, np.int64), []
    group = runtime.outside.codes.group
    codes = np.array([group(CropLabel(0, "", name)) for name in names], np.int64)
    each = min(CROPS_PER_IDENTITY, max(1, MOST_CROPS // len(names)))
    turns: list[list[_Asking]] = [[] for _ in range(each)]
    for place in np.random.default_rng(len(names)).permutation(len(names))[:MOST_CROPS].tolist():
        own = [
            one.row_id
            for one in crops.page(gallery_id, CropFilter(identity=names[place]), 0, OWN_CROPS)
        ]
        for turn, crop in enumerate(crops.indexed(gallery_id, own[:each])):
            turns[turn].append(_Asking(crop, frozenset(own), int(codes[place])))
    return codes, [one for turn in turns for one in turn][:MOST_CROPS]


def _candidates(index: SearchedIndex, asking: _Asking) -> tuple[Candidates, Candidates]:
    """The nearest named crops of other identities, and the nearest one of each of these.

    They are of other cameras where these have enough identities.
    """
    query, camera = asking.crop.vector[None], asking.crop.label.camera
    elsewhere = (camera,) if camera is not None else ()
    for excluded in dict.fromkeys([elsewhere, ()]):
        wanted = Filter(exclude_cameras=excluded, without=asking.own)
        people = index.search_groups(query, DEEPEST, wanted)
        people = people[(people.groups >= 0) & (people.groups != asking.name)]
        if len(people.row_ids) >= FEW_IDENTITIES:
            break
    # Twice as many as are scored: crops without a name are left out.
    near = index.search(query, 2 * RERANK_DEPTH, wanted)
    near = near[(near.groups >= 0) & (near.groups != asking.name)]
    return near[:RERANK_DEPTH], people
