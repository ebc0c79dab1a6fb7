"""Calibrations of galleries, which turn scores into verdicts, and scores of recent searches."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gmn_client.models import (
    CalibrationNote,
    CalibrationReason,
    CalibrationState,
    GalleryCalibration,
    GalleryCentring,
    Verdict,
)
from model.arrays import Array, Floats
from model.calibration import SEARCH_OPERATING_POINTS, Scoring
from model.gallery_thresholds import RULE, GalleryThresholds, artefact_thresholds
from model.likelihood_ratio import LikelihoodRatio
from model.order_statistics import FEW_IDENTITIES, RANKS
from model.search_calibration import SearchCalibration, artefact_search_calibration
from model.stored import is_absent
from service.engine.networks import LoadedModel
from service.gallery.gallery import Gallery
from service.ops.threads import heartbeat
from service.record.calibrations import KEPT_SEARCHES
from service.record.record import Record
from service.record.values import CalibrationMode, PublishedCalibration
from service.search.means import CentringFit, StoredMeans

log = logging.getLogger(__name__)
VERSION_DIGITS = 8
# Prefix of a kind of score with times in it.
TIMED = "times+"
# Queries at least this similar count as pictures of the same passage of one person.
REPEATED_COSINE = 0.9
# Number of recent queries kept for each calibration, and of recently used calibrations.
RECENT_QUERIES = 64
RECENT_CALIBRATIONS = 64
KEY_BYTES = 16
# The share of pairs of different people whose cosine reaches τ (docs/calibration.md).
JOINING_SHARE = 1e-3
# For this long after an update of the service has changed a gallery's thresholds, answers say so.
SAYS_RULE_FOR_SECONDS = 30 * 86400.0
# A gallery's id, and the `score_kind` of the calibration.
CalibrationKey = tuple[int, str]
Probability = Callable[[NDArray[np.floating]], Array]
WHY: Mapping[CalibrationReason | None, str] = {
    None: ": this gallery's calibration is off",
    "not_fitted": f", until {FEW_IDENTITIES} people are named in this gallery",
    "few_identities": f": the search covers fewer than {FEW_IDENTITIES} people",
    "few_scored": f": fewer than {RANKS} people were scored",
    "shallow_search": ": a search with this rerank_depth is too shallow for the gallery's",
}
# Reasons for which a search has no level of its own.
WITHOUT_LEVEL: Sequence[CalibrationReason] = ("few_identities", "few_scored")
NOTE_OF_ONE_PICTURE = (
    f"They are those of one picture, until {FEW_IDENTITIES} people in this gallery have several."
)


class Publication(BaseModel):
    """A calibration as it is stored for every process on the record.

    Attributes:
        fitted_at: seconds since 1970, for people to read.
        calibration: fitted to the gallery's named crops, or to searches if it has too few.
        counted: number of searches stored so far when it was fitted.
        identities, crops: counts of the gallery when it was fitted to named crops.
        level: mean score level of strangers among them; used for a pair, which has no level.
        rule: number of the rule of its tails; 0 for a fit to searches.
        rule_since: seconds since 1970, when this rule replaced another one that the gallery had
            thresholds by; None if it had none.
        times: version of the learned times in the scores that it was fitted to; None for none.
        likelihood: the likelihood ratio of two crops by scores without times; None if too few
            people have pairs, or if times are in the scores.
        centring: the means, in that of cosines without times; None if none were fitted.
        centred_by: version of the means that the vectors were centred by when it was fitted; it
            is used only while searches centre by them. None without centring.
        spreads: those of cameras by name, if the scores are cosines; None if none were measured.
        version: digest of the stored text, which does not contain it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fitted_at: float
    calibration: GalleryThresholds | SearchCalibration
    counted: int = 0
    identities: int = 0
    crops: int = 0
    level: float = 0.0
    rule: int = 0
    rule_since: float | None = None
    times: str | None = Field(None, exclude_if=is_absent)
    likelihood: LikelihoodRatio | None = Field(None, exclude_if=is_absent)
    centring: CentringFit | None = Field(None, exclude_if=is_absent)
    centred_by: str | None = Field(None, exclude_if=is_absent)
    spreads: Mapping[str, float] | None = Field(None, exclude_if=is_absent)
    version: str = Field("", exclude=True)

    @property
    def is_current(self) -> bool:
        """False for a fit by another rule."""
        return isinstance(self.calibration, SearchCalibration) or self.rule == RULE

    @property
    def means(self) -> StoredMeans | None:
        """The means that were fitted with it; None for none."""
        return None if self.centring is None else self.centring.means

    @property
    def searches(self) -> int:
        """The number of searches that it was fitted to; 0 if named crops decide."""
        return self.calibration.searches if isinstance(self.calibration, SearchCalibration) else 0

    @classmethod
    def read(cls, stored: PublishedCalibration | None) -> Publication | None:
        """Parse a stored calibration; None if there is none or another version wrote it."""
        if stored is None:
            return None
        digest = hashlib.sha256(stored.body.encode()).hexdigest()
        with contextlib.suppress(ValidationError):
            publication = cls.model_validate_json(stored.body)
            return publication.model_copy(update={"version": digest[:VERSION_DIGITS]})
        return None


