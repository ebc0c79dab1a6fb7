"""The silent people of a watch list: tracks that they explain better raise no alert."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gmn_client.models import SilentPeople
from model.arrays import Array
from model.calibration import ScoringCalibration
from service.engine.networks import LoadedModel
from service.errors import NeedsReindex, UnknownGallery
from service.gallery.registry import GalleryRegistry
from service.ops.threads import MonitoredThreadPool
from service.search.leave_one_out import NamedCrops
from service.search.refit import CalibrationFitter
from service.watch.scores import Vectors, WatchList

# Upper bounds on a silent gallery, of which every armed list holds a copy.
MOST_PEOPLE = 500
MOST_CROPS = 5000
# Odds that a track shows a silent person rather than a listed one, before its crops are compared:
# staff pass every day, and who is looked for rarely does.
SILENT_ODDS = 30.0


@dataclass(frozen=True)
class SilentGallery:
    """A gallery of silent people, as a list is compared with it.

    Attributes:
        people: its named crops, without the people of the list; None if nobody is kept silent, as
            `why` explains.
        advantage: cosine by which a listed person has to be nearer to a track.
    """

    name: str
    people: WatchList | None
    advantage: float = 0.0
    why: str | None = None

    def limits(self, vectors: Vectors) -> Array:
        """Return the cosine that a listed person has to reach at each crop `(m, d)`.

        It is −∞ if nobody is kept silent.
        """
        if self.people is None:
            return np.full(len(vectors), -np.inf)
        return self.people.score(vectors).cosines + self.advantage

    def describe(self, tracks: int) -> SilentPeople:
        """Describe the silent people, with the number of tracks that were kept silent."""
        people = self.people.size if self.people else 0
        return SilentPeople(gallery=self.name, people=people, tracks=tracks, why=self.why)


@dataclass
class Likeness:
    """The best cosine of a track with a list, and the one that it has to reach.

    Both are cosines of the same crops by the same embedder, whose log-likelihood ratio of a pair is
    linear in its cosine. So they are on one scale. Thresholds, and the level of a search among the
    people of a gallery, play no part.
    """

    listed: float = -math.inf
    limit: float = -math.inf

    def add_look(self, listed: float, limit: float) -> None:
        self.listed = max(self.listed, listed)
        self.limit = max(self.limit, limit)

    @property
    def is_of_silent(self) -> bool:
        """True if a silent person explains the track better than every listed one."""
        return self.listed < self.limit


def advantage_of(pairs: ScoringCalibration) -> float:
    """Return the difference of cosines that outweighs `SILENT_ODDS`.

    Args:
        pairs: the artefact's calibration of cosines.
    """
    return math.log(SILENT_ODDS) / pairs.slope


async def read_silent(
    galleries: GalleryRegistry,
    fitter: CalibrationFitter,
    threads: MonitoredThreadPool,
    name: str,
    listed: NamedCrops,
    model: LoadedModel,
) -> SilentGallery:
    """Read the silent people of a list.

    A gallery that cannot be used is no error, so that the list goes on ringing.

    Args:
        threads: threads that copy their vectors.
        name: name of their gallery.
        listed: the crops of the list, whose people are never silent.
        model: the model whose embedder made their vectors.
    """

    try:
        gallery = await galleries.find(name)
        of_gallery = gallery.embedder
        crops = await fitter.read_named_crops(gallery)
    except UnknownGallery:
        why = f"there is no gallery {name}; create it, or arm the list with another"
        return SilentGallery(name, None, why=why)
    except NeedsReindex as error:
        return SilentGallery(name, None, why=error.detail)
    fault = _find_fault(name, crops, is_comparable=of_gallery == model.embedder)
    if fault is not None:
        return SilentGallery(name, None, why=fault)
    people = await threads.run(_leave_out, crops, listed)
    if people is None:
        why = f"everybody in {name} is on the list, too; enroll others"
        return SilentGallery(name, None, why=why)
    pairs = model.cosine_calibration
    return SilentGallery(name, people, advantage_of(pairs))


def _find_fault(name: str, crops: NamedCrops, is_comparable: bool) -> str | None:
    if not len(crops.slots):
        return f"nobody in {name} has a name; enroll crops with names"
    if not is_comparable:
        return (
            f"{name} has vectors of another embedder than the list; reindex the one that is "
            "outdated"
        )
    if len(crops.slots) > MOST_CROPS or len(set(crops.names.tolist())) > MOST_PEOPLE:
        return (
            f"{name} has too many crops; silent people are at most {MOST_PEOPLE:,}, with "
            f"{MOST_CROPS:,} named crops"
        )
    return None


def _leave_out(crops: NamedCrops, listed: NamedCrops) -> WatchList | None:
    """Return the silent people without those whose names are on the list; None if nobody is left.

    Equal names have equal codes in all galleries of a record.
    """
    codes = crops.columns.groups[crops.slots]
    codes_of_list = listed.columns.groups[listed.slots]
    left = crops.at(np.flatnonzero(~np.isin(codes, codes_of_list)))
    if not len(left.slots):
        return None
    return WatchList(left.columns.vectors[left.slots], left.names, left.cameras)


def summarize_silent(galleries: GalleryRegistry, name: str | None) -> object:
    """Return values that change when the silent people of a list have to be read again."""
    if name is None:
        return None
    try:
        gallery = galleries.get(name)
    except UnknownGallery:
        return None
    return gallery.gallery_id, gallery.version, gallery.generation
