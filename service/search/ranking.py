"""One search of a gallery: propose candidates by cosine, score pairs, order and judge."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gmn_client.models import RankedCrop
from model.arrays import Array, Floats, unit_rows
from model.likelihood_ratio import LikelihoodRatio
from model.order_statistics import FEW_IDENTITIES, RANKS
from model.problems import InputProblem
from model.search_calibration import pack_search
from service.gallery.gallery import Gallery
from service.index.candidates import Candidates, Integers, first_positions
from service.index.filters import SearchFilter
from service.index.interface import IdentityCount
from service.links import crop_image
from service.record.values import LabelledCrop, labels_of
from service.search.calibration import CurrentCalibration, Judge, with_note
from service.search.options import RERANK_DEPTH, QueryOptions
from service.search.times import QueryTimes

Spans = Mapping[tuple[str, str | None], Mapping[str, Any]]
# Upper bound on the extra pairs scored only to estimate a search's score level.
MORE_PAIRS = 64
# Nine people, whom the level needs, are sought among NEAR crops first, then among DEEPEST.
NEAR = 400
DEEPEST = 1600
# Number of leading results that are ordered by their neighbours.
ORDERED_CROPS = 200
# Upper bound on the neighbours of an unnamed crop, and their lowest cosine.
NEIGHBOURS = 8
NEIGHBOUR_COSINE = 0.65
# Weight of a crop's own score against the best score among its neighbours.
OWN_WEIGHT = 0.1
# Upper bounds of a short search: crops of the gallery, and candidates to score or results to read.
SHORT_CROPS = 100_000
SHORT_DEPTH = 400
COUNTS_ALL = (
    "It counts the people of the whole gallery: how many pass the filter is not known to its index."
)


class SearchOutdated(InputProblem):
    """The gallery switched to another embedder, or is centred otherwise, since the search began.

    The search must be repeated.
    """


@dataclass(frozen=True)
class Ranking:
    """The result of one search.

    Attributes:
        gallery_version: version of the gallery that was searched.
        best: crops of the gallery, best first, without labels.
        scores: scores of these crops by the search's scoring and times, `(n,)`; NaN for crops that
            were not scored.
        appearance: the same scores without times.
        judge: gives verdicts and probabilities for them.
        time_log_odds: log-odds of the times in the scores, `(n,)`; None without times.
        candidates_scored: number of candidates that were scored.
        crops_searched: number of crops that passed the filter.
        people_searched: number of named people among them.
        began, found, ended: times by `time.perf_counter`; the candidates were found before they
            were scored.
        sample: the nine best scores of different people, packed; None if the search does not
            contribute to the calibration.
    """

    gallery_version: int
    best: Candidates
    scores: Floats
    appearance: Floats
    judge: Judge
    time_log_odds: Array | None
    candidates_scored: int
    crops_searched: int
    people_searched: int
    began: float
    found: float
    ended: float
    sample: bytes | None


@dataclass(frozen=True)
class Proposal:
    """Crops that a search finds by cosine, before pairs are scored.

    Attributes:
        gallery_version: version of the gallery that was searched.
        candidates: crops that may become results, nearest first.
        head: number of leading candidates that M-Net scores; 0 if results are ordered by cosine.
        scored: crops to score: the head, or the nearest ones if results are ordered by cosine, and
            then crops that only the level of the search needs.
        time_log_odds: log-odds of times of the candidates, and of `scored`; None without times.
        needs_level: estimate the level from the scores of `scored`.
        people_cosines: the nine best cosines of different people among `scored`, descending, or
            fewer; empty if no level is needed.
        identities: identities that the search covers.
        counts_all: `identities` ignores the filter, because the index cannot count with it.
        shallow: the scores may miss some of the gallery's best.
        began, found: see `Ranking`.
    """

    gallery_version: int
    candidates: Candidates
    head: int
    scored: Candidates
    time_log_odds: tuple[Array, Array] | None
    needs_level: bool
    people_cosines: tuple[float, ...]
    identities: IdentityCount
    counts_all: bool
    shallow: bool
    began: float
    found: float


@dataclass(frozen=True)
class Search:
    """A search of a gallery by the features of one person.

    Attributes:
        current: model and calibration, fixed from the embedding of the images to the answer.
        queries: features `(m, d)` of the images; none until they are embedded.
        query_crops: the crops searched by, of this gallery or another one.
        without: slots that are never results: of crops found deleted, of the crops searched by
            that are in this gallery, or of all crops of their track.
        sample: store the scores of nine people for the calibration, if the search is deep enough.
        galleries: number of galleries searched at once; each has its share of the false-alarm rate.
        times: the times of the query, whose log-odds move the scores; None for appearance alone.
    """

    gallery: Gallery
    current: CurrentCalibration
    options: QueryOptions
    queries: Floats
    query_crops: tuple[LabelledCrop, ...] = ()
    without: frozenset[int] = frozenset()
    sample: bool = False
    galleries: int = 1
    times: QueryTimes | None = None

    @property
    def is_short(self) -> bool:
        """True if the search by one picture and reading its results take a few milliseconds."""
        options = self.options
        is_small = self.gallery.own_index is not None and self.gallery.crops <= SHORT_CROPS
        # A mean of pictures takes as many passes of M-Net as there are pictures.
        is_of_one = len(self.queries) <= 1
        return is_small and is_of_one and max(options.top_k, options.rerank_depth) <= SHORT_DEPTH

    @property
    def likelihood(self) -> LikelihoodRatio | None:
        """The likelihood ratio of two crops; None if none is offered.

        It is that of single crops: the mean of several pictures has other scores.
        """
        return self.current.likelihood if len(self.queries) == 1 else None

    @property
    def query_cameras(self) -> list[str]:
        """The known cameras of the query: those of the crops searched by, or that of the images."""
        cameras = [crop.camera for crop in self.query_crops] or [self.options.camera]
        return [camera for camera in cameras if camera]

    @property
    def cameras_of_queries(self) -> list[str | None]:
        """The camera of each query; None if it is unknown."""
        if self.query_crops:
            return [crop.camera for crop in self.query_crops]
        return [self.options.camera] * len(self.queries)

    @property
    def needs_labels(self) -> bool:
        """True if the search filters or groups by labels that are read when they are needed."""
        return bool(self.options.wanted.metadata) or self.options.group_by == "track"

    def read_labels(self) -> bool:
        """Read some of the labels that the search needs; return True if others remain.

        Call it while the device is held.
        """
        own = self.gallery.own_index
        return own is not None and own.columns.reads_on(self._filter(), self.options.group_by)

    def propose(self, began: float | None = None) -> Proposal:
        """Find candidates by cosine.

        Call it while the device is held or, if the index is outside this process, on one of the
        threads that search there.

        Args:
            began: when the search began, by `time.perf_counter`; it begins now if None.

        Raises:
            SearchOutdated: the gallery has another embedder than `current`, or other means.
        """
        began = time.perf_counter() if began is None else began
        own = self.gallery.own_index
        centred_by = None if own is None else own.centred_by
        if self.gallery.embedder != self.current.model.embedder:
            raise SearchOutdated
        if centred_by != self.current.centred_by:
            raise SearchOutdated
        wanted = self._filter()
        options = self.options
        index = self.gallery.index
        by_cosine = self.current.scoring == "cosine"
        depth = RERANK_DEPTH if by_cosine else options.rerank_depth
        scored_count = max(options.top_k, depth) if by_cosine else depth
        candidate_count = max(options.top_k, depth, ORDERED_CROPS if by_cosine else 0)
        needs_level = self.sample or self.current.by_level
        near_count = max(candidate_count, NEAR) if needs_level else candidate_count
        cameras = self.cameras_of_queries
        near = index.search(self.queries, cameras, near_count, wanted, by=options.group_by)
        candidates = near[:candidate_count]
        identities = index.identities(wanted)

        # The verdict must not depend on the requested order.
        scored = near[:scored_count]
        head = 0 if by_cosine else len(scored.slots)
        shallow = depth < min(RERANK_DEPTH, candidates.searched)
        # The level describes the gallery's best crops, which a shallow search may not score.
        needs_level = needs_level and not shallow and identities.total >= FEW_IDENTITIES
        people_cosines: tuple[float, ...] = ()
        if needs_level:
            scored, people_cosines = self._extend_to_nine_people(scored, near, wanted)

        result_count = len(candidates.slots)
        if options.group_by != "crop":
            result_count = len(first_positions(candidates.sets))
        if result_count < options.top_k and len(candidates.slots) < candidates.searched:
            # The head has too few identities: append the nearest crops of others.
            groups = index.search(
                self.queries, cameras, options.top_k, wanted, True, options.group_by
            )
            candidates = candidates[:head].extended(groups)
        time_log_odds = None
        if self.times:
            time_log_odds = (
                self.times.log_odds(index.moments(candidates.slots)),
                self.times.log_odds(index.moments(scored.slots)),
            )
        counts_all = not index.counts_filtered and wanted != SearchFilter(without=self.without)
        version = self.gallery.version if candidates.version is None else candidates.version
        return Proposal(
            gallery_version=version,
            candidates=candidates,
            head=head,
            scored=scored,
            time_log_odds=time_log_odds,
            needs_level=needs_level,
            people_cosines=people_cosines,
            identities=identities,
            counts_all=counts_all,
            shallow=shallow,
            began=began,
            found=time.perf_counter(),
        )

    def parts_to_score(self, proposal: Proposal) -> list[slice]:
        """Split the crops to score into parts, between which other work may run."""
        if self.current.scoring == "cosine":
            return []
        networks = self.current.model.networks
        return list(networks.slices_of(len(self.queries), len(proposal.scored.slots)))

    def score(self, proposal: Proposal, part: slice) -> Floats:
        """Return M-Net's scores of one of `parts_to_score`; call it while the device is held."""
        vectors = proposal.scored.vectors[part]
        scores = self.current.model.networks.pair_scores(self.queries, vectors)
        return np.asarray(scores, np.float32)

    def rank(self, proposal: Proposal, scores_of_parts: Sequence[Floats] = ()) -> Ranking:
        """Score the crops that are left to score, then order, group and judge the candidates.

        Call it while the device is held.

        Args:
            scores_of_parts: the scores of the first of `parts_to_score`.
        """
        options = self.options
        candidates = proposal.candidates
        scored = proposal.scored
        head = proposal.head
        by_cosine = self.current.scoring == "cosine"
        scores = scored.cosines
        ranked_by = candidates.cosines
        if not by_cosine:
            parts_left = self.parts_to_score(proposal)[len(scores_of_parts) :]
            rest = [self.score(proposal, part) for part in parts_left]
            scores = np.concatenate([np.empty(0, np.float32), *scores_of_parts, *rest])
            # Crops beyond the head were scored only to estimate the level and are no results.
            ranked_by = np.full(len(candidates.slots), np.nan, np.float32)
            ranked_by[:head] = scores[:head]
        appearance = ranked_by
        if proposal.time_log_odds:
            of_candidates, of_scored = proposal.time_log_odds
            ranked_by = self.current.with_times(ranked_by, of_candidates)
            scores = self.current.with_times(scores, of_scored)

        people_scores = proposal.people_cosines
        if proposal.needs_level and (proposal.time_log_odds or not by_cosine):
            people_scores = leading_scores(scored, scores, self.current.joins_at)
        level = float(np.mean(people_scores[1:])) if len(people_scores) == RANKS else None
        judge = self.current.judge(
            options.operating_point,
            proposal.identities.total,
            level,
            shallow=proposal.shallow,
            galleries=self.galleries,
            pictures=len(self.queries),
            crops=candidates.searched,
            spread=self.current.spread(self.cameras_of_queries),
        )
        if proposal.counts_all:
            judge = replace(judge, state=with_note(judge.state, "counts_all", COUNTS_ALL))
        sample = None
        if self.sample and level is not None and not proposal.counts_all:
            sample = pack_search(people_scores, proposal.identities.total, time.time())

        # By cosine alone the candidates are in order already.
        moved = len(candidates.slots) if by_cosine and proposal.time_log_odds else head
        order = self._order(candidates, ranked_by, moved)
        return Ranking(
            gallery_version=proposal.gallery_version,
            best=candidates[order],
            scores=ranked_by[order],
            appearance=appearance[order],
            judge=judge,
            time_log_odds=proposal.time_log_odds[0][order] if proposal.time_log_odds else None,
            candidates_scored=candidates.searched if by_cosine else head,
            crops_searched=candidates.searched,
            people_searched=proposal.identities.named,
            began=proposal.began,
            found=proposal.found,
            ended=time.perf_counter(),
            sample=sample,
        )

    def _filter(self) -> SearchFilter:
        wanted = self.options.wanted
        excluded = wanted.exclude_cameras
        if self.options.camera_disjoint:
            excluded |= frozenset(self.query_cameras)
        return replace(wanted, exclude_cameras=excluded, without=self.without)

    def _order(self, candidates: Candidates, scores: Floats, head: int) -> Integers:
        """Return the positions of the results among the candidates, best first.

        Args:
            scores: of the candidates, `(n,)`; NaN if a crop was not scored.
            head: number of leading candidates to order by their scores.
        """
        order = np.arange(len(candidates.slots))
        # M-Net scores the head alone: pair scores and bare cosines are not comparable.
        # M-Net saturates on near duplicates. Break ties by cosine, then by age.
        order[:head] = np.lexsort(
            (candidates.slots[:head], -candidates.cosines[:head], -scores[:head])
        )
        if self.options.group_by != "crop":
            order = order[first_positions(candidates.sets[order])]
        elif self.options.order == "neighbours":
            best = order[np.isfinite(scores[order])][:ORDERED_CROPS]
            order[: len(best)] = best[order_by_neighbours(candidates[best], scores[best])]
        return order[: self.options.top_k]

    def results(
        self, ranking: Ranking, labels: Mapping[int, LabelledCrop], spans: Spans
    ) -> list[RankedCrop]:
        """Return the results of a ranking, best first.

        Args:
            labels: labels by slot; crops without labels are omitted.
            spans: fields of whole tracks, by id and camera, to add to the results of the track.
        """
        best = ranking.best
        judge = ranking.judge
        by_cosine = self.current.scoring == "cosine"
        with_vectors = self.options.include_vector
        probabilities = judge.probability(ranking.scores)
        ratios = self.likelihood.of(ranking.appearance) if self.likelihood else None
        query_cameras = self.query_cameras
        results: list[RankedCrop] = []
        for position, slot in enumerate(best.slots.tolist()):
            label = labels.get(slot)
            if label is None:
                continue
            score = float(ranking.scores[position])
            is_scored = not math.isnan(score)
            pair_logit = None
            if is_scored and not by_cosine:
                pair_logit = float(ranking.appearance[position])
            time_log_odds = None
            if is_scored and ranking.time_log_odds is not None:
                time_log_odds = round(float(ranking.time_log_odds[position]), 3)
            likelihood_ratio = None
            # It was fitted to pairs of crops under different cameras.
            if is_scored and ratios is not None and label.camera not in query_cameras:
                likelihood_ratio = float(ratios[position])
            result = RankedCrop(
                rank=len(results) + 1,
                crop_id=label.crop_id,
                **labels_of(label),
                cosine=float(best.cosines[position]),
                pair_logit=pair_logit,
                time_log_odds=time_log_odds,
                probability=float(probabilities[position]) if is_scored else None,
                verdict=judge.verdict(score) if is_scored else None,
                likelihood_ratio=likelihood_ratio,
                image_url=crop_image(self.gallery.name, label.crop_id),
                vector=best.vectors[position].tolist() if with_vectors else None,
                embedding_fingerprint=self.current.model.embedder if with_vectors else None,
            )
            # There is no span if the crop has no track, or if its track has changed since.
            span = spans.get((label.track or "", label.camera))
            results.append(result.model_copy(update=span) if span else result)
        return results

    def _extend_to_nine_people(
        self, scored: Candidates, near: Candidates, wanted: SearchFilter
    ) -> tuple[Candidates, tuple[float, ...]]:
        """Append crops that are scored only to estimate the level, if nine people are found.

        Args:
            scored: crops that are scored in any case, nearest first.
            near: at least the `NEAR` nearest crops.

        Returns:
            The crops to score, and the `leading_scores` of their cosines.
        """
        joins_at = self.current.joins_at
        people_cosines = leading_scores(scored, scored.cosines, joins_at)
        if len(people_cosines) == RANKS or len(scored.slots) == scored.searched:
            return scored, people_cosines
        for depth in (NEAR, DEEPEST):
            if depth == DEEPEST:
                cameras = self.cameras_of_queries
                near = self.gallery.index.search(self.queries, cameras, DEEPEST, wanted)
            extended = scored.extended(near[first_positions(near.groups)], MORE_PAIRS)
            deeper_cosines = leading_scores(extended, extended.cosines, joins_at)
            if len(deeper_cosines) == RANKS:
                # Crops farther than the ninth person need no pair score.
                needed = extended.cosines >= np.float32(deeper_cosines[-1])
                needed[: len(scored.slots)] = True
                return extended[needed], deeper_cosines
        # With fewer people there is no level, and scores for it would be wasted.
        return scored, people_cosines


