"""Leave-one-out searches: each sampled named crop searches a gallery without its own identity."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.arrays import Array, Floats
from model.calibration import Scoring
from model.centring import CameraMeans
from model.gallery_thresholds import LeftOutSearches, mean_scale
from model.left_out import (
    PICTURES,
    leaders_by_name,
    sampled_crops,
    sampled_groups,
    subgalleries,
)
from model.order_statistics import RANKS
from service.engine.device import DeviceThread
from service.engine.networks import LoadedModel
from service.gallery.registry import GalleryRegistry
from service.index.columns import Columns
from service.index.filters import SearchFilter
from service.ops.threads import MonitoredThreadPool
from service.record.tracks import Tracks
from service.search.options import RERANK_DEPTH
from service.search.times import LearnedTimes

Integers = NDArray[np.int64]
# A scoring, and whether times are in the scores.
Kind = tuple[Scoring, bool]
# Upper bound on pairs of crops compared; above 100,000 crops in a gallery, fewer crops search it.
MOST_COMPARISONS = 10**8
# Lower bound on the crops that search a gallery, however large it is.
FEWEST_CROPS = 200
# Upper bound on the crops that search a part of the gallery.
CROPS_OF_A_PART = 300
# Upper bounds on the people whose crops are averaged, and on the crops of each.
MOST_PEOPLE = 300
CROPS_OF_A_PERSON = 64
# Each step holds about four arrays of this many scores.
SCORES_PER_STEP = 2**22
CROPS_PER_STEP = 64


@dataclass(frozen=True)
class NamedCrops:
    """Named crops of a gallery at one moment.

    Attributes:
        columns: columns with their vectors.
        slots: `(n,)`; or `(n, k)` for n queries that each average k crops.
        names, cameras: codes, `(n,)`; -1 for an unknown camera.
        spreads: that of each crop's camera, `(n,)`; 1 if none was measured.
        means: means that comparisons subtract, by codes of `columns`; None without centring.
    """

    columns: Columns
    slots: Integers
    names: Integers
    cameras: Integers
    spreads: Array
    means: CameraMeans | None = None

    def camera_codes(self) -> dict[str, int]:
        """Return the codes of known cameras of the crops, by name."""
        names = self.columns.camera_names()
        codes = np.unique(self.cameras[self.cameras >= 0]).tolist()
        return {names[code + 1]: code for code in codes}

    @classmethod
    def of(cls, columns: Columns) -> NamedCrops:
        """Select the living crops with an identity, to be compared without centring.

        Call this on the thread that writes the columns; any thread may then read the vectors.
        """
        slots = columns.select(SearchFilter(named=True))
        cameras = columns.cameras[slots].astype(np.int64) - 1
        return cls(columns, slots, columns.groups[slots], cameras, np.ones(len(slots)))

    def compared_by(self, means: CameraMeans | None, spreads: Mapping[int, float]) -> NamedCrops:
        """Return the crops to be compared by means and spreads.

        Args:
            means: by codes of `columns`; None to compare plain vectors.
            spreads: by codes of `cameras`; that of any other camera is 1.
        """
        of_crops = [spreads.get(code, 1.0) for code in self.cameras.tolist()]
        return replace(self, spreads=np.array(of_crops, np.float64), means=means)

    def at(self, positions: Integers | slice) -> NamedCrops:
        return replace(
            self,
            slots=self.slots[positions],
            names=self.names[positions],
            cameras=self.cameras[positions],
            spreads=self.spreads[positions],
        )

    def units(self, slots: Integers) -> Floats:
        """Return the vectors of some of the crops as comparisons use them; see `Columns.units`."""
        return self.columns.units(self.columns.compared(slots, self.means))

    def unit_parts(self) -> Iterator[tuple[slice, Floats]]:
        """Yield the `units` of all crops in parts, each with its slice of the crops."""
        return self.columns.unit_parts(self.columns.compared(self.slots, self.means))

    def by_name(self) -> NamedCrops:
        """Return the crops ordered by name, with names numbered in the order of their first crops.

        The codes of the columns depend on a secret of the record. By numbers, equal galleries of
        two records have equal samples and so equal thresholds.
        """
        _, first, codes = np.unique(self.names, return_index=True, return_inverse=True)
        numbers = np.argsort(np.argsort(first))[codes]
        order = np.argsort(numbers, kind="stable")
        return replace(self.at(order), names=numbers[order])


@dataclass(frozen=True)
class LeaveOneOut:
    """Searches galleries with their own named crops.

    Attributes:
        threads: the calibration's thread.
    """

    device: DeviceThread
    galleries: GalleryRegistry
    tracks: Tracks
    threads: MonitoredThreadPool

    async def search(
        self, model: LoadedModel, crops: NamedCrops, times: LearnedTimes | None = None
    ) -> dict[Kind, list[LeftOutSearches]]:
        """Search the gallery and parts of it, by every scoring, with a sample of its crops.

        Cosines are computed on the calibration's thread. The device thread scores the pairs of one
        crop at a time, so that no query waits longer than that.

        Args:
            crops: ordered by name.
            times: what the gallery has learned about times; None for appearance alone.

        Returns:
            For each scoring, without and with times, the searches of the whole gallery, and then
            those of each part.
        """
        results: dict[Kind, list[LeftOutSearches]] = {kind: [] for kind in _kinds(model, times)}
        for queries, searched in await self.threads.run(_plan_searches, crops):
            identities = len(np.unique(searched.names))
            leaders = await self._search(model, queries, searched, times)
            for kind, searches in results.items():
                searches.append(LeftOutSearches(leaders[kind], queries.names, identities))
        return results

    async def measure_mean_scales(
        self,
        model: LoadedModel,
        gallery_id: int,
        crops: NamedCrops,
        times: LearnedTimes | None = None,
    ) -> dict[Kind, list[tuple[int, float]]]:
        """Search the gallery by the mean of several crops, and by each of these crops.

        Args:
            crops: ordered by name.
            times: what the gallery has learned about times; None for appearance alone.

        Returns:
            For each scoring, without and with times, the score scale of the means relative to that
            of single crops, by number of crops; empty if too few people have several crops.
        """
        results: dict[Kind, list[tuple[int, float]]] = {kind: [] for kind in _kinds(model, times)}
        threads = self.threads
        sample = await threads.run(_sample_repeated_people, crops)
        slots = np.sort(sample.slots).tolist()
        by_slot = self.tracks.by_slot
        tracks = await self.galleries.read(lambda: dict(by_slot(gallery_id, slots)))
        for size in PICTURES:
            groups = await threads.run(_plan_means, sample, tracks, size, len(crops.slots))
            if not len(groups.slots):
                continue
            group_of_crop = np.repeat(np.arange(len(groups.slots)), size)
            single_crops = replace(groups.at(group_of_crop), slots=groups.slots.reshape(-1))
            leaders_of_means = await self._search(model, groups, crops, times)
            leaders_of_crops = await self._search(model, single_crops, crops, times)
            for kind, scales in results.items():
                mean_leaders = leaders_of_means[kind][:, None]
                crop_leaders = leaders_of_crops[kind].reshape(-1, size, RANKS)
                scale = mean_scale(np.hstack([mean_leaders, crop_leaders]), groups.names)
                if scale is not None:
                    scales.append((size, scale))
        return results

    async def _search(
        self,
        model: LoadedModel,
        queries: NamedCrops,
        searched: NamedCrops,
        times: LearnedTimes | None,
    ) -> dict[Kind, Array]:
        """Return the nine best identity scores of each query by every kind of score, `(n, 9)`.

        Scores of cosines are divided by the spread of the query's camera.
        """
        leaders: dict[Kind, list[Array]] = {kind: [] for kind in _kinds(model, times)}
        calibrations = model.description.calibration.scorings
        threads = self.threads
        pair_scores = model.networks.pair_scores
        step = max(1, min(CROPS_PER_STEP, SCORES_PER_STEP // len(searched.slots)))
        for start in range(0, len(queries.slots), step):
            part = queries.at(slice(start, start + step))
            positions, cosines = await threads.run(_find_nearest, part, searched)
            names = searched.names[positions]
            slots = searched.slots[positions]
            log_odds = None
            if times:
                log_odds = await threads.run(_log_odds_of_times, part, searched, positions, times)
            for scoring in model.description.scorings:
                scores = cosines
                if scoring == "mnet":
                    scores = np.empty_like(cosines)
                    for row, query_slots in enumerate(part.slots):
                        query = part.columns.vectors[query_slots.reshape(-1)]
                        others = searched.columns.vectors[slots[row]]
                        scores[row] = await self.device.run(pair_scores, query, others)
                # M-Net scores excluded crops too, and fails on some.
                usable = np.isfinite(cosines) & np.isfinite(scores)
                scores = np.where(usable, scores, np.float32(-np.inf))
                leaders[scoring, False].append(await threads.run(leaders_by_name, scores, names))
                if log_odds is not None:
                    timed = scores + log_odds / calibrations[scoring].slope
                    leaders[scoring, True].append(await threads.run(leaders_by_name, timed, names))
        found = {kind: np.concatenate(parts) for kind, parts in leaders.items()}
        for scoring, is_timed in found:
            if scoring == "cosine":
                found[scoring, is_timed] /= queries.spreads[:, None]
        return found


def _kinds(model: LoadedModel, times: LearnedTimes | None) -> list[Kind]:
    scorings = model.description.scorings
    return [
        (scoring, timed) for timed in ((False, True) if times else (False,)) for scoring in scorings
    ]


def _log_odds_of_times(
    queries: NamedCrops, searched: NamedCrops, positions: Integers, times: LearnedTimes
) -> Array:
    """Return the log-odds of times of each query for its candidates, `(n, c)`.

    Args:
        positions: positions of the candidates in `searched`, `(n, c)`.
    """
    log_odds = np.zeros(positions.shape)
    query_slots = queries.slots.reshape(len(queries.slots), -1)
    for row, slots in enumerate(query_slots):
        asked = queries.columns.moments(slots)
        crops = searched.columns.moments(searched.slots[positions[row]])
        for camera, captured in zip(asked.cameras.tolist(), asked.captured.tolist(), strict=True):
            if camera and math.isfinite(captured):
                log_odds[row] += times.log_odds(camera, captured, crops)
    return log_odds / query_slots.shape[1]


def _plan_searches(crops: NamedCrops) -> list[tuple[NamedCrops, NamedCrops]]:
    """Return pairs of the crops that search and the crops that they search.

    The first pair searches the whole gallery, the others parts of it.
    """
    generator = np.random.default_rng(len(crops.slots))
    sample = sampled_crops(crops.names, generator)[: _limit_queries(len(crops.slots))]
    plan: list[tuple[NamedCrops, NamedCrops]] = []
    for identities in subgalleries(crops.names, generator):
        queries = crops.at(sample[:CROPS_OF_A_PART] if plan else sample)
        searched = crops.at(np.flatnonzero(np.isin(crops.names, identities)))
        plan.append((queries, searched))
    return plan


def _limit_queries(searched: int) -> int:
    return max(FEWEST_CROPS, MOST_COMPARISONS // max(1, searched))


def _sample_repeated_people(crops: NamedCrops) -> NamedCrops:
    generator = np.random.default_rng(len(crops.slots))
    _, starts, counts = np.unique(crops.names, return_index=True, return_counts=True)
    people = generator.permutation(np.flatnonzero(counts > 1))[:MOST_PEOPLE]
    positions = [
        starts[person] + generator.permutation(counts[person])[:CROPS_OF_A_PERSON]
        for person in people
    ]
    return crops.at(np.concatenate([np.empty(0, np.int64), *positions]))


def _plan_means(
    crops: NamedCrops, tracks: Mapping[int, str], size: int, searched: int
) -> NamedCrops:
    """Return groups of crops to average.

    Args:
        tracks: track ids by slot, unique within a camera.
        searched: number of crops that each group searches.
    """
    generator = np.random.default_rng(size)
    codes: dict[tuple[int, str], int] = {}
    track_codes = np.full(len(crops.slots), -1, np.int64)
    for position, slot in enumerate(crops.slots.tolist()):
        if slot in tracks:
            track = (int(crops.cameras[position]), tracks[slot])
            track_codes[position] = codes.setdefault(track, len(codes))
    groups = sampled_groups(crops.names, (track_codes, crops.cameras), size, generator)
    groups = groups[: _limit_queries(searched) // size]
    return replace(crops.at(groups[:, 0]), slots=crops.slots[groups])


def _find_nearest(queries: NamedCrops, searched: NamedCrops) -> tuple[Integers, Floats]:
    """Choose candidates for each query as a search does, and return their cosines.

    Candidates are the nearest crops of other identities, and the nearest crop of each of the nine
    nearest identities; some occur twice. Excluded crops have a cosine of −∞.

    Args:
        searched: ordered by name.

    Returns:
        Positions in `searched`, and cosines, `(n, c)`.
    """
    query_slots = queries.slots.reshape(len(queries.slots), -1)
    units = queries.units(query_slots).mean(axis=1)
    cosines = np.empty((len(units), len(searched.slots)), np.float32)
    for part, others in searched.unit_parts():
        cosines[:, part] = units @ others.T
    cosines[queries.names[:, None] == searched.names] = -np.inf
    starts = np.flatnonzero(np.diff(searched.names, prepend=-1))
    crops_each = np.diff(starts, append=len(searched.slots))
    best = np.maximum.reduceat(cosines, starts, axis=1)
    is_best = cosines == np.repeat(best, crops_each, axis=1)
    nearest = _find_largest(cosines, RERANK_DEPTH)
    nearest_identities = _find_largest(np.where(is_best, cosines, -np.inf), RANKS)
    positions = np.concatenate([nearest, nearest_identities], axis=1)
    return positions, np.take_along_axis(cosines, positions, axis=1)


def _find_largest(scores: NDArray[np.floating], count: int) -> Integers:
    count = min(count, scores.shape[1])
    return np.asarray(np.argpartition(scores, -count, axis=1)[:, -count:], np.int64)