@dataclass(frozen=True)
class Judge:
    """Verdicts and probabilities for the results of one search.

    Attributes:
        match, uncertain: lowest scores with these verdicts.
        probability: maps scores to probabilities of the same shape, strictly increasing.
        state: description of the calibration for the answer.
    """

    match: float
    uncertain: float
    probability: Probability
    state: CalibrationState

    @property
    def needed(self) -> float:
        """The probability of the lowest score that is a match."""
        return float(self.probability(np.array(self.match)))

    def verdict(self, score: float) -> Verdict:
        if score >= self.match:
            return "match"
        return "uncertain" if score >= self.uncertain else "no_match"


@dataclass(frozen=True)
class CurrentCalibration:
    """The calibration of one gallery and one scoring at one moment.

    Attributes:
        model: the model whose features are compared.
        scoring: the scoring that orders the results.
        score_kind: scoring and artefact; only scores of one kind are comparable.
        artefact: the artefact's own calibration.
        few: the artefact's calibration for searches among fewer than 18 identities.
        joins_at: lowest cosine at which an unnamed crop counts as the same person.
        slope: log-odds of a unit of the score, by the artefact's calibration.
        timed: the scores have the log-odds of times in them.
        setting: calibration setting of the gallery.
        people: number of its named people.
        stored: number of its stored searches.
        published: the published calibration; None if the artefact's is used.
        likelihood: the likelihood ratio of two crops, by their scores without times; None if it is
            not offered.
        means: the means by which the gallery is centred; None without centring.
    """

    model: LoadedModel
    scoring: Scoring
    score_kind: str
    artefact: SearchCalibration
    few: GalleryThresholds
    joins_at: float
    slope: float
    timed: bool = False
    setting: CalibrationMode = "on"
    people: int = 0
    stored: int = 0
    published: Publication | None = None
    likelihood: LikelihoodRatio | None = None
    means: StoredMeans | None = None

    @property
    def centred_by(self) -> str | None:
        return None if self.means is None else self.means.version

    @property
    def of_plain_vectors(self) -> CurrentCalibration:
        """The same calibration for cosines of vectors that are not centred."""
        if self.means is None:
            return self
        return replace(self, published=None, likelihood=None, means=None)

    @property
    def by_centred_cosine(self) -> bool:
        """True if the scores are cosines of centred vectors, unlike those of the artefact."""
        return self.means is not None and self.scoring == "cosine"

    def spread(self, cameras: Sequence[str | None]) -> float:
        """Return the mean spread of the cameras of a query's pictures; that of others is 1."""
        spreads = self.published.spreads if self.published else None
        if not spreads:
            return 1.0
        return float(np.mean([spreads.get(camera or "", 1.0) for camera in cameras]))

    @property
    def by_level(self) -> bool:
        return self.published is not None and isinstance(
            self.published.calibration, GalleryThresholds
        )

    @property
    def learns(self) -> bool:
        """True if searches may change the thresholds: not once named crops decide them."""
        return self.setting == "on" and not self.by_level

    def with_times(self, scores: Floats, log_odds: Array) -> Floats:
        """Add log-odds of times to scores, in units of the score; same shape."""
        return np.asarray(scores + log_odds / self.slope, np.float32)

    def judge(
        self,
        operating_point: str,
        identities: int,
        level: float | None,
        shallow: bool = False,
        galleries: int = 1,
        pictures: int = 1,
        crops: int = 0,
        spread: float = 1.0,
    ) -> Judge:
        """Choose thresholds for a search.

        Args:
            operating_point: a name in `SEARCH_OPERATING_POINTS`.
            identities: number of identities that the search covers.
            level: mean of the second to ninth best score of different people; None if fewer than
                nine people were scored.
            shallow: the scores may miss some of the gallery's best.
            galleries: number of galleries searched at once. Their false alarms add up, so each has
                an equal share of the rate.
            pictures: number of pictures of one person that are averaged.
            crops: number of crops that the search covers, which counts for few identities.
            spread: `spread` of the query's cameras.
        """
        state = self.as_state(identities, level, shallow)
        fitted: GalleryThresholds | SearchCalibration = self.artefact
        if self.by_centred_cosine and self.published:
            fitted = self.published.calibration
            if state.reason in WITHOUT_LEVEL:
                level = self.published.level * spread
        elif identities < FEW_IDENTITIES:
            fitted = self.few
            level = 0.0
            spread = 1.0
            # The artefact's thresholds for K people hold for up to two crops of each. Above that, c
            # crops of a person raise a stranger's best score about as √(c/2) people do.
            identities = max(identities, round(math.sqrt(identities * crops / 2)))
        elif self.published and state.date:
            fitted = self.published.calibration
        match_rate = SEARCH_OPERATING_POINTS[operating_point] / galleries
        uncertain_rate = max(match_rate, SEARCH_OPERATING_POINTS["far_1e-1"] / galleries)

        if pictures > 1:
            measured = isinstance(fitted, GalleryThresholds) and fitted.mean_scales
            if measured:
                together = f"They are for {pictures} pictures together."
                state = with_note(state, "pictures_together", together)
            else:
                state = with_note(state, "one_picture", NOTE_OF_ONE_PICTURE)

        probability: Probability
        if isinstance(fitted, SearchCalibration):
            match = fitted.threshold(match_rate, identities)
            uncertain = fitted.threshold(uncertain_rate, identities)
            probability = fitted.probability
        else:
            tail = fitted.tail(identities, pictures, spread)
            level = level or 0.0
            match = tail.threshold(match_rate, level)
            uncertain = tail.threshold(uncertain_rate, level)
            probability = partial(tail.probability, level=level)
        return Judge(match, min(match, uncertain), probability, state)

    def as_state(
        self, identities: int, level: float | None = 0.0, shallow: bool = False
    ) -> CalibrationState:
        """Describe the calibration of a search; takes the arguments of `judge`."""
        reason: CalibrationReason | None = None
        if self.setting == "off":
            pass
        elif shallow:
            reason = "shallow_search"
        elif identities < FEW_IDENTITIES:
            reason = "few_identities"
        elif self.published is None:
            reason = "not_fitted"
        elif self.by_level and level is None:
            reason = "few_scored"
        elif self.published.calibration.extrapolated(identities):
            reason = "extrapolated"
        model_version = self.model.calibration_version
        without_level = self.by_centred_cosine and reason in WITHOUT_LEVEL
        is_own = without_level or reason in (None, "extrapolated")
        if self.published is None or self.setting == "off" or not is_own:
            return CalibrationState(
                state="artefact" if self.setting == "on" else self.setting,
                reason=reason,
                basis=f"The model's own thresholds{WHY[reason]}.",
                identities_now=self.people,
                searches=self.stored,
                version=model_version,
            )
        fitted = self.published
        beyond = identities if reason == "extrapolated" else None
        basis = _describe_basis(fitted, self.people, beyond, self.setting == "frozen")
        if without_level:
            basis = f"{basis[:-1]}, at the mean level of their searches{WHY[reason]}."
        state = CalibrationState(
            state="own" if self.setting == "on" else "frozen",
            reason=reason,
            basis=basis,
            identities=fitted.identities,
            identities_now=self.people,
            crops=fitted.crops,
            searches=fitted.searches,
            version=f"{model_version}+{fitted.version}",
            date=datetime.fromtimestamp(fitted.fitted_at, UTC),
        )
        if fitted.rule_since and time.time() - fitted.rule_since < SAYS_RULE_FOR_SECONDS:
            day = datetime.fromtimestamp(fitted.rule_since, UTC)
            changed = (
                f"An update of the service has changed them on {day:%Y-%m-%d}, so a verdict may "
                "differ from an earlier one."
            )
            state = with_note(state, "rule_changed", changed)
        return state


