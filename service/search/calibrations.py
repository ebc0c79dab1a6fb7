"""Which calibration is in force: for each gallery and scoring the artefact's, or its own."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from pydantic import BaseModel, ConfigDict, ValidationError

from gmn_client.models import CalibrationReason, CalibrationSource, CalibrationState
from model.calibration import Fusion, Scoring
from model.candidate_groups import joining_cosine
from model.search_calibration import (
    SearchCalibration,
    artefact_search_calibration,
    few_identities,
)
from service.engine.networks import LoadedModel
from service.gallery.gallery import Gallery
from service.record.record import Record

log = logging.getLogger(__name__)
VERSION_DIGITS = 8


class Publication(BaseModel):
    """A calibration as it is stored for every process on the record.

    Attributes:
        fitted_at: seconds since 1970.
        calibration: fitted to the searches that were stored by then.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fitted_at: float
    calibration: SearchCalibration


@dataclass(frozen=True)
class CalibrationInForce:
    """One scoring's calibration of a gallery at one moment.

    Attributes:
        calibration: gives thresholds and probabilities.
        version: names it; equal versions are equal calibrations.
    """

    calibration: SearchCalibration
    version: str
    state: CalibrationSource
    searches: int
    date: datetime | None = None

    def for_search(self, identities: int, shallow: bool = False) -> CalibrationState:
        """The calibration as the answer to one search shows it.

        Args:
            identities: K, how many the search covered.
            shallow: it was judged by the artefact for its small depth.
        """
        state, reason = self.state, self._reason(identities, shallow)
        if state == "own" and reason in ("few_identities", "shallow_search"):
            state = "artefact"
        return CalibrationState(
            state=state,
            reason=reason,
            searches=self.searches,
            version=self.version,
            date=self.date,
        )

    def _reason(self, identities: int, shallow: bool) -> CalibrationReason | None:
        if shallow:
            return "shallow_search"
        if few_identities(identities):
            return "few_identities"
        if self.date is None:
            return None if self.state == "off" else "few_searches"
        return "extrapolated" if self.calibration.extrapolated(identities) else None


@dataclass(frozen=True)
class SearchJudge:
    """What the verdicts of one search are made by.

    Attributes:
        scoring: the one that orders the results.
        subject: what its scores are stored under.
        in_force: the gallery's.
        artefacts: what judges a search of small depth, whose best scores are not the gallery's.
        fusion: makes the fused score; None of an artefact without M-Net.
        joins_at: the cosine from which a crop without a name is taken for the same person.
    """

    scoring: Scoring
    subject: str
    in_force: CalibrationInForce
    artefacts: CalibrationInForce
    fusion: Fusion | None
    joins_at: float


class Calibrations:
    """The published calibrations of every gallery, by the artefact whose scores they are of.

    May be read from any thread. A gallery without a publication takes no memory here.
    """

    def __init__(self, record: Record, model_of: Callable[[Gallery], LoadedModel]) -> None:
        self._record = record
        self._model_of = model_of
        self._lock = threading.Lock()
        self._artefacts: dict[tuple[str, Scoring], SearchCalibration] = {}
        self._joining: dict[str, float] = {}
        self._published: dict[int, dict[str, tuple[str, Publication]]] = {}
        self._kept: dict[int, dict[str, int]] = {}

    def of(self, gallery: Gallery, scoring: Scoring) -> CalibrationInForce:
        """What judges a gallery's searches by one scoring.

        Raises:
            NeedsReindex: where no loaded model answers for it.
        """
        setting = gallery.settings.calibration
        subject = self.subject(gallery, scoring)
        found = self._published.get(gallery.gallery_id, {}).get(subject)
        if found is None or setting == "off":
            state: CalibrationSource = "artefact" if setting == "on" else setting
            kept = self._kept.get(gallery.gallery_id, {}).get(subject, 0)
            return self._artefacts_own(gallery, scoring, state, kept)
        version, published = found
        return CalibrationInForce(
            published.calibration,
            f"{self._artefact_version(gallery)}+{version}",
            "own" if setting == "on" else "frozen",
            published.calibration.searches,
            datetime.fromtimestamp(published.fitted_at, UTC),
        )

    def judge(self, gallery: Gallery, asked: Scoring | None) -> SearchJudge:
        """What one search of a gallery is judged by from its beginning to its end.

        Args:
            gallery: what is searched.
            asked: the scoring; None for the default of the artefact that answers.

        Raises:
            NeedsReindex: where no loaded model answers for it.
            InvalidField: the artefact does not offer the scoring.
        """
        model = self._model_of(gallery)
        scoring, description = model.chosen_scoring(asked), model.description
        fingerprint = description.artefact_fingerprint
        if fingerprint not in self._joining:
            cosine = description.calibration.scorings["cosine"]
            self._joining[fingerprint] = joining_cosine(cosine)
        return SearchJudge(
            scoring,
            self.subject(gallery, scoring),
            self.of(gallery, scoring),
            self._artefacts_own(gallery, scoring, "artefact", 0),
            description.calibration.fusion,
            self._joining[fingerprint],
        )

    def subject(self, gallery: Gallery, scoring: Scoring) -> str:
        """What kept searches and publications are stored under.

        Raises:
            NeedsReindex: where no loaded model answers for it.
        """
        return f"{scoring}:{self._model_of(gallery).description.artefact_fingerprint}"

    def follow(self, gallery: Gallery) -> None:
        """Takes what is published for a gallery now, whichever process did; blocks."""
        read: dict[str, tuple[str, Publication]] = {}
        published = self._record.calibrations.published(gallery.gallery_id)
        for subject, one in published.items():
            publication = read_publication(one.body)
            if publication is None:
                log.warning("gallery %s: its calibration is unreadable, fit again", gallery.name)
            else:
                read[subject] = (_digest(one.body), publication)
        with self._lock:
            if read:
                self._published[gallery.gallery_id] = read
            else:
                self._published.pop(gallery.gallery_id, None)
                self._kept.pop(gallery.gallery_id, None)

    def forget(self, gallery: Gallery) -> None:
        """Drops what is known of a gallery, from memory alone."""
        with self._lock:
            self._published.pop(gallery.gallery_id, None)
            self._kept.pop(gallery.gallery_id, None)

    def note_kept(self, gallery: Gallery, subject: str, searches: int) -> None:
        """Notes how many searches are stored for a subject, to be shown before the first fit."""
        with self._lock:
            self._kept.setdefault(gallery.gallery_id, {})[subject] = searches

    def _artefacts_own(
        self, gallery: Gallery, scoring: Scoring, state: CalibrationSource, kept: int
    ) -> CalibrationInForce:
        description = self._model_of(gallery).description
        key = (description.artefact_fingerprint, scoring)
        if key not in self._artefacts:
            scorings = description.calibration.scorings
            self._artefacts[key] = artefact_search_calibration(scorings[scoring])
        return CalibrationInForce(
            self._artefacts[key], self._artefact_version(gallery), state, kept
        )

    def _artefact_version(self, gallery: Gallery) -> str:
        return self._model_of(gallery).description.artefact_fingerprint[:12]


def scoring_of(subject: str) -> Scoring:
    """The scoring that a subject is of."""
    return cast(Scoring, subject.partition(":")[0])


def read_publication(body: str) -> Publication | None:
    """What a process published; None where this one cannot read it."""
    try:
        return Publication.model_validate_json(body)
    except ValidationError:
        return None


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:VERSION_DIGITS]
