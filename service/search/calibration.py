"""Calibration of each gallery: what its verdicts are made by, and the scores of its searches."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from gmn_client.models import CalibrationReason, CalibrationSource, CalibrationState, Verdict
from model.calibration import SEARCH_OPERATING_POINTS, Scoring
from model.search_calibration import (
    JOINING_SHARE,
    KEPT_SEARCHES,
    REFIT_AFTER_SEARCHES,
    SearchCalibration,
    SearchScores,
    artefact_search_calibration,
    few_identities,
)
from service.engine.networks import LoadedModel
from service.gallery.gallery import Gallery
from service.record.record import Record

log = logging.getLogger(__name__)
VERSION_DIGITS = 8
# Queries as near as that are taken for pictures of one person's one passage.
REPEATED_COSINE = 0.9
RECENT_QUERIES = 64
# The recent queries of so many galleries are held, the last searched ones.
RECENT_GALLERIES = 64
KEY_BYTES = 16
# A gallery's number and a subject: a scoring and the artefact whose scores they are.
Place = tuple[int, str]


class Publication(BaseModel):
    """A calibration as it is stored for every process on the record.

    Attributes:
        fitted_at: seconds since 1970.
        calibration: fitted to the searches that were stored by then.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fitted_at: float
    calibration: SearchCalibration

    @classmethod
    def read(cls, body: str) -> Publication | None:
        """A published calibration; None where another program version wrote it."""
        try:
            return cls.model_validate_json(body)
        except ValidationError:
            return None


@dataclass(frozen=True)
class CurrentCalibration:
    """What verdicts on one gallery's searches by one scoring are made by, at one moment.

    Attributes:
        model: what makes the features that are compared.
        scoring: what orders the results.
        subject: its scores are stored under this name.
        calibration: gives thresholds and probabilities.
        artefact: the artefact's own.
        joins_at: the cosine from which a crop without a name is taken for the same person.
        version: equal versions are equal calibrations.
        state, searches, date: as in `CalibrationState`.
        shallow: the artefact judges, because of the search's small depth.
    """

    model: LoadedModel
    scoring: Scoring
    subject: str
    calibration: SearchCalibration
    artefact: SearchCalibration
    joins_at: float
    version: str
    state: CalibrationSource
    searches: int
    date: datetime | None = None
    shallow: bool = False

    def thresholds(self, operating_point: str, identities: int) -> tuple[float, float]:
        """The scores of `match` and `uncertain` in a search that covers K identities."""
        far = SEARCH_OPERATING_POINTS[operating_point]
        match = self.calibration.threshold(far, identities)
        permissive = max(far, SEARCH_OPERATING_POINTS["far_1e-1"])
        return match, min(match, self.calibration.threshold(permissive, identities))

    def for_shallow_search(self) -> CurrentCalibration:
        """The artefact's, for a search whose few best scores are not the gallery's."""
        version = self.version.partition("+")[0]
        return replace(
            self,
            calibration=self.artefact,
            version=version,
            state="artefact",
            searches=0,
            date=None,
            shallow=True,
        )

    def shown(self, identities: int) -> CalibrationState:
        """What an answer shows of it after a search that covered K identities."""
        reason: CalibrationReason | None = None
        if self.shallow:
            reason = "shallow_search"
        elif few_identities(identities):
            reason = "few_identities"
        elif self.date is None and self.state != "off":
            reason = "few_searches"
        elif self.calibration.extrapolated(identities):
            reason = "extrapolated"
        own_unused = self.state == "own" and reason == "few_identities"
        return CalibrationState(
            state="artefact" if own_unused else self.state,
            reason=reason,
            searches=self.searches,
            version=self.version,
            date=self.date,
        )


def verdict(score: float, match: float, uncertain: float) -> Verdict:
    """The verdict on a score by the thresholds of `match` and `uncertain`."""
    if score >= match:
        return "match"
    return "uncertain" if score >= uncertain else "no_match"