def with_note(state: CalibrationState, note: CalibrationNote, sentence: str) -> CalibrationState:
    """Return a state with a note, and with the sentence that says it behind the basis."""
    return state.model_copy(
        update={"basis": f"{state.basis} {sentence}", "notes": [*state.notes, note]}
    )


def _describe_basis(fitted: Publication, people: int, beyond: int | None, frozen: bool) -> str:
    """Return a sentence about the data that a calibration was fitted to.

    Args:
        people: number of named people in the gallery now.
        beyond: number of identities that the search covers, if far more than in the fit.
    """
    parts = []
    if fitted.identities:
        now = f" of {people:,}" if people > fitted.identities else ""
        since = f", which has {people:,} now" if people < fitted.identities else ""
        parts.append(f"{fitted.identities:,}{now} named people in this gallery{since}")
    if fitted.searches:
        noun = "search" if fitted.searches == 1 else "searches"
        parts.append(f"{fitted.searches:,} {noun}")
    wider = f", for a search of {beyond:,} people" if beyond else ""
    return f"Thresholds from {' and '.join(parts)}{wider}{', frozen' if frozen else ''}."


class CalibrationInUse(NamedTuple):
    """The calibrations that judge a gallery's searches.

    Attributes:
        published: by kind of score.
        means: those by which the vectors are centred; None without centring.
    """

    published: Mapping[str, Publication]
    means: StoredMeans | None


