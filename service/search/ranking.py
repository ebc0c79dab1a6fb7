"""One search: the index proposes by cosine, then pairs are scored, ordered, grouped, judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmn_client.models import QueryAnswer, RankedCrop, Timing
from model.calibration import Scoring
from model.pair_scores import unit_rows
from model.search_calibration import RANKS, UNNAMED, SearchScores, few_identities, leading_scores
from service.engine.networks import PASSES_PER_SLICE, LoadedModel, passes_of
from service.errors import UnknownCrop
from service.gallery.gallery import Gallery
from service.record.records import CropLabel
from service.search.calibration import CurrentCalibration, Judge
from service.search.candidates import Candidates
from service.search.filters import Filter
from service.search.options import RERANK_DEPTH, QueryOptions

Array = NDArray[np.float32]
_Best = tuple[Candidates, Array, Array]
# So many pairs at most are scored for the level of a search alone.
MORE_PAIRS = 64
# People are sought among so many crops by cosine, and where these show too few among more.
NEAR = 400
DEEPEST = 1600
COUNTS_ALL = (
    "It counts the people of the whole gallery: how many pass the filter is not known to its index."
)


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
class Proposal:
    """What a search found by cosine, to be scored and ordered.

    Attributes:
        queries: features `(m, d)` of one person.
        found: what becomes results.
        head: so many of the first of them are scored by M-Net.
        scored: these, then for the level alone the nearest crops of further people; of a search by
            cosine all that were found.
        shows_level: whether nine people are among the scored.
        identities: how many the search covers.
        counts_all: these are the gallery's, of which a filter lets through fewer.
        shallow: the scored are not the best of the gallery.
        query_crop: of a search by `crop_id`.
        began, ended: as `time.perf_counter` has it.
    """

    queries: Array
    found: Candidates
    head: int
    scored: Candidates
    shows_level: bool
    identities: int
    counts_all: bool
    shallow: bool
    query_crop: CropLabel | None
    began: float
    ended: float


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

    def propose(self, top_k: int, without: frozenset[int] = frozenset()) -> Proposal:
        """Finds the candidates by cosine alone, on the thread that the index belongs to.

        Args:
            top_k: the number of results, in place of the option.
            without: `row_id`s of crops to leave out.

        Raises:
            UnknownCrop: the gallery does not hold the crop.
        """
        began = time.perf_counter()
        options = self.options
        index = self.gallery.index
        crop = None
        queries = self.queries
        camera = options.camera
        if queries is None:
            crop_id = options.crop_id or ""
            held = index.find(crop_id)
            if held is None:
                raise UnknownCrop(self.gallery.name, crop_id)
            crop = held[0]
            queries = held[1][None]
            camera = crop.camera
            without = without | {crop.row_id}
        wanted = options.filter(camera, without)
        by_cosine = self.current.scoring == "cosine"
        depth = 0 if by_cosine else options.rerank_depth
        judged_by_level = self.sample or self.current.by_level
        wide = max(top_k, depth or RERANK_DEPTH)
        near = index.search(queries, max(wide, NEAR if judged_by_level else 0), wanted)
        found = near[:wide]
        identities = index.identities(wanted)
        shallow = not by_cosine and depth < min(RERANK_DEPTH, found.searched)
        people = None
        scored = found if by_cosine else found[:depth]
        if judged_by_level and not shallow and not few_identities(identities):
            deeper = partial(index.search, queries, DEEPEST, wanted)
            people = _nine_people(scored, near, deeper, self.current.joins_at)
        by_identity = options.group_by == "identity"
        places = len(found.first_of_groups() if by_identity else found.row_ids)
        if places < top_k and len(found.row_ids) < found.searched:
            # The candidates belong to too few identities. They keep their scores and stay the head.
            found = found[:depth].extended(index.search_groups(queries, top_k, wanted))
        head = len(scored.row_ids) if depth else 0
        ended = time.perf_counter()
        scored = people or scored
        level = people is not None
        all_counted = not index.counts_filtered and wanted != Filter(without=wanted.without)
        counts = identities, all_counted
        return Proposal(queries, found, head, scored, level, *counts, shallow, crop, began, ended)

    def rank(
        self,
        top_k: int,
        without: frozenset[int] = frozenset(),
        proposal: Proposal | None = None,
    ) -> Ranking | Proposal | None:
        """Score pairs, order, group and judge, on the device thread.

        Args:
            proposal: what `propose` found on another thread; by default it is asked here, with the
                other arguments.

        Returns:
            A proposal, independent of the index, where scoring its pairs would keep the device
            thread from others: score it in slices, and call `finish`. None where the gallery went
            over to another embedder since `current` was read.
        """
        if self.gallery.embedder != self.current.model.embedder:
            return None
        proposal = proposal or self.propose(top_k, without)
        scored = proposal.scored
        began = time.perf_counter()
        if self.current.scoring == "cosine":
            unscored = np.full(len(scored.row_ids), np.nan, np.float32)
            return self.finish(proposal, top_k, unscored, began)
        if passes_of(len(proposal.queries), len(scored.row_ids)) > PASSES_PER_SLICE:
            version = self.gallery.version
            return replace(
                proposal, found=proposal.found.copied(version), scored=scored.copied(version)
            )
        logits = self.current.model.networks.pair_scores(proposal.queries, scored.vectors())
        return self.finish(proposal, top_k, logits, began)

    def finish(
        self, proposal: Proposal, top_k: int, logits: Array, scoring_began: float
    ) -> Ranking:
        """Order, group and judge what was scored; on the device thread.

        Args:
            logits: M-Net's scores of `proposal.scored`, `(n,)`; NaN where there is none.
            scoring_began: when the scoring of these pairs began, as `time.perf_counter` has it.
        """
        current = self.current
        found = proposal.found
        scored = proposal.scored
        # Pairs that were scored for the level alone are no results.
        best = self._best(found, logits[: proposal.head], top_k)
        leading: tuple[float, ...] = ()
        if proposal.shows_level:
            scores = every_score(current.model, scored.cosines, logits)[current.scoring]
            leading = _leading_scores(scored, scores, current.joins_at)
        level = float(np.mean(leading[1:])) if len(leading) == RANKS else None
        judge = current.judge(
            self.options.operating_point, proposal.identities, level, proposal.shallow
        )
        labels = best[0].labels()
        state = judge.state
        if proposal.counts_all:
            state = state.model_copy(update={"basis": f"{state.basis} {COUNTS_ALL}"})
        results = self._results(labels, best, judge)
        search = proposal.ended - proposal.began
        rerank = time.perf_counter() - scoring_began
        times = {"search": search * 1e3, "rerank": rerank * 1e3}
        answer = QueryAnswer(
            gallery_version=self.gallery.version if found.version is None else found.version,
            calibration_version=str(state.version),
            calibration=state,
            model=current.model.description.artefact_fingerprint,
            scoring=current.scoring,
            verdict="nothing_searched",
            warnings=[],
            results=results,
            candidates_scored=found.searched if current.scoring == "cosine" else proposal.head,
            timing_ms=Timing(decode=0.0, queue=0.0, embed=0.0, total=0.0, **times),
        )
        sample = None
        if self.sample and len(leading) == RANKS and not proposal.counts_all:
            sample = SearchScores(leading, proposal.identities, time.time())
        return Ranking(answer, labels, proposal.began, sample, proposal.query_crop)

    def _best(self, found: Candidates, head: Array, top_k: int) -> _Best:
        """The candidates that become results; `head` has the logits of the first ones.

        Scored ones come first: a pair's logit and a bare cosine cannot be compared.

        Returns:
            Candidates best first, with their logits and scores `(n,)`; NaN was not computed.
        """
        logits = np.full(len(found.row_ids), np.nan, np.float32)
        logits[: len(head)] = head
        scores = every_score(self.current.model, found.cosines, logits)[self.current.scoring]
        order = np.arange(len(found.row_ids))
        if self.current.scoring != "cosine":
            # M-Net may saturate on near copies: of equals the nearer comes first, then the older.
            first = slice(0, len(head))
            ages = found.row_ids[first]
            farness = -found.cosines[first]
            order[first] = np.lexsort((ages, farness, -scores[first]))
        if self.options.group_by == "identity":
            order = order[found[order].first_of_groups()]
        order = order[:top_k]
        return found[order], logits[order], scores[order]

    def _results(self, labels: Sequence[CropLabel], best: _Best, judge: Judge) -> list[RankedCrop]:
        found, logits, scores = best
        probabilities = judge.probability(scores)
        with_vector: list[dict[str, Any]] = [{}] * len(labels)
        if self.options.include_vector:
            embedder = self.current.model.embedder
            with_vector = [
                {"vector": one.tolist(), "embedding_fingerprint": embedder}
                for one in found.vectors()
            ]
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
                **with_vector[place],
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
    scored: Candidates, near: Candidates, deeper: Callable[[], Candidates], joins_at: float
) -> Candidates:
    """The candidates that are scored, then the nearest crop of each further person, by cosine.

    So many are added that nine people have a score, and 64 at most. None are added where there
    are too few people or they are too far off.

    Args:
        near: the scored and farther ones, among which people are sought first.
        deeper: searches for more.
    """
    more = scored
    people = _leading_scores(scored, scored.cosines, joins_at)
    if len(people) == RANKS or len(scored.row_ids) == scored.searched:
        return scored
    for far in (False, True):
        found = deeper() if far else near
        more = scored.extended(found[found.first_of_groups()], MORE_PAIRS)
        people = _leading_scores(more, more.cosines, joins_at)
        if len(people) == RANKS:
            break
    else:
        return scored
    enough = np.flatnonzero(more.cosines >= np.float32(people[-1]))
    return more[np.union1d(np.arange(len(scored.row_ids)), enough)]


def _leading_scores(found: Candidates, scores: Array, joins_at: float) -> tuple[float, ...]:
    """The best scores of up to nine different people among candidates, descending.

    A score `(n,)` is NaN where the candidate was not scored.
    """
    scored = np.isfinite(scores)
    groups = found.groups[scored]
    units = np.empty((len(scores), 0), np.float32)
    codes = np.where(groups < 0, UNNAMED, groups)
    if UNNAMED in codes:
        # Named crops are compared with these alone.
        units = unit_rows(found[scored].vectors())
    return leading_scores(scores[scored], codes, units, joins_at)