class Calibrations:
    """The calibration of every gallery, and the scores of searches that are not stored yet.

    May be used from any thread; `ready` lives on the event loop. A gallery without searches takes
    no memory here.

    Attributes:
        ready: set once so many searches wait that they are worth a commit.
    """

    def __init__(self, record: Record, models: Mapping[str, LoadedModel]) -> None:
        """Knows what the artefacts bring; `models` are by the fingerprints of their embedders."""
        self.ready = asyncio.Event()
        self._record = record
        self._models = models
        self._artefacts = {
            embedder: {
                scoring: artefact_search_calibration(one)
                for scoring, one in model.description.calibration.scorings.items()
            }
            for embedder, model in models.items()
        }
        self._joins_at = {
            embedder: model.description.calibration.scorings["cosine"].pair_threshold(JOINING_SHARE)
            for embedder, model in models.items()
        }
        self._lock = threading.Lock()
        self._published: dict[int, dict[str, tuple[str, Publication]]] = {}
        self._stored: dict[int, dict[str, int]] = {}
        self._waiting: dict[Place, dict[str, bytes]] = {}
        self._recent: dict[int, dict[str, NDArray[np.float32]]] = {}
        self._secret = secrets.token_bytes(KEY_BYTES)

    def current(self, gallery: Gallery, asked: Scoring | None) -> CurrentCalibration:
        """What one search of a gallery is judged by from its beginning to its end.

        Where no scoring is asked for, it is the default of the artefact that answers.

        Raises:
            NeedsReindex: no loaded model answers for it.
            InvalidField: the artefact does not offer the scoring.
        """
        embedder = gallery.embedder
        model = self._models[embedder]
        scoring = model.chosen_scoring(asked)
        subject = f"{scoring}:{model.description.artefact_fingerprint}"
        setting, artefact = gallery.settings.calibration, self._artefacts[embedder][scoring]
        version, found = self._published.get(gallery.gallery_id, {}).get(subject, ("", None))
        current = CurrentCalibration(
            model,
            scoring,
            subject,
            artefact,
            artefact,
            self._joins_at[embedder],
            model.calibration_version,
            "artefact" if setting == "on" else setting,
            self._stored.get(gallery.gallery_id, {}).get(subject, 0),
        )
        if found is None or setting == "off":
            return current
        return replace(
            current,
            calibration=found.calibration,
            version=f"{current.version}+{version}",
            state="own" if setting == "on" else "frozen",
            searches=found.calibration.searches,
            date=datetime.fromtimestamp(found.fitted_at, UTC),
        )

    def follow(self, gallery: Gallery) -> None:
        """Takes what is published for a gallery now, by this process or another; blocks."""
        read: dict[str, tuple[str, Publication]] = {}
        published = self._record.calibrations.published(gallery.gallery_id)
        for subject, one in published.items():
            publication = Publication.read(one.body)
            if publication is None:
                log.warning("gallery %s: its calibration is unreadable, fit again", gallery.name)
            else:
                digest = hashlib.sha256(one.body.encode()).hexdigest()
                read[subject] = digest[:VERSION_DIGITS], publication
        with self._lock:
            if read:
                self._published[gallery.gallery_id] = read
            else:
                # Dropped, with the searches behind it: those that wait here are older too.
                self._published.pop(gallery.gallery_id, None)
                self._stored.pop(gallery.gallery_id, None)
                self._drop_waiting(gallery.gallery_id)

    def forget(self, gallery: Gallery) -> None:
        """Drops what is known of a gallery and of its searches, from memory alone."""
        with self._lock:
            for known in (self._published, self._stored, self._recent):
                known.pop(gallery.gallery_id, None)
            self._drop_waiting(gallery.gallery_id)

    def note_stored(self, place: Place, searches: int) -> None:
        """Notes how many searches are stored for a subject, to be shown before the first fit."""
        with self._lock:
            self._stored.setdefault(place[0], {})[place[1]] = searches

    def record_search_scores(
        self, place: Place, query: NDArray[np.float32], scores: SearchScores
    ) -> None:
        """Keeps the scores of a search until they are stored; no answer waits for that.

        A search by nearly the same query is replaced.

        Args:
            place: the gallery and the subject.
            query: the feature `(d,)`. Only a few of these stay, and only in memory.
            scores: of the nine best people.
        """
        with self._lock:
            key = self._key_of(place[0], query)
            waiting = self._waiting.setdefault(place, {})
            waiting.pop(key, None)
            waiting[key] = scores.to_bytes()
            # Where the record takes none for long, only those count that would be kept.
            _keep_last(waiting, KEPT_SEARCHES)
            if len(waiting) >= REFIT_AFTER_SEARCHES:
                self.ready.set()

    def take_recorded(self) -> dict[Place, list[tuple[str, bytes]]]:
        """Hands over the searches that wait to be stored; they are no longer held here."""
        with self._lock:
            self.ready.clear()
            taken, self._waiting = self._waiting, {}
        return {place: list(rows.items()) for place, rows in taken.items()}

    def _drop_waiting(self, gallery_id: int) -> None:
        for place in [place for place in self._waiting if place[0] == gallery_id]:
            del self._waiting[place]

    def _key_of(self, gallery_id: int, query: NDArray[np.float32]) -> str:
        """The key of the nearest of the last queries where that is near enough, else a new one."""
        recent = self._recent.pop(gallery_id, {})
        # A gallery that went over to another model may have features of another size.
        recent = {key: unit for key, unit in recent.items() if len(unit) == len(query)}
        self._recent[gallery_id] = recent
        _keep_last(self._recent, RECENT_GALLERIES)
        unit = (query / max(float(np.linalg.norm(query)), 1e-12)).astype(np.float32)
        digest = hashlib.blake2b(query.tobytes(), digest_size=KEY_BYTES, key=self._secret)
        key = digest.hexdigest()
        if recent:
            cosines = np.stack(list(recent.values())) @ unit
            if cosines.max() >= REPEATED_COSINE:
                key = list(recent)[int(cosines.argmax())]
        recent.pop(key, None)
        recent[key] = unit
        _keep_last(recent, RECENT_QUERIES)
        return key


def _keep_last(held: dict[Any, Any], limit: int) -> None:
    while len(held) > limit:
        del held[next(iter(held))]