NOTHING_PUBLISHED = CalibrationInUse({}, None)


class GalleryCalibrations:
    """The calibrations of all galleries, and the scores of searches that are not stored yet.

    Safe to use from any thread. A gallery without searches takes no memory here.
    """

    def __init__(self, record: Record, models: Mapping[str, LoadedModel]) -> None:
        """Read the artefacts' calibrations; `models` are keyed by their embedder's fingerprint."""
        self._record = record
        self._models = models
        # By embedder and scoring, None for the default one, and by whether times are in the scores.
        self._artefacts: dict[tuple[str, Scoring | None, bool], CurrentCalibration] = {}
        for embedder, model in models.items():
            scorings = model.description.calibration.scorings
            joins_at = scorings["cosine"].pair_threshold(JOINING_SHARE)
            for scoring in model.description.scorings:
                calibration = scorings[scoring]
                artefact = CurrentCalibration(
                    model=model,
                    scoring=scoring,
                    score_kind=f"{scoring}:{model.description.artefact_fingerprint}",
                    artefact=artefact_search_calibration(calibration),
                    few=artefact_thresholds(calibration),
                    joins_at=joins_at,
                    slope=calibration.slope,
                )
                timed = replace(artefact, timed=True, score_kind=f"{TIMED}{artefact.score_kind}")
                self._artefacts[embedder, scoring, False] = artefact
                self._artefacts[embedder, scoring, True] = timed
            for is_timed in (False, True):
                default = self._artefacts[embedder, model.description.default_scoring, is_timed]
                self._artefacts[embedder, None, is_timed] = default
        self._lock = threading.Lock()
        # The calibrations of each gallery as they were read last. Searches use them once the
        # gallery's index is centred by their means.
        self._newest: dict[int, dict[str, Publication]] = {}
        self._in_use: dict[int, CalibrationInUse] = {}
        self._stored: dict[CalibrationKey, int] = {}
        self._waiting: dict[CalibrationKey, dict[str, bytes]] = {}
        # Only the most recently used calibrations are kept.
        self._recent: dict[CalibrationKey, RecentQueries] = {}

    def current(
        self, gallery: Gallery, scoring: Scoring | None, timed: bool = False
    ) -> CurrentCalibration:
        """Return the calibration to use throughout a search of a gallery.

        Args:
            scoring: None selects the default of the artefact that answers.
            timed: times are in the scores.

        Raises:
            NeedsReindex: no loaded model has the gallery's embedder.
            InvalidField: the artefact does not offer the scoring.
        """
        embedder = gallery.embedder
        gallery_id = gallery.gallery_id
        if scoring is not None:
            self._models[embedder].require_scoring(scoring)
        artefact = self._artefacts[embedder, scoring, timed]
        setting = gallery.settings.calibration
        published, means = self._in_use.get(gallery_id, NOTHING_PUBLISHED)
        # Times are no part of it: a search with times has the ratios of one without.
        by_appearance = published.get(self._artefacts[embedder, scoring, False].score_kind)
        current = replace(
            artefact,
            setting=setting,
            people=gallery.identities,
            stored=self._stored.get((gallery_id, artefact.score_kind), 0),
            published=published.get(artefact.score_kind),
            likelihood=by_appearance.likelihood if by_appearance and setting != "off" else None,
            means=means,
        )
        if current.published is None and current.by_centred_cosine:
            # The artefact's thresholds are not for centred cosines, with times or without.
            return replace(current, published=by_appearance)
        return current

    def newest(self, gallery: Gallery) -> Mapping[str, Publication]:
        """Return the published calibrations by kind of score, in use already or soon."""
        return self._newest.get(gallery.gallery_id, {})

    def has_means(self, gallery: Gallery) -> bool:
        """Return whether the record has means of a gallery, whether searches use them or not."""
        return any(published.means is not None for published in self.newest(gallery).values())

    def wanted_means(self, gallery: Gallery) -> StoredMeans | None:
        """Return the means by which a gallery has to be centred; None for none."""
        settings = gallery.settings
        if gallery.own_index is None or "off" in (settings.calibration, settings.centring):
            return None
        by_cosine = self._artefacts[gallery.embedder, "cosine", False].score_kind
        published = self.newest(gallery).get(by_cosine)
        return published.means if published else None

    def centre(self, gallery: Gallery) -> None:
        """Centre the index of a gallery that nobody searches yet; blocks."""
        index = gallery.own_index
        means = self.wanted_means(gallery)
        if index is not None and means is not None:
            codes = index.columns.code_means(means.named)
            index.centre_by(index.columns.prepare_centring(means.version, codes, heartbeat))

    def settle(self, gallery: Gallery) -> None:
        """Have searches use the newest calibrations, unless the index has to be centred first.

        Call it while the device is held, after anything that `wanted_means` depends on has changed.
        """
        index = gallery.own_index
        means = self.wanted_means(gallery)
        version = None if means is None else means.version
        if index is not None and means is None and index.centred_by is not None:
            index.centre_by(None)
        if index is None or index.centred_by == version:
            usable = {
                kind: published
                for kind, published in self.newest(gallery).items()
                if published.centred_by == version
            }
            self._in_use[gallery.gallery_id] = CalibrationInUse(usable, means)

    def of(self, gallery: Gallery, timed: bool = False) -> list[CurrentCalibration]:
        """Return the calibration of each scoring; raises `NeedsReindex`."""
        scorings = self._models[gallery.embedder].description.scorings
        return [self.current(gallery, scoring, timed) for scoring in scorings]

    def describe(self, gallery: Gallery) -> GalleryCalibration:
        """Describe the calibration of each scoring; this may count the identities."""
        embedder = next(iter(self._models)) if gallery.needs_reindex else gallery.embedder
        model = self._models[embedder].description
        if gallery.needs_reindex:
            states = dict.fromkeys(model.scorings, CalibrationState(state="artefact"))
        else:
            identities = gallery.index.identities().total
            states = {current.scoring: current.as_state(identities) for current in self.of(gallery)}
        default = model.default_scoring
        return GalleryCalibration(**vars(states[default]), scoring=default, scorings=states)

    def describe_centring(self, gallery: Gallery) -> GalleryCentring:
        """Describe the means by which a gallery is centred, or why it is not."""
        settings = gallery.settings
        if "off" in (settings.calibration, settings.centring):
            return GalleryCentring(state="off")
        if gallery.needs_reindex:
            return GalleryCentring(state="not_fitted")
        if not self._models[gallery.embedder].description.centres_by_camera:
            return GalleryCentring(state="artefact")
        if gallery.own_index is None:
            return GalleryCentring(state="needs_own_index")
        published, means = self._in_use.get(gallery.gallery_id, NOTHING_PUBLISHED)
        by_cosine = published.get(self._artefacts[gallery.embedder, "cosine", False].score_kind)
        fitted = by_cosine.centring if by_cosine else None
        if fitted is None:
            return GalleryCentring(state="not_fitted")
        if fitted.gain is None:
            return GalleryCentring(state="not_enough")
        return GalleryCentring(
            state="no_gain" if means is None else "on",
            gain=round(fitted.gain.gain, 4),
            standard_error=round(fitted.gain.standard_error, 4),
            people=fitted.gain.people,
            cameras=len(means.cameras) if means else 0,
        )

    def reload(self, gallery: Gallery) -> None:
        """Read the published calibrations of a gallery from the record; blocks.

        Searches use them after `settle`.
        """
        publications: dict[str, Publication] = {}
        published = self._record.calibrations.published(gallery.gallery_id)
        for score_kind, stored in published.items():
            publication = Publication.read(stored)
            if publication is None:
                log.warning("gallery %s: its calibration is unreadable, fit again", gallery.name)
            else:
                publications[score_kind] = publication
        if not publications:
            # The record dropped the calibration with its searches, so drop those in memory as well.
            self._forget_searches(gallery)
        with self._lock:
            self._newest[gallery.gallery_id] = publications

    def forget(self, gallery: Gallery) -> None:
        self._forget_searches(gallery)
        with self._lock:
            self._newest.pop(gallery.gallery_id, None)
            self._in_use.pop(gallery.gallery_id, None)

    def _forget_searches(self, gallery: Gallery) -> None:
        gallery_id = gallery.gallery_id
        with self._lock:
            for by_key in (self._stored, self._recent, self._waiting):
                for key in [key for key in by_key if key[0] == gallery_id]:
                    del by_key[key]

    def note_stored(self, key: CalibrationKey, searches: int) -> None:
        with self._lock:
            self._stored[key] = searches

    def record_search_scores(self, key: CalibrationKey, query: Floats, scores: bytes) -> None:
        """Queue the scores of a search for storage in the background.

        They replace the scores of a search by nearly the same query. Queries are kept in memory
        only.

        Args:
            query: feature `(d,)`.
            scores: packed by `pack_search`.
        """
        with self._lock:
            query_key = self._find_query_key(key, query)
            # While searches cannot be stored, keep only as many as the record would.
            _put_last(self._waiting.setdefault(key, {}), query_key, scores, KEPT_SEARCHES)

    def take_recorded(self) -> dict[CalibrationKey, list[tuple[str, bytes]]]:
        with self._lock:
            recorded = self._waiting
            self._waiting = {}
        return {key: list(rows.items()) for key, rows in recorded.items()}

    def _find_query_key(self, key: CalibrationKey, query: Floats) -> str:
        """Return the key of the most similar recent query, or a new key if none is similar."""
        recent = self._recent.get(key) or RecentQueries(len(query))
        _put_last(self._recent, key, recent, RECENT_CALIBRATIONS)
        return recent.find_key(query)


