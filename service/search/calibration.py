"""Calibration of each gallery: what its verdicts are made by, and the scores of its searches."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from gmn_client.models import CalibrationReason, CalibrationState, Verdict
from model.calibration import SEARCH_OPERATING_POINTS, Scoring
from model.gallery_thresholds import GalleryThresholds, artefact_thresholds
from model.search_calibration import (
    FEW_IDENTITIES,
    JOINING_SHARE,
    KEPT_SEARCHES,
    RANKS,
    SearchCalibration,
    SearchScores,
    artefact_search_calibration,
    few_identities,
)
from service.engine.networks import LoadedModel
from service.gallery.gallery import Gallery
from service.record.record import Record
from service.record.records import CalibrationMode, PublishedCalibration

log = logging.getLogger(__name__)
VERSION_DIGITS = 8
# Queries as near as that are taken for pictures of one person's one passage.
REPEATED_COSINE = 0.9
# So many queries are held, of so many galleries, the last searched ones.
RECENT_QUERIES = 64
RECENT_GALLERIES = 64
KEY_BYTES = 16
# A gallery's number and a subject: a scoring and the artefact whose scores they are.
Place = tuple[int, str]
Probability = Callable[[NDArray[np.floating]], NDArray[np.float64]]
WHY: Mapping[CalibrationReason | None, str] = {
    None: ": this gallery's calibration is off",
    "not_fitted": f", until {FEW_IDENTITIES} people are named in this gallery",
    "few_identities": f": the search covers fewer than {FEW_IDENTITIES} people",
    "few_scored": f": fewer than {RANKS} people were scored",
    "shallow_search": ": a search with this rerank_depth is too shallow for the gallery's",
}


class Publication(BaseModel):
    """A calibration as it is stored for every process on the record.

    Attributes:
        fitted_at: seconds since 1970, for people: nothing is decided by it.
        calibration: fitted to the gallery's named crops, or without enough of these to searches.
        counted: how many searches had been stored in all at the fit.
        identities, crops: those that the gallery held at the fit to its named crops.
        level: the mean level of strangers among them, for a pair, which has none of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fitted_at: float
    calibration: GalleryThresholds | SearchCalibration
    counted: int = 0
    identities: int = 0
    crops: int = 0
    level: float = 0.0

    @classmethod
    def read(cls, stored: PublishedCalibration | None) -> Publication | None:
        """A published calibration; None where there is none or another program version wrote it."""
        with contextlib.suppress(ValidationError):
            return cls.model_validate_json(stored.body) if stored else None
        return None


@dataclass(frozen=True)
class Judge:
    """What gives the results of one search their verdicts and probabilities.

    Attributes:
        match, uncertain: the scores from which on a result is one.
        probability: of scores, same shape, strictly increasing.
        state: what the answer shows of the calibration.
    """

    match: float
    uncertain: float
    probability: Probability
    state: CalibrationState

    def verdict(self, score: float) -> Verdict:
        """The verdict on a score."""
        if score >= self.match:
            return "match"
        return "uncertain" if score >= self.uncertain else "no_match"


