"""Refit: storing the scores of searches, and fitting calibrations to galleries and searches."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from model.gallery_thresholds import (
    RULE,
    GalleryThresholds,
    LeftOutSearches,
    fit_ratio,
    fit_thresholds,
    level,
)
from model.order_statistics import FEW_IDENTITIES
from model.problems import InputProblem
from model.search_calibration import SearchCalibration, Searches, fit_searches, unpack_searches
from service.errors import RecordUnavailable, ServiceError
from service.gallery.gallery import Gallery
from service.gallery.registry import GalleryRegistry
from service.index.columns import Columns
from service.ops.critical_sections import attempt
from service.record.record import Record
from service.record.values import GalleryRecord
from service.runtime import Runtime
from service.search.calibration import (
    CalibrationKey,
    CurrentCalibration,
    GalleryCalibrations,
    Publication,
)
from service.search.leave_one_out import NamedCrops, measure_mean_scales, search_left_out

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
LOOK_EVERY_SECONDS = 2.0
REST_AFTER_FAILURE_SECONDS = 60.0


async def refit_calibrations(runtime: Runtime) -> None:
    due: dict[int, float] = {}
    try:
        while True:
            await asyncio.sleep(STORED_WITHIN_SECONDS)
            await attempt("calibration by searches", store_and_refit(runtime, due))
    finally:
        with contextlib.suppress(ServiceError):
            await _store_recorded(runtime.calibrations, runtime.record, runtime.galleries)


async def store_and_refit(runtime: Runtime, due: dict[int, float]) -> None:
    """Store waiting searches, then fit calibrations that have enough new searches.

    Args:
        due: time of the next check of each gallery, by `time.monotonic`: a minute after a fit.

    Raises:
        ServiceError: the record cannot be written; the waiting searches are lost.
    """
    now = time.monotonic()
    for gallery_id, _ in await _store_recorded(
        runtime.calibrations, runtime.record, runtime.galleries
    ):
        due.setdefault(gallery_id, now)
    for gallery_id, check_at in list(due.items()):
        if check_at > now:
            continue
        del due[gallery_id]
        gallery = runtime.galleries.by_id(gallery_id)
        if gallery is None or _read_state(runtime.calibrations, gallery) is None:
            continue
        for current in runtime.calibrations.of(gallery):
            try:
                stored = await _read_stored(runtime, gallery, current.score_kind)
                fitted = await runtime.pools.calibration.run(_fit_searches, stored, current)
                if fitted:
                    await _publish(runtime, gallery, stored, fitted)
                    due[gallery_id] = now + REFIT_AFTER_SECONDS
            except ServiceError:
                raise
            except InputProblem as problem:
                log.info("gallery %s keeps its calibration: %s", gallery.name, problem)


async def fit_galleries(runtime: Runtime) -> None:
    # The last state of each gallery, and when to check again if it has not changed.
    checked: dict[int, tuple[object, float]] = {}
    while True:
        await asyncio.sleep(LOOK_EVERY_SECONDS)
        for gallery in runtime.galleries.all():
            last_state, look_again_at = checked.get(gallery.gallery_id, (None, 0.0))
            state = None
            rest = REST_AFTER_FAILURE_SECONDS
            try:
                state = _read_state(runtime.calibrations, gallery)
                if state is None or (state == last_state and time.monotonic() < look_again_at):
                    continue
                rest = await fit_if_due(runtime, gallery)
            except InputProblem as error:
                # The same crops will never show a tail, but a service may answer later.
                if not isinstance(error, ServiceError):
                    rest = math.inf
                if not isinstance(error, RecordUnavailable):
                    log.warning("gallery %s keeps its calibration: %s", gallery.name, error)
            except Exception:
                log.exception("the calibration of gallery %s was not fitted", gallery.name)
            checked[gallery.gallery_id] = (state, time.monotonic() + rest)


def _read_state(calibrations: GalleryCalibrations, gallery: Gallery) -> object:
    """Return everything in memory that a fit depends on; None if no fit is allowed."""
    if gallery.needs_reindex or gallery.settings.calibration != "on":
        return None
    published = [current.published for current in calibrations.of(gallery)]
    return gallery.version, gallery.embedder, published


async def fit_if_due(runtime: Runtime, gallery: Gallery) -> float:
    """Fit a gallery's calibrations to its named crops, if there are none or it has outgrown them.

    Returns:
        Seconds until the next check if the gallery does not change. After a fit it is 0: a change
        during the fit prevents its publication, and a reset may restore the state before it.

    Raises:
        ServiceError: the record or the device does not answer; earlier calibrations are kept.
        InputProblem: the crops' scores show no tail.
    """
    model = runtime.models[gallery.embedder]
    currents = runtime.calibrations.of(gallery)
    entry = await runtime.galleries.read(runtime.record.galleries.get, gallery.gallery_id)
    if entry is None or entry.identities < FEW_IDENTITIES:
        return math.inf
    if not any(_has_outgrown(current.published, entry) for current in currents):
        return math.inf
    await runtime.galleries.wait_for_version(gallery, entry.version)
    crops = await read_named_crops(runtime, gallery)
    left_out = await search_left_out(runtime, model, crops)
    scales = await measure_mean_scales(runtime, model, entry.gallery_id, crops)
    for current in currents:
        searches = left_out[current.scoring]
        if searches:
            stored = await _read_stored(runtime, gallery, current.score_kind)
            fitted = await runtime.pools.calibration.run(
                _fit_gallery, stored, searches, scales[current.scoring], entry
            )
            await _publish(runtime, gallery, stored, fitted, entry.generation)
    return 0.0


async def read_named_crops(runtime: Runtime, gallery: Gallery) -> NamedCrops:
    """Return the named crops of a gallery, ordered by name."""
    threads = runtime.pools.calibration
    if gallery.own_index:
        crops = await runtime.device.run(NamedCrops.of, gallery.own_index.columns)
    else:
        # An external index does not return vectors, but the record has them.
        crops = NamedCrops.of(await threads.run(_read_columns, runtime, gallery))
    return await threads.run(crops.by_name)


def _read_columns(runtime: Runtime, gallery: Gallery) -> Columns:
    dimension = runtime.models[gallery.embedder].networks.dimension
    columns = Columns(dimension, runtime.record.galleries.group_secret())
    runtime.galleries.fill(columns, gallery.gallery_id, gallery.crops)
    return columns


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


async def _read_stored(runtime: Runtime, gallery: Gallery, score_kind: str) -> _StoredCalibration:
    gallery_id = gallery.gallery_id
    records = runtime.record.calibrations

    def read() -> _StoredCalibration:
        # Count first: a search added in the meantime then counts for the next fit.
        counted = records.counted(gallery_id, score_kind)
        searches = unpack_searches(records.searches(gallery_id, score_kind))
        entry = runtime.record.galleries.get(gallery_id)
        published = records.published(gallery_id).get(score_kind)
        return _StoredCalibration(
            key=(gallery_id, score_kind),
            searches=searches,
            counted=counted,
            version=published.version if published else 0,
            published=Publication.read(published),
            identities=entry.identities if entry else 0,
        )

    stored = await runtime.galleries.read(read)
    runtime.calibrations.note_stored(stored.key, len(stored.searches))
    return stored


def _has_outgrown(fitted: Publication | None, entry: GalleryRecord) -> bool:
    if fitted is None or not fitted.is_current:
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
    fitted = fit_thresholds(left_out, mean_scales)
    now = time.time()
    former = stored.published
    rule_since = former.rule_since if former else None
    if former and isinstance(former.calibration, GalleryThresholds) and former.rule != RULE:
        rule_since = now
    return Publication(
        fitted_at=now,
        calibration=fit_ratio(fitted, stored.searches),
        counted=stored.counted,
        identities=entry.identities,
        crops=entry.crops,
        level=round(float(strangers.mean()), 6),
        rule=RULE,
        rule_since=rule_since,
    )


def _fit_searches(stored: _StoredCalibration, current: CurrentCalibration) -> Publication | None:
    """Fit a calibration to searches; return None if there are too few new ones.

    A calibration fitted to named crops keeps its tails.
    """
    published = stored.published
    searches = stored.searches
    counted = stored.counted
    if published and counted - published.counted < REFIT_AFTER_SEARCHES:
        return None
    former = published.calibration if published else None
    fitted: GalleryThresholds | SearchCalibration
    if isinstance(former, GalleryThresholds):
        fitted = fit_ratio(former, searches)
    elif stored.identities >= FEW_IDENTITIES or len(searches) < LEAST_SEARCHES:
        return None
    else:
        artefact = current.model.description.calibration
        fitted = fit_searches(searches, artefact.scorings[current.scoring], former)
    changes = {"fitted_at": time.time(), "calibration": fitted, "counted": counted}
    before = published or Publication(fitted_at=0.0, calibration=fitted)
    return before.model_copy(update=changes)


async def _store_recorded(
    calibrations: GalleryCalibrations, record: Record, galleries: GalleryRegistry
) -> Collection[CalibrationKey]:
    recorded = calibrations.take_recorded()
    for key, rows in recorded.items():
        await galleries.write(record.calibrations.add_searches, *key, rows)
    return recorded


async def _publish(
    runtime: Runtime,
    gallery: Gallery,
    stored: _StoredCalibration,
    fitted: Publication,
    generation: int | None = None,
) -> None:
    """Publish a calibration, unless the record has changed since `stored` was read.

    Args:
        generation: generation of the vectors that it is fitted to; None for searches.
    """
    records = runtime.record.calibrations

    def publish() -> None:
        body = fitted.model_dump_json()
        if records.publish(*stored.key, body, stored.version, stored.counted, generation):
            runtime.calibrations.reload(gallery)

    await runtime.galleries.write(publish)
