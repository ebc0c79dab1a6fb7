"""One search, on the device thread: find candidates, score pairs, order, group, judge."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmn_client.models import QueryAnswer, RankedCrop, Timing
from model.calibration import Scoring
from model.search_calibration import RANKS, UNNAMED, SearchScores, few_identities, leading_scores
from service.engine.networks import LoadedModel
from service.errors import UnknownCrop
from service.gallery.gallery import Gallery
from service.record.records import CropLabel
from service.search.calibration import CurrentCalibration, Judge
from service.search.index import Candidates, GalleryIndex
from service.search.options import RERANK_DEPTH, QueryOptions
from service.search.table import Filter

Array = NDArray[np.float32]
_Best = tuple[Candidates, Array, Array]
# So many pairs at most are scored for the level of a search alone.
MORE_PAIRS = 64
# Where the candidates show too few people, so many crops by cosine are searched for others.
DEEPEST = 1600


@dataclass(frozen=True)
class Ranking:
    """What one search found.

    Attributes:
        answer: without a verdict and the times before the search.
        labels: of the results.
        began: when its turn came, as `time.perf_counter` has it.
        sample: the nine best scores of different people; None where the search does not serve the
            calibration.
        query_crop: the crop of a search by `crop_id`; None for a search by images.
    """

    answer: QueryAnswer
    labels: Sequence[CropLabel]
    began: float = 0.0
    sample: SearchScores | None = None
    query_crop: CropLabel | None = None


@dataclass(frozen=True)
class Search:
    """One search of a gallery, by the features of one person or by a crop of the gallery.

    Attributes:
        current: the model and the calibration, from the embedding of the images to the answer.
        queries: features `(m, d)` of the images; None for a search by the options' `crop_id`, whose
            crop is itself left out.
        sample: whether the scores of nine people are stored for the calibration, where the search
            is deep enough.
    """

    gallery: Gallery
    current: CurrentCalibration
    options: QueryOptions
    queries: Array | None = None
    sample: bool = False

    def run(self, top_k: int, without: frozenset[int] = frozenset()) -> Ranking | None:
        """Ranks the crops that pass the filter; on the device thread.

        Args:
            top_k: the number of results, in place of the option.
            without: `row_id`s of crops to leave out.

        Returns:
            None where the gallery went over to another embedder since `current` was read.

        Raises:
            UnknownCrop: the gallery does not hold the crop.
        """
        gallery, options = self.gallery, self.options
        if gallery.embedder != self.current.model.embedder:
            return None
        if self.queries is not None:
            return self._rank(self.queries, top_k, options.filter(options.camera, without))
        table = gallery.index.table
        crop_id = options.crop_id or ""
        row = table.row_of(crop_id)
        if row is None:
            raise UnknownCrop(gallery.name, crop_id)
        crop = table.label(row)
        wanted = options.filter(crop.camera, without | {crop.row_id})
        return self._rank(table.vectors[np.array([row])], top_k, wanted, crop)

    def _rank(
        self, queries: Array, top_k: int, wanted: Filter, query_crop: CropLabel | None = None
    ) -> Ranking:
        began = time.perf_counter()
        current, options, index = self.current, self.options, self.gallery.index
        by_cosine = current.scoring == "cosine"
        depth = 0 if by_cosine else options.rerank_depth
        found = index.search(queries, max(top_k, depth or RERANK_DEPTH), wanted)
        identities = index.identities(wanted)
        shallow = not by_cosine and depth < min(RERANK_DEPTH, found.searched)
        people, scored = None, found if by_cosine else found[:depth]
        if (self.sample or current.by_level) and not shallow and not few_identities(identities):
            people = _nine_people(index, queries, wanted, scored, current.joins_at)
        scored = people or scored
        searched, logits = time.perf_counter(), np.full(len(scored.rows), np.nan, np.float32)
        if not by_cosine:
            candidates = index.table.vectors[scored.rows]
            logits = current.model.networks.pair_scores(queries, candidates)
        reranked = time.perf_counter()
        # Pairs that were scored for the level alone are no results.
        head = logits[: len(found.rows[:depth])]
        best = self._best(found, head, top_k)
        if len(best[0].rows) < top_k and len(found.rows) < found.searched:
            # The candidates belong to too few identities. They keep their scores and stay the head.
            found = found[:depth].extended(index.search_groups(queries, top_k, wanted))
            best = self._best(found, head, top_k)
        deeper = time.perf_counter() - reranked
        leading: tuple[float, ...] = ()
        if people is not None:
            scores = every_score(current.model, people.cosines, logits)[current.scoring]
            leading = _leading_scores(index, people, scores, current.joins_at)
        level = float(np.mean(leading[1:])) if len(leading) == RANKS else None
        judge = current.judge(options.operating_point, identities, level, shallow)
        labels = list(map(index.table.label, best[0].rows.tolist()))
        search, rerank = (searched - began + deeper) * 1e3, (reranked - searched) * 1e3
        timing = Timing(decode=0.0, queue=0.0, embed=0.0, search=search, rerank=rerank, total=0.0)
        answer = QueryAnswer(
            gallery_version=self.gallery.version,
            calibration_version=str(judge.state.version),
            calibration=judge.state,
            model=current.model.description.artefact_fingerprint,
            scoring=current.scoring,
            verdict="nothing_searched",
            warnings=[],
            results=self._results(labels, best, judge),
            candidates_scored=found.searched if by_cosine else len(head),
            timing_ms=timing,
        )
        sample = None
        if self.sample and len(leading) == RANKS:
            sample = SearchScores(leading, identities, time.time())
        return Ranking(answer, labels, began, sample, query_crop)

    def _best(self, found: Candidates, head: Array, top_k: int) -> _Best:
        """The candidates that become results; `head` has the logits of the first ones.

        Scored ones come first: a pair's logit and a bare cosine cannot be compared.

        Returns:
            Candidates best first, with their logits and scores `(n,)`; NaN was not computed.
        """
        table = self.gallery.index.table
        logits = np.full(len(found.rows), np.nan, np.float32)
        logits[: len(head)] = head
        scores = every_score(self.current.model, found.cosines, logits)[self.current.scoring]
        order = np.arange(len(found.rows))
        if self.current.scoring != "cosine":
            # M-Net may saturate on near copies: of equals the nearer comes first, then the older.
            first = slice(0, len(head))
            ages = table.row_ids[found.rows[first]]
            order[first] = np.lexsort((ages, -found.cosines[first], -scores[first]))
        if self.options.group_by == "identity":
            order = order[table.first_of_groups(found.rows[order])]
        order = order[:top_k]
        return found[order], logits[order], scores[order]

    def _results(self, labels: Sequence[CropLabel], best: _Best, judge: Judge) -> list[RankedCrop]:
        found, logits, scores = best
        probabilities = judge.probability(scores)
        return [
            RankedCrop(
                rank=place + 1,
                crop_id=label.crop_id,
                identity=label.identity,
                camera=label.camera,
                captured_at=label.captured_at,
                external_id=label.external_id,
                metadata=label.metadata,
                cosine=float(found.cosines[place]),
                pair_logit=None if np.isnan(logits[place]) else float(logits[place]),
                probability=float(probabilities[place]) if scored else None,
                verdict=judge.verdict(float(scores[place])) if scored else None,
                image_url=self.gallery.image_url(label.crop_id),
            )
            for place, (label, scored) in enumerate(zip(labels, ~np.isnan(scores), strict=True))
        ]


def every_score(model: LoadedModel, cosines: Array, logits: Array) -> dict[Scoring, Array]:
    """What each scoring that a model offers makes of cosines and logits, all of one shape."""
    fusion = model.description.calibration.fusion
    if fusion is None:
        return {"cosine": cosines}
    return {"cosine": cosines, "mnet": logits, "fused": fusion.fuse(cosines, logits)}


def _nine_people(
    index: GalleryIndex, queries: Array, wanted: Filter, scored: Candidates, joins_at: float
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
    index: GalleryIndex, found: Candidates, scores: Array, joins_at: float
) -> tuple[float, ...]:
    """The best scores of up to nine different people among candidates, descending.

    A score `(n,)` is NaN where the candidate was not scored.
    """
    scored = np.isfinite(scores)
    rows = found.rows[scored]
    groups = index.table.groups[rows]
    codes = np.where(groups < 0, UNNAMED, groups)
    return leading_scores(scores[scored], codes, index.table.units(rows), joins_at)