@dataclass(frozen=True)
class CurrentCalibration:
    """What verdicts on one gallery's searches by one scoring are made by, at one moment.

    Attributes:
        model: what makes the features that are compared.
        scoring: what orders the results.
        subject: its scores are stored under this name.
        artefact: the artefact's own calibration.
        few: the same for searches among fewer than 18 identities.
        joins_at: the cosine from which a crop without a name is taken for the same person.
        setting: of the gallery.
        stored: how many of its searches are stored.
        version: of what is published.
        published: None where the artefact judges.
    """

    model: LoadedModel
    scoring: Scoring
    subject: str
    artefact: SearchCalibration
    few: GalleryThresholds
    joins_at: float
    setting: CalibrationMode = "on"
    stored: int = 0
    version: str = ""
    published: Publication | None = None

    @property
    def by_level(self) -> bool:
        """Whether a search is judged by the level of its own scores."""
        return self.published is not None and isinstance(
            self.published.calibration, GalleryThresholds
        )

    def judge(
        self, operating_point: str, identities: int, level: float | None, shallow: bool = False
    ) -> Judge:
        """Judges a search that covers K identities.

        Args:
            level: the mean of its second to ninth best score of different people; None where it
                scored fewer than nine.
            shallow: these are not the best of the gallery.
        """
        state = self.as_state(identities, level, shallow)
        fitted: GalleryThresholds | SearchCalibration = self.artefact
        if few_identities(identities):
            fitted = self.few
            level = 0.0
        elif self.published and state.date:
            fitted = self.published.calibration
        far = SEARCH_OPERATING_POINTS[operating_point]
        rates = far, max(far, SEARCH_OPERATING_POINTS["far_1e-1"])
        probability: Probability
        if isinstance(fitted, GalleryThresholds):
            level = level or 0.0
            threshold = partial(fitted.threshold, level=level, identities=identities)
            probability = partial(fitted.probability, level=level, identities=identities)
        else:
            threshold = partial(fitted.threshold, identities=identities)
            probability = fitted.probability
        match, uncertain = map(threshold, rates)
        return Judge(match, min(match, uncertain), probability, state)

    def as_state(
        self, identities: int, level: float | None = 0.0, shallow: bool = False
    ) -> CalibrationState:
        """What an answer shows of it after a search that covered K identities; see `judge`."""
        reason: CalibrationReason | None = None
        if self.setting == "off":
            pass
        elif shallow:
            reason = "shallow_search"
        elif few_identities(identities):
            reason = "few_identities"
        elif self.published is None:
            reason = "not_fitted"
        elif self.by_level and level is None:
            reason = "few_scored"
        elif self.published.calibration.extrapolated(identities):
            reason = "extrapolated"
        own_version = self.model.calibration_version
        if self.published is None or self.setting == "off" or reason not in (None, "extrapolated"):
            return CalibrationState(
                state="artefact" if self.setting == "on" else self.setting,
                reason=reason,
                basis=f"The model's own thresholds{WHY[reason]}.",
                searches=self.stored,
                version=own_version,
            )
        fitted = self.published
        return CalibrationState(
            state="own" if self.setting == "on" else "frozen",
            reason=reason,
            basis=_basis(fitted, identities if reason else None, self.setting == "frozen"),
            identities=fitted.identities,
            crops=fitted.crops,
            searches=fitted.calibration.searches,
            version=f"{own_version}+{self.version}",
            date=datetime.fromtimestamp(fitted.fitted_at, UTC),
        )


def _basis(fitted: Publication, beyond: int | None, frozen: bool) -> str:
    """The sentence for a fit; `beyond` is K where the search covers many more identities."""
    parts = []
    if fitted.identities:
        parts.append(f"{fitted.identities:,} named people in this gallery")
    if fitted.calibration.searches:
        one = fitted.calibration.searches == 1
        parts.append(f"{fitted.calibration.searches:,} {'search' if one else 'searches'}")
    wider = f", for a search of {beyond:,} people" if beyond else ""
    return f"Thresholds from {' and '.join(parts)}{wider}{', frozen' if frozen else ''}."


