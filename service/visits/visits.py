"""Visits: where a person was, and when, from the tracks that show the person."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from gmn_client.models import (
    GalleriesAnswer,
    PersonVisits,
    QueryAnswer,
    RankedCrop,
    Verdict,
    Visit,
    VisitsAnswer,
)
from model.arrays import Array, Floats
from service.errors import InvalidField, UnknownGroup, UnknownIdentity
from service.gallery.gallery import Gallery
from service.gallery.registry import GalleryRegistry
from service.links import crop_image
from service.ops.threads import MonitoredThreadPool
from service.record.record import Record
from service.record.values import ListFilter
from service.search.calibration import CurrentCalibration, GalleryCalibrations
from service.search.query import AnsweredQuery
from service.visits.linkage import log_likelihood_ratios
from service.visits.reading import SeenCrops, read_seen_crops
from service.visits.tables import Groupings
from service.visits.tracklets import Tracklet, find_tracklets

# Tracklets of a person at one camera are one visit if no more than this lies between them.
VISIT_GAP_SECONDS = 5 * 60.0
# Upper bound on the crops of a person, and on those of the tracks that a search has found.
MOST_CROPS = 10_000
# The number of results beyond the matches that tell how alike people of the gallery look.
OTHER_CROPS = 100
POSSIBLE = ("match", "uncertain")


@dataclass(frozen=True)
class VisitFinder:
    """Finds the visits of a person in a gallery.

    Attributes:
        threads: compare tracklets.
    """

    record: Record
    galleries: GalleryRegistry
    calibrations: GalleryCalibrations
    groupings: Groupings
    threads: MonitoredThreadPool

    async def of_query(
        self, query: AnsweredQuery, merged: GalleriesAnswer, top_k: int
    ) -> VisitsAnswer:
        """Find the visits that the answers of a query show, in each of its galleries.

        Args:
            merged: the merged answers.
            top_k: number of results that each gallery was asked for.
        """
        visits: list[Visit] = []
        uncertain: list[Visit] = []
        incomplete: list[str] = []
        for name, answer in query.answers.items():
            found, possible = await self._of_results(name, answer, query.calibrations[name])
            visits += found
            uncertain += possible
            if _may_have_more(answer.results, top_k):
                incomplete.append(name)
        verdict = merged.verdict
        if verdict != "nothing_searched":
            verdict = "match" if visits else "uncertain" if uncertain else "no_match"
        return VisitsAnswer(
            verdict=verdict,
            far=merged.far,
            gallery_far=merged.gallery_far,
            warnings=merged.warnings,
            results=_newest_first(visits),
            uncertain=_newest_first(uncertain),
            incomplete=incomplete,
        )

    async def _of_results(
        self, name: str, answer: QueryAnswer, current: CurrentCalibration
    ) -> tuple[list[Visit], list[Visit]]:
        """Find the visits that the answer of a search shows.

        A track has the verdict of its best crop.

        Args:
            name: the gallery.
            current: the calibration of the search.

        Returns:
            The visits of tracks with the verdict `match` that show one person, and one for each
            other track that may show the person.
        """
        # With order=neighbours the results are not sorted by probability.
        ranked = sorted(answer.results, key=lambda crop: crop.probability or 0.0, reverse=True)
        possible = {crop.crop_id: crop for crop in ranked if crop.verdict in POSSIBLE}
        if not possible:
            return [], []
        gallery = await self.galleries.find(name)
        others = [crop.crop_id for crop in ranked if crop.verdict == "no_match"][:OTHER_CROPS]
        slots = await self._find_slots(gallery, [*possible, *others], possible.values())
        crops = await read_seen_crops(self.record, self.galleries, gallery, slots)
        if not crops.labels:
            return [], []
        if gallery.embedder != current.model.embedder:
            # A reindex has switched the vectors since the search, and these are compared here.
            current = self.calibrations.current(gallery, None)
        read_slots = [crop.slot for crop in crops.labels]
        group_ids = await self.galleries.read(self.groupings.ids, gallery.gallery_id, read_slots)
        return await self.threads.run(
            _judge_tracks, name, crops, possible, answer.needed, current, group_ids
        )

    async def of_identity(
        self,
        gallery: Gallery,
        identity: str,
        after: datetime | None = None,
        before: datetime | None = None,
    ) -> PersonVisits:
        """Find the visits of a person with a name.

        Args:
            after, before: times of capture, or None for no bound.

        Raises:
            InvalidField: the person has too many crops.
            UnknownIdentity: no crop of the gallery has the name.
        """
        wanted = ListFilter(
            identities=frozenset({identity}),
            captured_after=after,
            captured_before=before,
            set_aside=False,
        )
        read = self.galleries.read
        slots = await read(self.record.crops.slots, gallery.gallery_id, wanted, MOST_CROPS + 1)
        if len(slots) > MOST_CROPS:
            raise InvalidField(
                f"captured_after, captured_before: the person has more than {MOST_CROPS:,} crops; "
                "send a shorter time"
            )
        if not slots and not await read(self.record.people.counts, gallery.gallery_id, [identity]):
            raise UnknownIdentity(gallery.name, identity)
        return await self._of_person(gallery, slots, None)

    async def of_group(self, gallery: Gallery, group_id: str) -> PersonVisits:
        """Find the visits of a group of crops without names.

        Raises:
            UnknownGroup: the latest grouping has no such group.
        """
        slots = await self.galleries.read(self.groupings.slots, gallery.gallery_id, group_id)
        if not slots:
            raise UnknownGroup(gallery.name, group_id)
        return await self._of_person(gallery, slots, group_id)

    async def _of_person(
        self, gallery: Gallery, slots: Sequence[int], group_id: str | None
    ) -> PersonVisits:
        crops = await read_seen_crops(self.record, self.galleries, gallery, slots)
        current = self.calibrations.current(gallery, None)
        run = self.threads.run
        visits = await run(_link_visits, gallery.name, crops, current, group_id)
        return PersonVisits(results=visits)

    async def _find_slots(
        self, gallery: Gallery, crop_ids: Collection[str], seen: Collection[RankedCrop]
    ) -> list[int]:
        """Return the slots of crops and, of those in `seen`, of all crops of their tracks."""
        read = self.galleries.read
        gallery_id = gallery.gallery_id
        stored = await read(self.record.crops.by_id, gallery_id, crop_ids)
        slots = [crop.slot for crop in stored.values()]
        tracks = {(crop.track, crop.camera) for crop in seen if crop.track is not None}
        if tracks:
            slots += await read(self.record.tracks.slots_of, gallery_id, tracks)
        return sorted(set(slots))[:MOST_CROPS]


@dataclass(frozen=True)
class FoundTracklets:
    """Tracklets of the crops that a search has found, and of others of the gallery.

    Attributes:
        tracklets: of `crops`.
        ratios: their log-likelihood ratios, `(t, t)`.
        best: the best result of each tracklet that has one, by its number.
        needed: the probability of a match.
        group_ids: ids of groups by slot.
    """

    gallery: str
    crops: SeenCrops
    tracklets: Sequence[Tracklet]
    ratios: Array
    best: Mapping[int, RankedCrop]
    needed: float
    group_ids: Mapping[int, str]

    def visits(self) -> tuple[list[Visit], list[Visit]]:
        """Make the visits of one person, and one for each tracklet that may show the person."""
        ranked = sorted(self.best, key=self._probability, reverse=True)
        person: list[int] = []
        others: list[int] = []
        for number in ranked:
            is_match = self.best[number].verdict == "match"
            (person if is_match and self._shows(number, person) else others).append(number)
        visits = [
            self._describe(visit, "match") for visit in _split_into_visits(self.tracklets, person)
        ]
        return visits, [self._describe([number], "uncertain") for number in others]

    def _shows(self, number: int, person: Sequence[int]) -> bool:
        """Return True if a match is likelier to show the person of better matches than another."""
        if not person:
            return True
        names = {self.tracklets[other].identity for other in person} - {None}
        if names and (name := self.tracklets[number].identity):
            return name in names
        return bool(self.ratios[number, person].mean() >= 0.0)

    def _describe(self, visit: Sequence[int], verdict: Verdict) -> Visit:
        best = self.best[max(visit, key=self._probability)]
        own = [self.tracklets[number] for number in visit]
        described = _describe(self.gallery, self.crops, own, best.crop_id)
        positions = np.concatenate([tracklet.positions for tracklet in own])
        slots = [self.crops.labels[position].slot for position in positions]
        group_ids = [self.group_ids[slot] for slot in slots if slot in self.group_ids]
        return described.model_copy(
            update={
                "group_id": group_ids[0] if group_ids and not described.identity else None,
                "verdict": verdict,
                "probability": best.probability,
                "needed": self.needed,
            }
        )

    def _probability(self, number: int) -> float:
        return self.best[number].probability or 0.0


def _judge_tracks(
    gallery: str,
    crops: SeenCrops,
    results: Mapping[str, RankedCrop],
    needed: float,
    current: CurrentCalibration,
    group_ids: Mapping[int, str],
) -> tuple[list[Visit], list[Visit]]:
    """Divide the crops into tracklets, and make visits of those that have results.

    Args:
        results: results that are `match` or `uncertain`, best first, by the id of their crop.
        needed: the probability of a match.
        group_ids: ids of groups by slot.
    """
    calibration = current.model.cosine_calibration
    tracklets = find_tracklets(crops, current.joins_at)
    numbers = {
        crops.labels[position].crop_id: number
        for number, tracklet in enumerate(tracklets)
        for position in tracklet.positions
    }
    best: dict[int, RankedCrop] = {}
    for crop_id, result in results.items():
        if crop_id in numbers:
            best.setdefault(numbers[crop_id], result)
    ratios = log_likelihood_ratios(crops, tracklets, calibration)
    return FoundTracklets(gallery, crops, tracklets, ratios, best, needed, group_ids).visits()


def _may_have_more(results: Sequence[RankedCrop], top_k: int) -> bool:
    """Return True if crops that were not compared may be of the person too."""
    is_cut_off = len(results) == top_k or any(crop.verdict is None for crop in results)
    return is_cut_off and all(crop.verdict != "no_match" for crop in results)


def _link_visits(
    gallery: str, crops: SeenCrops, current: CurrentCalibration, group_id: str | None
) -> list[Visit]:
    """Make the visits of one person in the order of time, each compared with the one before."""
    calibration = current.model.cosine_calibration
    tracklets = find_tracklets(crops, current.joins_at)
    visits: list[Visit] = []
    mean_before: Floats | None = None
    for numbers in _split_into_visits(tracklets, range(len(tracklets))):
        own = [tracklets[number] for number in numbers]
        positions = np.concatenate([tracklet.positions for tracklet in own])
        mean = crops.units[positions].mean(axis=0)
        typical = positions[np.argmax(crops.units[positions] @ mean)]
        visit = _describe(gallery, crops, own, crops.labels[typical].crop_id)
        fields: dict[str, Any] = {"group_id": group_id}
        if mean_before is not None:
            fields["gap_seconds"] = _measure_gap(visits[-1], visit)
            fields["link_probability"] = float(calibration.probability(mean_before @ mean))
        mean_before = mean
        visits.append(visit.model_copy(update=fields))
    return visits


def _measure_gap(before: Visit, visit: Visit) -> float | None:
    if before.last_seen is None or visit.first_seen is None:
        return None
    return max(0.0, (visit.first_seen - before.last_seen).total_seconds())


def _split_into_visits(tracklets: Sequence[Tracklet], numbers: Iterable[int]) -> list[list[int]]:
    """Divide tracklets of one person into visits, in the order of time, with unknown times last.

    Tracklets without a camera or a time may be of any, and are visits of their own.
    """
    visits: list[list[int]] = []
    # The visit that each camera saw last, and its end.
    latest: dict[str, tuple[list[int], float]] = {}
    for number in sorted(numbers, key=lambda number: _unknown_last(tracklets[number].first)):
        tracklet = tracklets[number]
        if tracklet.camera is None or math.isnan(tracklet.first):
            visits.append([number])
            continue
        visit, end = latest.get(tracklet.camera, ([], -math.inf))
        if tracklet.first - end > VISIT_GAP_SECONDS:
            visit = []
            visits.append(visit)
        visit.append(number)
        latest[tracklet.camera] = visit, max(end, tracklet.last)
    return visits


def _unknown_last(time: float) -> float:
    return math.inf if math.isnan(time) else time


def _describe(
    gallery: str, crops: SeenCrops, visit: Sequence[Tracklet], best_crop_id: str
) -> Visit:
    """Describe a visit; the first of its crops is the given one, and the others follow in time."""
    labels = [crops.labels[position] for tracklet in visit for position in tracklet.positions]
    others = [crop.crop_id for crop in labels if crop.crop_id != best_crop_id]
    first = min(_unknown_last(tracklet.first) for tracklet in visit)
    last = max(_unknown_last(tracklet.last) for tracklet in visit)
    return Visit(
        gallery=gallery,
        camera=visit[0].camera,
        identity=next((tracklet.identity for tracklet in visit if tracklet.identity), None),
        group_id=None,
        first_seen=_as_moment(first),
        last_seen=_as_moment(last),
        tracks=list(dict.fromkeys(tracklet.track for tracklet in visit if tracklet.track)),
        crops=len(labels),
        crop_ids=[best_crop_id, *others],
        image_url=crop_image(gallery, best_crop_id),
    )


def _as_moment(time: float) -> datetime | None:
    return datetime.fromtimestamp(time, UTC) if math.isfinite(time) else None


def _newest_first(visits: list[Visit]) -> list[Visit]:
    oldest = datetime.min.replace(tzinfo=UTC)
    return sorted(visits, key=lambda visit: visit.last_seen or oldest, reverse=True)
