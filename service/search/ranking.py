"""From features to a ranking on the device thread: search, score pairs, order, group, judge."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmn_client.models import CalibrationState, RankedCrop, SearchVerdict
from model.search_calibration import RANKS, UNNAMED, SearchScores, few_identities, leading_scores
from service.gallery.browse import image_url
from service.gallery.gallery import Gallery
from service.record.records import CropLabel
from service.search.calibration import CurrentCalibration, verdict
from service.search.index import Candidates, GalleryIndex
from service.search.options import RERANK_DEPTH, QueryOptions
from service.search.table import Filter

# So many pairs at most are scored for the sake of the calibration alone.
MORE_PAIRS = 64
# Where the candidates show too few people, so many crops by cosine are searched for others.
DEEPEST = 1600


@dataclass(frozen=True)
class Ranking:
    """What one search found, and what it took.

    Attributes:
        gallery_version: what the index showed.
        current: what was asked for, and ordered the results.
        calibration: what their verdicts and probabilities are made by.
        results: best first.
        labels: of the results.
        candidates_scored: the number of crops that the asked scoring scored.
        began: when its turn came, as `time.perf_counter` has it.
        search_seconds, rerank_seconds: of the index and of M-Net.
        sample: the nine best scores of different people; None where the search does not serve the
            calibration.
        asked: the crop that was asked about; None where that was an image.
        stale: memory was behind the record, or the record could not be asked.
    """

    gallery_version: int
    current: CurrentCalibration
    calibration: CalibrationState
    results: Sequence[RankedCrop]
    labels: Sequence[CropLabel]
    candidates_scored: int
    began: float
    search_seconds: float
    rerank_seconds: float
    sample: SearchScores | None = None
    asked: CropLabel | None = None
    stale: bool = False

    @property
    def verdict(self) -> SearchVerdict:
        """That of the best result; `nothing_searched` where no crop passed the filter."""
        return (self.results[0].verdict or "no_match") if self.results else "nothing_searched"


def rank(
    gallery: Gallery,
    current: CurrentCalibration,
    queries: NDArray[np.float32],
    options: QueryOptions,
    wanted: Filter,
    sample: bool = False,
) -> Ranking:
    """Ranks the wanted crops of a gallery against the features `(m, d)` of one person.

    With `sample` it also scores nine people for the calibration, where the search is deep enough.
    """
    began = time.perf_counter()
    index = gallery.index
    by_cosine = current.scoring == "cosine"
    depth = 0 if by_cosine else options.rerank_depth
    found = index.search(queries, max(options.top_k, depth or RERANK_DEPTH), wanted)
    identities = index.identities(wanted)
    shallow = not by_cosine and depth < min(RERANK_DEPTH, found.searched)
    people, scored = None, found if by_cosine else found[:depth]
    if sample and not shallow and not few_identities(identities):
        people = _nine_people(index, queries, wanted, scored, current.joins_at)
    pairs = found.rows[:0] if by_cosine else (people or scored).rows
    searched = time.perf_counter()
    logits = current.model.networks.pair_scores(queries, index.table.vectors[pairs])
    reranked = time.perf_counter()
    # Pairs that were scored for the calibration alone are no results.
    head = logits[: len(found.rows[:depth])]
    best = _best(index, found, head, current, options)
    if len(best.found.rows) < options.top_k and len(found.rows) < found.searched:
        # The candidates belong to too few identities. They keep their scores and stay the head.
        leaders = index.search_groups(queries, options.top_k, wanted)
        found = found[:depth].extended(leaders)
        best = _best(index, found, head, current, options)
    deeper = time.perf_counter() - reranked
    judge = current.for_shallow_search() if shallow else current
    labels = [index.table.label(row) for row in best.found.rows.tolist()]
    kept = None
    if people is not None:
        scores = _scores(current, people.cosines, logits)
        leading = _leading_scores(index, people, scores, current.joins_at)
        if len(leading) == RANKS:
            kept = SearchScores(leading, identities, time.time())
    return Ranking(
        gallery_version=gallery.version,
        current=current,
        calibration=judge.shown(identities),
        results=_results(gallery.name, labels, best, judge, identities, options),
        labels=labels,
        candidates_scored=found.searched if by_cosine else len(head),
        began=began,
        search_seconds=searched - began + deeper,
        rerank_seconds=reranked - searched,
        sample=kept,
    )


@dataclass(frozen=True)
class _Best:
    """Candidates best first, with their logits and scores `(n,)`; NaN was not computed."""

    found: Candidates
    logits: NDArray[np.float32]
    scores: NDArray[np.float32]


def _best(
    index: GalleryIndex,
    found: Candidates,
    head: NDArray[np.float32],
    current: CurrentCalibration,
    options: QueryOptions,
) -> _Best:
    """The candidates that become results; `head` has the logits of the first ones.

    Scored ones come first: a pair's logit and a bare cosine cannot be compared.
    """
    logits = np.full(len(found.rows), np.nan, np.float32)
    logits[: len(head)] = head
    scores = _scores(current, found.cosines, logits)
    order = np.arange(len(found.rows))
    if current.scoring != "cosine":
        # M-Net may saturate on near copies: among equals the nearer comes first, then the older.
        first = slice(0, len(head))
        ages = index.table.row_ids[found.rows[first]]
        order[first] = np.lexsort((ages, -found.cosines[first], -scores[first]))
    if options.group_by == "identity":
        order = order[index.table.first_of_groups(found.rows[order])]
    order = order[: options.top_k]
    return _Best(found[order], logits[order], scores[order])


def _scores(
    current: CurrentCalibration, cosines: NDArray[np.float32], logits: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What the scoring makes of cosines and logits, `(n,)` each."""
    if current.scoring == "cosine":
        return cosines
    fusion = current.model.description.calibration.fusion
    return fusion.fuse(cosines, logits) if current.scoring == "fused" and fusion else logits