class GalleryCalibrations:
    """The calibration of every gallery, and the scores of searches that are not stored yet.

    May be used from any thread. A gallery without searches takes no memory here.
    """

    def __init__(self, record: Record, models: Mapping[str, LoadedModel]) -> None:
        """Knows what the artefacts bring; `models` are by the fingerprints of their embedders."""
        self._record = record
        self._models = models
        # What does not depend on the gallery.
        self._of_artefacts: dict[tuple[str, Scoring], CurrentCalibration] = {}
        for embedder, model in models.items():
            scorings = model.description.calibration.scorings
            joins_at = scorings["cosine"].pair_threshold(JOINING_SHARE)
            for scoring, one in scorings.items():
                subject = f"{scoring}:{model.description.artefact_fingerprint}"
                artefact = artefact_search_calibration(one)
                few = artefact_thresholds(one)
                own = CurrentCalibration(model, scoring, subject, artefact, few, joins_at)
                self._of_artefacts[embedder, scoring] = own
        self._lock = threading.Lock()
        self._published: dict[int, dict[str, tuple[str, Publication]]] = {}
        self._stored: dict[int, dict[str, int]] = {}
        self._waiting: dict[Place, dict[str, bytes]] = {}
        self._recent: dict[int, _RecentQueries] = {}

    def current(self, gallery: Gallery, scoring: Scoring | None) -> CurrentCalibration:
        """What one search of a gallery is judged by from its beginning to its end.

        Without a scoring it is the default of the artefact that answers.

        Raises:
            NeedsReindex: no loaded model answers for it.
            InvalidField: the artefact does not offer the scoring.
        """
        embedder = gallery.embedder
        number = gallery.gallery_id
        own = self._of_artefacts[embedder, self._models[embedder].chosen_scoring(scoring)]
        version, published = self._published.get(number, {}).get(own.subject, ("", None))
        return replace(
            own,
            setting=gallery.settings.calibration,
            stored=self._stored.get(number, {}).get(own.subject, 0),
            version=version,
            published=published,
        )

    def reload(self, gallery: Gallery) -> None:
        """Takes what is published for a gallery now, by this process or another; blocks."""
        read: dict[str, tuple[str, Publication]] = {}
        published = self._record.calibrations.published(gallery.gallery_id)
        for subject, one in published.items():
            publication = Publication.read(one)
            if publication is None:
                log.warning("gallery %s: its calibration is unreadable, fit again", gallery.name)
            else:
                digest = hashlib.sha256(one.body.encode()).hexdigest()
                read[subject] = digest[:VERSION_DIGITS], publication
        if not read:
            # Dropped, with the searches behind it: those that wait here are older too.
            self.forget(gallery)
            return
        with self._lock:
            self._published[gallery.gallery_id] = read

    def forget(self, gallery: Gallery) -> None:
        """Drops what is known of a gallery and of its searches, from memory alone."""
        number = gallery.gallery_id
        with self._lock:
            for known in (self._published, self._stored, self._recent):
                known.pop(number, None)
            for place in [place for place in self._waiting if place[0] == number]:
                del self._waiting[place]

    def note_stored(self, place: Place, searches: int) -> None:
        """Notes how many searches are stored for a subject, to be shown before the first fit."""
        with self._lock:
            self._stored.setdefault(place[0], {})[place[1]] = searches

    def record_search_scores(
        self, place: Place, query: NDArray[np.float32], scores: SearchScores
    ) -> None:
        """Keeps the scores of a search until they are stored; no answer waits for that.

        A search by nearly the same query, a feature `(d,)`, is replaced. Only a few queries stay,
        and only in memory.
        """
        with self._lock:
            key = self._key_of(place[0], query)
            waiting = self._waiting.setdefault(place, {})
            waiting.pop(key, None)
            waiting[key] = scores.to_bytes()
            # Where the record takes none for long, only those count that would be kept.
            _keep_last(waiting, KEPT_SEARCHES)

    def take_recorded(self) -> dict[Place, list[tuple[str, bytes]]]:
        """Hands over the searches that wait to be stored; they are no longer held here."""
        with self._lock:
            taken = self._waiting
            self._waiting = {}
        return {place: list(rows.items()) for place, rows in taken.items()}

    def _key_of(self, gallery_id: int, query: NDArray[np.float32]) -> str:
        """Return the key of the nearest of the last queries, or a new one if none is near."""
        recent = self._recent.pop(gallery_id, None)
        if recent is None or recent.units.shape[1] != len(query):
            # The features of a model before may have another size.
            recent = _RecentQueries(len(query))
        self._recent[gallery_id] = recent
        _keep_last(self._recent, RECENT_GALLERIES)
        return recent.key_of(query / max(float(np.linalg.norm(query)), 1e-12))


class _RecentQueries:
    """The last queries of a gallery: features of unit length `(n, d)`, each with a key."""

    def __init__(self, dimension: int) -> None:
        self.units = np.zeros((RECENT_QUERIES, dimension), np.float32)
        self._keys = [""] * RECENT_QUERIES
        self._used_at = np.zeros(RECENT_QUERIES, np.int64)
        self._queries = 0

    def key_of(self, unit: NDArray[np.float32]) -> str:
        cosines = self.units @ unit
        place = int(cosines.argmax())
        if cosines[place] < REPEATED_COSINE:
            place = int(self._used_at.argmin())
            self._keys[place] = secrets.token_hex(KEY_BYTES)
        self.units[place] = unit
        self._queries += 1
        self._used_at[place] = self._queries
        return self._keys[place]


def _keep_last(held: dict[Any, Any], limit: int) -> None:
    while len(held) > limit:
        del held[next(iter(held))]
