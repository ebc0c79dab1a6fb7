"""Visits: where a person was, and when, from the tracks that show the person."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

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
from model.calibration import ScoringCalibration
from service.engine.admission import PER_RESULT, Admission
from service.errors import InvalidField, UnknownGroup, UnknownIdentity
from service.gallery.gallery import Gallery
from service.gallery.registry import GalleryRegistry
from service.ops.threads import MonitoredThreadPool, heartbeat
from service.record.record import Record
from service.record.values import ListFilter
from service.search.calibration import CurrentCalibration, GalleryCalibrations
from service.search.query import AnsweredQuery
from service.visits.linkage import compare_in_order, measure_scenes
from service.visits.making import describe_visit, link_visits, split_into_visits
from service.visits.reading import SeenCrops, read_seen_crops
from service.visits.tables import Groupings
from service.visits.tracklets import Tracklet, find_tracklets, mean_vectors

# Upper bound on the crops of a person, and on those of the tracks that a search has found.
MOST_CROPS = 10_000
# Upper bound on the tracklets that may show the person: each match is compared with all better
# ones.
MOST_TRACKLETS = 2_000
# The number of results beyond the matches that tell how alike people of the gallery look.
OTHER_CROPS = 100
POSSIBLE = ("match", "uncertain")


@dataclass(frozen=True)
class FoundVisits:
    """The visits that a search of one gallery shows.

    Attributes:
        visits: of tracks with the verdict `match` that show one person.
        uncertain: one for each other track that may show the person.
        is_cut: some of the tracks or of their crops were left out because they are too many.
    """

    visits: list[Visit]
    uncertain: list[Visit]
    is_cut: bool = False


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
    admission: Admission
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
            found = await self._of_results(name, answer, query.calibrations[name])
            visits += found.visits
            uncertain += found.uncertain
            if found.is_cut or _may_have_more(answer.results, top_k):
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
        self, name: str, answer: QueryAnswer, calibration: CurrentCalibration
    ) -> FoundVisits:
        """Find the visits that the answer of a search of the gallery `name` shows.

        A track has the verdict of its best crop. `calibration` is that of the search.
        """
        # With order=neighbours the results are not sorted by probability.
        ranked = sorted(answer.results, key=lambda crop: crop.probability or 0.0, reverse=True)
        possible = {crop.crop_id: crop for crop in ranked if crop.verdict in POSSIBLE}
        if not possible:
            return FoundVisits([], [])
        gallery = await self.galleries.find(name)
        others = [crop.crop_id for crop in ranked if crop.verdict == "no_match"][:OTHER_CROPS]
        slots, left_out = await self._choose_slots(gallery, [*possible, *others], possible.values())
        async with self.admission.admit(PER_RESULT * len(slots)):
            found = await self._judge(gallery, slots, possible, answer.needed, calibration)
        return replace(found, is_cut=found.is_cut or left_out > 0)

    async def _judge(
        self,
        gallery: Gallery,
        slots: Sequence[int],
        results: Mapping[str, RankedCrop],
        needed: float,
        current: CurrentCalibration,
    ) -> FoundVisits:
        crops = await read_seen_crops(self.record, self.galleries, gallery, slots)
        if not crops.labels:
            return FoundVisits([], [])
        if gallery.embedder != current.model.embedder:
            # A reindex has switched the vectors since the search, and these are compared here.
            current = self.calibrations.current(gallery, None)
        read_slots = [crop.slot for crop in crops.labels]
        group_ids = await self.galleries.read(self.groupings.ids, gallery.gallery_id, read_slots)
        return await self.threads.run(
            _judge_tracks, gallery.name, crops, results, needed, current, group_ids
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
        async with self.admission.admit(PER_RESULT * len(slots)):
            crops = await read_seen_crops(self.record, self.galleries, gallery, slots)
            current = self.calibrations.current(gallery, None)
            run = self.threads.run
            visits = await run(link_visits, gallery.name, crops, current, group_id)
        return PersonVisits(results=visits)

    async def _choose_slots(
        self, gallery: Gallery, crop_ids: Collection[str], seen: Collection[RankedCrop]
    ) -> tuple[list[int], int]:
        """Choose the slots of all of these crops and, of those in `seen`, of their tracks.

        Returns:
            The slots, and the number of crops of the tracks that are left out.
        """
        read = self.galleries.read
        gallery_id = gallery.gallery_id
        stored = await read(self.record.crops.by_id, gallery_id, crop_ids)
        found = {crop.slot for crop in stored.values()}
        tracks = {(crop.track, crop.camera) for crop in seen if crop.track is not None}
        if not tracks:
            return sorted(found), 0
        most = max(0, MOST_CROPS - len(found))
        share = self.record.tracks.share_slots
        slots, left_out = await read(share, gallery_id, tracks, found, most)
        return sorted([*found, *slots]), left_out


@dataclass(frozen=True)
class FoundTracklets:
    """Tracklets of the crops that a search has found, and of others of the gallery.

    Attributes:
        tracklets: of `crops`.
        best: the best result of each tracklet that has one, by its number.
        needed: the probability of a match.
        group_ids: ids of groups by slot.
    """

    gallery: str
    crops: SeenCrops
    tracklets: Sequence[Tracklet]
    best: Mapping[int, RankedCrop]
    needed: float
    group_ids: Mapping[int, str]

    def visits(self, calibration: ScoringCalibration) -> FoundVisits:
        """Make the visits of one person, and one for each tracklet that may show the person.

        Args:
            calibration: that of the cosine.
        """
        ranked = sorted(self.best, key=self._probability, reverse=True)
        judged = ranked[:MOST_TRACKLETS]
        matches = [number for number in judged if self.best[number].verdict == "match"]
        person = self._choose_person(matches, calibration)
        visits = [
            self._describe(visit, "match") for visit in split_into_visits(self.tracklets, person)
        ]
        shown = frozenset(person)
        others = [number for number in judged if number not in shown]
        uncertain = [self._describe([number], "uncertain") for number in others]
        return FoundVisits(visits, uncertain, len(judged) < len(ranked))

    def _choose_person(self, matches: Sequence[int], calibration: ScoringCalibration) -> list[int]:
        """Return the matches that are likelier to show the person of the better ones than another.

        Args:
            matches: numbers of tracklets, best first.
            calibration: that of the cosine.
        """
        if not matches:
            return []
        means = mean_vectors(self.crops, self.tracklets)
        scenes = measure_scenes(means, self.tracklets, calibration, heartbeat)
        tracklets = [self.tracklets[number] for number in matches]
        ratios = compare_in_order(means[matches], tracklets, scenes, calibration)
        person: list[int] = []
        names: set[str] = set()
        # The sum of the log-likelihood ratios of each match and the person's tracklets.
        sums = np.zeros(len(matches))
        for row, (number, ratios_behind) in enumerate(zip(matches, ratios, strict=True)):
            heartbeat()
            name = tracklets[row].identity
            shows = name in names if name and names else sums[row] >= 0.0
            if not shows:
                continue
            person.append(number)
            if name:
                names.add(name)
            sums[row + 1 :] += ratios_behind
        return person

    def _describe(self, visit: Sequence[int], verdict: Verdict) -> Visit:
        best = self.best[max(visit, key=self._probability)]
        own = [self.tracklets[number] for number in visit]
        described = describe_visit(self.gallery, self.crops, own, best.crop_id)
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
) -> FoundVisits:
    """Divide the crops into tracklets, and make visits of those that have results.

    Args:
        results: results that are `match` or `uncertain`, best first, by the id of their crop.
        needed: the probability of a match.
        group_ids: ids of groups by slot.
    """
    tracklets = find_tracklets(crops, current.joins_at, heartbeat)
    numbers = {
        crops.labels[position].crop_id: number
        for number, tracklet in enumerate(tracklets)
        for position in tracklet.positions
    }
    best: dict[int, RankedCrop] = {}
    for crop_id, result in results.items():
        if crop_id in numbers:
            best.setdefault(numbers[crop_id], result)
    found = FoundTracklets(gallery, crops, tracklets, best, needed, group_ids)
    return found.visits(current.model.cosine_calibration)


def _may_have_more(results: Sequence[RankedCrop], top_k: int) -> bool:
    """Return True if crops that were not compared may be of the person too."""
    is_cut_off = len(results) == top_k or any(crop.verdict is None for crop in results)
    return is_cut_off and all(crop.verdict != "no_match" for crop in results)


def _newest_first(visits: list[Visit]) -> list[Visit]:
    oldest = datetime.min.replace(tzinfo=UTC)
    return sorted(visits, key=lambda visit: visit.last_seen or oldest, reverse=True)
