"""Refit: storing the scores of searches, and fitting calibrations to galleries or searches."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model.gallery_thresholds import (
    RULE,
    GalleryThresholds,
    LeftOutSearches,
    fit_thresholds,
    level,
)
from model.likelihood_ratio import FEWEST_PEOPLE
from model.order_statistics import FEW_IDENTITIES
from model.problems import InputProblem
from model.search_calibration import Searches, fit_searches, unpack_searches
from service.engine.device import DeviceThread
from service.engine.networks import LoadedModel
from service.errors import RecordUnavailable, ServiceError
from service.gallery.gallery import Gallery
from service.gallery.registry import GalleryRegistry
from service.index.columns import Columns
from service.ops.critical_sections import attempt
from service.ops.threads import MonitoredThreadPool
from service.record.record import Record
from service.record.values import GalleryRecord
from service.search.calibration import (
    CalibrationKey,
    CurrentCalibration,
    GalleryCalibrations,
    Publication,
)
from service.search.leave_one_out import LeaveOneOut, NamedCrops
from service.search.likelihood import fit_likelihood_ratios
from service.search.means import CentringFit, CentringFitter
from service.search.times import LearnedTimes, TimeEvidence

log = logging.getLogger(__name__)
# Pause between two stores of recent searches.
STORED_WITHIN_SECONDS = 2.0
# Number of searches that a calibration by searches needs.
LEAST_SEARCHES = 20
# A calibration is fitted again after this number of searches, at most once in this time.
REFIT_AFTER_SEARCHES = 16
REFIT_AFTER_SECONDS = 60
# A gallery is refitted when its identities or crops have grown or shrunk by this factor.
GROWTH = 1.2
# Deleted crops are in means until these are fitted again: after this time in a changed gallery.
MEANS_LAST_SECONDS = 86400.0
LOOK_EVERY_SECONDS = 2.0
REST_AFTER_FAILURE_SECONDS = 60.0
# A gallery that grows all the time is fitted for at most a tenth of the time.
REST_PER_SECOND_OF_FIT = 9.0
# A gallery has settled when its number of people has not changed for this time. It is then fitted
# for any other number than that of its last fit.
SETTLED_AFTER_SECONDS = 3.0
# A settled gallery does not rest until this number of its longest fits is ahead of its tenth.
FITS_IN_ADVANCE = 4


@dataclass(frozen=True)
class _StoredCalibration:
    """The record's state of one calibration.

    Attributes:
        key: gallery and kind of score of the calibration.
        searches: stored searches, oldest first.
        counted: number of searches ever added.
        version: version of the published calibration; 0 if there is none.
        identities: number of named identities.
    """

    key: CalibrationKey
    searches: Searches
    counted: int
    version: int
    published: Publication | None
    identities: int


@dataclass
class _Look:
    """The last look at a gallery; times are those of `time.monotonic`.

    Attributes:
        people: number of named people.
        changed_at: when this number was seen to change.
        checked: state of the gallery at the last check for a due fit.
        check_again_at: when to check again if the state has not changed.
        paid_at: when the checks and fits so far will have taken a tenth of the time.
        longest_share: seconds of which the longest fit is a tenth.
    """

    people: int = -1
    changed_at: float = 0.0
    checked: object = None
    check_again_at: float = 0.0
    paid_at: float = 0.0
    longest_share: float = 0.0

    def note_people(self, people: int, now: float) -> None:
        if people != self.people:
            self.people = people
            self.changed_at = now

    def is_resting(self, is_settled: bool, now: float) -> bool:
        # The fit after a burst would otherwise wait for the rest that those during it asked for.
        in_advance = FITS_IN_ADVANCE * self.longest_share if is_settled else 0.0
        return now < self.paid_at - in_advance

    def note_check(self, checked: object, started: float, ended: float, rest: float) -> None:
        self.checked = checked
        self.check_again_at = ended + rest
        share = (1.0 + REST_PER_SECOND_OF_FIT) * (ended - started)
        self.paid_at = max(self.paid_at, started) + share
        self.longest_share = max(self.longest_share, share)


@dataclass(frozen=True)
class CalibrationFitter:
    """Fits the calibrations of galleries to their named crops or, without names, to searches.

    Attributes:
        left_out: searches galleries with their own named crops.
        centring: fits the means of galleries.
        times: what the galleries have learned about times.
        threads: the calibration's thread.
    """

    record: Record
    galleries: GalleryRegistry
    calibrations: GalleryCalibrations
    models: Mapping[str, LoadedModel]
    device: DeviceThread
    left_out: LeaveOneOut
    centring: CentringFitter
    times: TimeEvidence
    threads: MonitoredThreadPool

    async def refit_calibrations(self) -> None:
        due: dict[int, float] = {}
        try:
            while True:
                await asyncio.sleep(STORED_WITHIN_SECONDS)
                await attempt("calibration by searches", self.store_and_refit(due))
        finally:
            with contextlib.suppress(ServiceError):
                await self._store_recorded()

    async def store_and_refit(self, due: dict[int, float]) -> None:
        """Store waiting searches, then fit calibrations that have enough new searches.

        Args:
            due: time of the next check of each gallery, by `time.monotonic`: a minute after a fit.

        Raises:
            ServiceError: the record cannot be written; the waiting searches are lost.
        """
        now = time.monotonic()
        for gallery_id, _ in await self._store_recorded():
            due.setdefault(gallery_id, now)
        for gallery_id, check_at in list(due.items()):
            if check_at > now:
                continue
            del due[gallery_id]
            gallery = self.galleries.by_id(gallery_id)
            if gallery is None or self._read_state(gallery) is None:
                continue
            for current in self._calibrations_of(gallery, self.times.of(gallery)):
                try:
                    stored = await self._read_stored(gallery, current.score_kind)
                    fitted = await self.threads.run(_fit_searches, stored, current)
                    if fitted:
                        await self._publish(gallery, stored, fitted)
                        due[gallery_id] = now + REFIT_AFTER_SECONDS
                except ServiceError:
                    raise
                except InputProblem as problem:
                    log.info("gallery %s keeps its calibration: %s", gallery.name, problem)

    async def fit_galleries(self) -> None:
        looks: dict[int, _Look] = {}
        while True:
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            for gallery in self.galleries.all():
                await self._look_at(gallery, looks.setdefault(gallery.gallery_id, _Look()))

    async def _look_at(self, gallery: Gallery, look: _Look) -> None:
        started = time.monotonic()
        look.note_people(gallery.identities, started)
        is_settled = started - look.changed_at >= SETTLED_AFTER_SECONDS
        if look.is_resting(is_settled, started):
            return
        state = None
        rest = REST_AFTER_FAILURE_SECONDS
        try:
            state = self._read_state(gallery)
            is_unchanged = (state, is_settled) == look.checked
            if state is None or (is_unchanged and started < look.check_again_at):
                return
            rest = await self.fit_if_due(gallery, is_settled)
        except InputProblem as error:
            # The same crops will never show a tail, but a service may answer later.
            if not isinstance(error, ServiceError):
                rest = math.inf
            if not isinstance(error, RecordUnavailable):
                log.warning("gallery %s keeps its calibration: %s", gallery.name, error)
        except Exception:
            log.exception("the calibration of gallery %s was not fitted", gallery.name)
        look.note_check((state, is_settled), started, time.monotonic(), rest)

    async def fit_if_due(self, gallery: Gallery, is_settled: bool = False) -> float:
        """Fit a gallery's calibrations to its named crops, if it has none or has outgrown them.

        Args:
            is_settled: it no longer grows or shrinks, so that one person more or less counts.

        Returns:
            Seconds until the next check if the gallery does not change. After a fit it is 0: a
            change during the fit prevents its publication, and a reset may restore the state before
            it.

        Raises:
            ServiceError: the record or the device does not answer; earlier calibrations are kept.
            InputProblem: the crops' scores show no tail.
        """
        model = self.models[gallery.embedder]
        times = self.times.of(gallery)
        currents = self._calibrations_of(gallery, times)
        entry = await self.galleries.read(self.record.galleries.get, gallery.gallery_id)
        if entry is None:
            return math.inf
        version = times.version if times else None
        newest = self.calibrations.newest(gallery)
        former = newest.get(_of_cosine(currents).score_kind)
        seconds_left = _seconds_of_means(former, entry)
        if entry.identities < FEW_IDENTITIES:
            if seconds_left <= 0.0:
                # Nothing else can be fitted, and the means may have deleted crops in them.
                await self._drop(gallery)
            return max(0.0, seconds_left)
        centring = former.centring if former else None
        spreads = (former.spreads if former else None) or {}
        is_centrable = self._is_centrable(gallery)
        # A calibration with times is fitted again whenever the gallery has learned them anew.
        due = {
            current.timed
            for current in currents
            if _is_due(
                newest.get(current.score_kind), entry, current, version, centring, is_settled
            )
        }
        if seconds_left <= 0.0 or (centring is not None) != is_centrable:
            due.add(False)
        if not due:
            return seconds_left
        await self.galleries.wait_for_version(gallery, entry.version)
        crops = await self.read_named_crops(gallery)
        if False in due:
            centring = None
            spreads = {}
            if is_centrable:
                # Scores with times are to be of the same vectors.
                due |= {current.timed for current in currents}
                centring, spreads = await self.centring.fit(entry, crops.columns)
        crops = await self.device.run(_prepare, crops, centring, spreads)
        left_out = await self.left_out.search(model, crops, times)
        scales = await self.left_out.measure_mean_scales(model, entry.gallery_id, crops, times)
        ratios = {}
        if False in due and entry.identities >= FEWEST_PEOPLE:
            ratios = await fit_likelihood_ratios(model, crops, self.device, self.threads)
        for current in currents:
            kind = (current.scoring, current.timed)
            searches = left_out[kind]
            if searches and current.timed in due:
                stored = await self._read_stored(gallery, current.score_kind)
                fitted = await self.threads.run(_fit_gallery, stored, searches, scales[kind], entry)
                changes: dict[str, object] = {"centred_by": centring.version if centring else None}
                if current.timed:
                    changes["times"] = version
                else:
                    changes["likelihood"] = ratios.get(current.scoring)
                    if current.scoring == "cosine":
                        changes["centring"] = centring
                if current.scoring == "cosine" and spreads:
                    changes["spreads"] = spreads
                fitted = fitted.model_copy(update=changes)
                await self._publish(gallery, stored, fitted, entry.generation)
        return 0.0

    def _read_state(self, gallery: Gallery) -> object:
        """Return everything in memory that a fit depends on; None if no fit is allowed."""
        if gallery.needs_reindex or gallery.settings.calibration != "on":
            return None
        times = self.times.of(gallery)
        published = dict(self.calibrations.newest(gallery))
        return (
            gallery.version,
            gallery.embedder,
            gallery.settings.centring,
            published,
            times and times.version,
        )

    def _is_centrable(self, gallery: Gallery) -> bool:
        may_centre = self.models[gallery.embedder].description.centres_by_camera
        has_own_index = gallery.own_index is not None
        return may_centre and has_own_index and gallery.settings.centring == "auto"

    def _calibrations_of(
        self, gallery: Gallery, times: LearnedTimes | None
    ) -> list[CurrentCalibration]:
        currents = self.calibrations.of(gallery)
        if times:
            currents += self.calibrations.of(gallery, timed=True)
        return currents

    async def read_named_crops(self, gallery: Gallery) -> NamedCrops:
        """Return the named crops of a gallery, ordered by name."""
        threads = self.threads
        if gallery.own_index:
            crops = await self.device.run(NamedCrops.of, gallery.own_index.columns)
        else:
            # An external index does not return vectors, but the record has them.
            crops = NamedCrops.of(await threads.run(self.read_columns, gallery))
        return await threads.run(crops.by_name)

    def read_columns(self, gallery: Gallery) -> Columns:
        """Read the columns of a gallery from the record; blocks."""
        dimension = self.models[gallery.embedder].networks.dimension
        columns = Columns(dimension, self.record.galleries.group_secret())
        self.galleries.fill(columns, gallery.gallery_id, gallery.crops)
        return columns

    async def _read_stored(self, gallery: Gallery, score_kind: str) -> _StoredCalibration:
        gallery_id = gallery.gallery_id
        records = self.record.calibrations

        def read() -> _StoredCalibration:
            # Count first: a search added in the meantime then counts for the next fit.
            counted = records.counted(gallery_id, score_kind)
            searches = unpack_searches(records.searches(gallery_id, score_kind))
            entry = self.record.galleries.get(gallery_id)
            published = records.published(gallery_id).get(score_kind)
            return _StoredCalibration(
                key=(gallery_id, score_kind),
                searches=searches,
                counted=counted,
                version=published.version if published else 0,
                published=Publication.read(published),
                identities=entry.identities if entry else 0,
            )

        stored = await self.galleries.read(read)
        self.calibrations.note_stored(stored.key, len(stored.searches))
        return stored

    async def _store_recorded(self) -> Collection[CalibrationKey]:
        recorded = self.calibrations.take_recorded()
        for key, rows in recorded.items():
            await self.galleries.write(self.record.calibrations.add_searches, *key, rows)
        return recorded

    async def _drop(self, gallery: Gallery) -> None:
        change = self.record.galleries.change
        await self.galleries.change(
            "change-gallery",
            gallery,
            lambda gallery_id: change(gallery_id, {}, reset_calibration=True),
        )

    async def _publish(
        self,
        gallery: Gallery,
        stored: _StoredCalibration,
        fitted: Publication,
        generation: int | None = None,
    ) -> None:
        """Publish a calibration, unless the record has changed since `stored` was read.

        Args:
            generation: generation of the vectors that it is fitted to; None for searches.
        """
        records = self.record.calibrations

        def publish() -> None:
            body = fitted.model_dump_json()
            if records.publish(*stored.key, body, stored.version, stored.counted, generation):
                self.galleries.reload_calibration(gallery)

        await self.galleries.write(publish)


def _of_cosine(currents: Sequence[CurrentCalibration]) -> CurrentCalibration:
    (by_cosine,) = [
        current for current in currents if current.scoring == "cosine" and not current.timed
    ]
    return by_cosine


def _prepare(
    crops: NamedCrops, centring: CentringFit | None, spreads: Mapping[str, float]
) -> NamedCrops:
    """Return crops to be compared as searches will; call it on the thread that writes them."""
    means = None
    if centring is not None and centring.means is not None:
        means = crops.columns.code_means(centring.means.named)
    by_code = {code: spreads.get(name, 1.0) for name, code in crops.camera_codes().items()}
    return crops.compared_by(means, by_code)


def _is_due(
    fitted: Publication | None,
    entry: GalleryRecord,
    current: CurrentCalibration,
    times_version: str | None,
    centring: CentringFit | None,
    is_settled: bool,
) -> bool:
    """Return whether a calibration has to be fitted again.

    Args:
        times_version: version of the times that are in the scores now.
        centring: the published means.
        is_settled: see `CalibrationFitter.fit_if_due`.
    """
    if fitted is None or _has_outgrown(fitted, entry, is_settled):
        return True
    by_other_times = current.timed and fitted.times != times_version
    return by_other_times or fitted.centred_by != (centring.version if centring else None)


def _seconds_of_means(fitted: Publication | None, entry: GalleryRecord) -> float:
    """Return in how many seconds the means of a gallery that has changed are fitted again."""
    if fitted is None or fitted.centring is None or fitted.means is None:
        return math.inf
    if fitted.centring.gallery_version == entry.version:
        return math.inf
    return fitted.fitted_at + MEANS_LAST_SECONDS - time.time()


def _has_outgrown(fitted: Publication, entry: GalleryRecord, is_settled: bool) -> bool:
    if not fitted.is_current:
        return True
    if is_settled and fitted.identities != entry.identities:
        return True
    if (fitted.identities < FEWEST_PEOPLE) != (entry.identities < FEWEST_PEOPLE):
        return True
    sizes = ((fitted.identities, entry.identities), (fitted.crops, entry.crops))
    return any(not before / GROWTH < now < before * GROWTH for before, now in sizes)


def _fit_gallery(
    stored: _StoredCalibration,
    left_out: Sequence[LeftOutSearches],
    mean_scales: Sequence[tuple[int, float]],
    entry: GalleryRecord,
) -> Publication:
    leaders = left_out[0].leaders
    strangers = level(leaders[np.isfinite(leaders).all(axis=1)])
    now = time.time()
    former = stored.published
    rule_since = former.rule_since if former else None
    if former and isinstance(former.calibration, GalleryThresholds) and former.rule != RULE:
        rule_since = now
    return Publication(
        fitted_at=now,
        calibration=fit_thresholds(left_out, mean_scales),
        counted=stored.counted,
        identities=entry.identities,
        crops=entry.crops,
        level=round(float(strangers.mean()), 6),
        rule=RULE,
        rule_since=rule_since,
    )


def _fit_searches(stored: _StoredCalibration, current: CurrentCalibration) -> Publication | None:
    """Fit a gallery without names to its searches; return None if there are too few new ones."""
    published = stored.published
    searches = stored.searches
    counted = stored.counted
    if published and counted - published.counted < REFIT_AFTER_SEARCHES:
        return None
    former = published.calibration if published else None
    if isinstance(former, GalleryThresholds) or stored.identities >= FEW_IDENTITIES:
        return None
    if len(searches) < LEAST_SEARCHES:
        return None
    artefact = current.model.description.calibration
    fitted = fit_searches(searches, artefact.scorings[current.scoring], former)
    changes = {"fitted_at": time.time(), "calibration": fitted, "counted": counted}
    before = published or Publication(fitted_at=0.0, calibration=fitted)
    return before.model_copy(update=changes)