def _results(
    gallery: str,
    labels: Sequence[CropLabel],
    best: _Best,
    judge: CurrentCalibration,
    identities: int,
    options: QueryOptions,
) -> list[RankedCrop]:
    match, uncertain = judge.thresholds(options.operating_point, identities)
    probabilities = judge.calibration.probability(best.scores)
    results = []
    for place, label in enumerate(labels):
        logit, score = best.logits[place], best.scores[place]
        results.append(
            RankedCrop(
                rank=place + 1,
                crop_id=label.crop_id,
                identity=label.identity,
                camera=label.camera,
                captured_at=label.captured_at,
                external_id=label.external_id,
                metadata=label.metadata,
                cosine=float(best.found.cosines[place]),
                pair_logit=None if np.isnan(logit) else float(logit),
                probability=None if np.isnan(score) else float(probabilities[place]),
                verdict=None if np.isnan(score) else verdict(float(score), match, uncertain),
                image_url=image_url(gallery, label.crop_id),
            )
        )
    return results


def _nine_people(
    index: GalleryIndex,
    queries: NDArray[np.float32],
    wanted: Filter,
    scored: Candidates,
    joins_at: float,
) -> Candidates:
    """The candidates that are scored, then the nearest crop of each further person, by cosine.

    So many are added that nine people have a score, and 64 at most. None are added where there
    are too few people or they are too far off.
    """
    people = _leading_scores(index, scored, scored.cosines, joins_at)
    if len(people) == RANKS or len(scored.rows) == scored.searched:
        return scored
    deeper = index.search(queries, DEEPEST, wanted)
    first = deeper[index.table.first_of_groups(deeper.rows)]
    more = scored.extended(first, MORE_PAIRS)
    people = _leading_scores(index, more, more.cosines, joins_at)
    if len(people) < RANKS:
        return scored
    enough = np.flatnonzero(more.cosines >= np.float32(people[-1]))
    return more[np.union1d(np.arange(len(scored.rows)), enough)]


def _leading_scores(
    index: GalleryIndex, found: Candidates, scores: NDArray[np.float32], joins_at: float
) -> tuple[float, ...]:
    """The best scores of up to nine different people among candidates, descending.

    A score `(n,)` is NaN where the candidate was not scored.
    """
    scored = np.isfinite(scores)
    rows = found.rows[scored]
    groups = index.table.groups[rows]
    codes = np.where(groups < 0, UNNAMED, groups)
    return leading_scores(scores[scored], codes, index.table.units(rows), joins_at)