def order_by_neighbours(crops: Candidates, scores: Floats) -> Integers:
    """Return an order `(n,)`, as positions, that places crops of one person together.

    The neighbours of a named crop are the crops of its identity. Two unnamed crops are neighbours
    if one is among the nearest of the other. A neighbour with a lower score does not move a crop,
    so it may be missing from the list.

    Args:
        crops: best first; the first one stays first.
        scores: of the crops, `(n,)`, descending.
    """
    own_scores = scores.astype(np.float64)
    _, first, groups = np.unique(crops.groups, return_index=True, return_inverse=True)
    best = own_scores[first[groups]]

    unnamed = np.flatnonzero(crops.groups < 0)
    if len(unnamed):
        units = unit_rows(crops.vectors[unnamed])
        cosines = units @ units.T
        np.fill_diagonal(cosines, -1.0)
        near = cosines >= NEIGHBOUR_COSINE
        if len(unnamed) > NEIGHBOURS:
            farthest = np.partition(cosines, -NEIGHBOURS, axis=1)[:, [-NEIGHBOURS]]
            near &= cosines >= farthest
        near |= near.T
        np.fill_diagonal(near, True)
        # The first neighbour of a crop has the best score.
        best[unnamed] = own_scores[unnamed[near.argmax(axis=1)]]

    return np.argsort(-(OWN_WEIGHT * own_scores + (1.0 - OWN_WEIGHT) * best), kind="stable")