class RecentQueries:
    """The last `RECENT_QUERIES` different queries of one calibration, each with a key."""

    def __init__(self, dimension: int) -> None:
        self._units = np.zeros((RECENT_QUERIES, dimension), np.float32)
        self._keys = [""] * RECENT_QUERIES
        # The number of the query that used a row last.
        self._last_uses = np.zeros(RECENT_QUERIES, np.int64)
        self._queries = 0

    def find_key(self, query: Floats) -> str:
        """Return the key of the most similar query, which this one `(d,)` replaces.

        If none is similar, the query takes the place of the least recently used one, and a new key.
        """
        unit = query / max(float(np.linalg.norm(query)), 1e-12)
        cosines = self._units @ unit
        row = int(cosines.argmax())
        if cosines[row] < REPEATED_COSINE:
            row = int(self._last_uses.argmin())
            self._keys[row] = secrets.token_hex(KEY_BYTES)
        self._queries += 1
        self._last_uses[row] = self._queries
        self._units[row] = unit
        return self._keys[row]


def _put_last(items: dict[Any, Any], key: Any, value: Any, limit: int) -> None:
    """Move or add a key to the end of a dictionary, and drop the oldest keys beyond the limit."""
    items.pop(key, None)
    items[key] = value
    while len(items) > limit:
        del items[next(iter(items))]