def leading_scores(crops: Candidates, scores: Floats, joins_at: float) -> tuple[float, ...]:
    """Return the nine best scores of different people, descending, or fewer.

    From the top, the best remaining crop leads. It takes every crop of its own name and, if either
    of the two has no name, every crop whose cosine with it is at least `joins_at`.

    Args:
        scores: scores of the crops, `(n,)`; NaN for crops that were not scored.
        joins_at: τ, the pair threshold of the cosine at `JOINING_SHARE`.
    """
    groups = crops.groups.tolist()
    is_unnamed = crops.groups < 0
    # Only unnamed crops are compared by vector: they may show a person who is also named.
    units = unit_rows(crops.vectors) if is_unnamed.any() else None
    is_scored = np.isfinite(scores)
    leaders: list[float] = []
    # Each crop without a name has a negative group of its own.
    taken: set[int] = set()
    for position in np.argsort(-scores, kind="stable").tolist():
        if not is_scored[position] or groups[position] in taken:
            continue
        leaders.append(float(scores[position]))
        if len(leaders) == RANKS:
            break
        taken.add(groups[position])
        if units is not None:
            is_near = is_scored & (units @ units[position] >= joins_at)
            if groups[position] >= 0:
                is_near &= is_unnamed
            # All crops of a name that is taken show the same person.
            taken.update(crops.groups[is_near].tolist())
    return tuple(leaders)
