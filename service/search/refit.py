"""Refit: stores the scores of searches, and fits a gallery's calibration to those stored."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import cast

from model.calibration import Scoring
from model.problems import InputProblem
from model.search_calibration import (
    LEAST_SEARCHES,
    REFIT_AFTER_SEARCHES,
    REFIT_AFTER_SECONDS,
    SearchScores,
    fit_searches,
)
from service.errors import ServiceError
from service.gallery.gallery import Gallery
from service.runtime import Runtime
from service.search.calibration import Place, Publication

log = logging.getLogger(__name__)
STORED_WITHIN_SECONDS = 2.0


async def refit_calibrations(runtime: Runtime) -> None:
    """Stores searches and fits calibrations, again and again, until it is cancelled.

    No answer waits for it. The searches that wait when it is cancelled are stored too.
    """
    later: dict[Place, float] = {}
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STORED_WITHIN_SECONDS):
                    await runtime.calibrations.ready.wait()
            try:
                await store_and_refit(runtime, later)
            except ServiceError as error:
                log.warning("searches were not kept for the calibration: %s", error.detail)
            except Exception:
                log.exception("a calibration could not be fitted to its searches")
    finally:
        waiting = runtime.calibrations.take_recorded()
        with contextlib.suppress(ServiceError):
            await runtime.galleries.write(_store, runtime, waiting)


async def store_and_refit(runtime: Runtime, later: dict[Place, float]) -> None:
    """Stores the searches that wait, then fits calibrations with enough new searches.

    Args:
        later: places with enough new searches, and the time from which each may be fitted again.

    Raises:
        ServiceError: the record cannot be written; the searches that waited are lost.
    """
    recorded = runtime.calibrations.take_recorded()
    if recorded:
        await runtime.galleries.write(_store, runtime, recorded)
    due = {place for place, at in later.items() if at <= time.time()}
    for place in recorded.keys() | due:
        later.pop(place, None)
        again_at = await _refit(runtime, place)
        if again_at is not None:
            later[place] = again_at


def _store(runtime: Runtime, recorded: Mapping[Place, Sequence[tuple[str, bytes]]]) -> None:
    for place, rows in recorded.items():
        if _gallery_at(runtime, place) is not None:
            runtime.record.calibrations.add_searches(*place, rows)


def _gallery_at(runtime: Runtime, place: Place) -> Gallery | None:
    """The gallery, where its searches by this subject still count."""
    gallery = runtime.galleries.by_id(place[0])
    if gallery is None or gallery.needs_reindex or gallery.settings.calibration != "on":
        return None
    same = runtime.calibrations.current(gallery, _scoring(place)).subject == place[1]
    return gallery if same else None


def _scoring(place: Place) -> Scoring:
    return cast(Scoring, place[1].partition(":")[0])


def _fit_at(searches: Sequence[SearchScores], published: Publication | None) -> float | None:
    """When a calibration may be fitted, in Unix seconds; None without enough searches."""
    if published is None:
        return 0.0 if len(searches) >= LEAST_SEARCHES else None
    since = published.fitted_at
    new = sum(one.at > since for one in searches)
    return since + REFIT_AFTER_SECONDS if new >= REFIT_AFTER_SEARCHES else None


async def _refit(runtime: Runtime, place: Place) -> float | None:
    """Fits a calibration and publishes it; returns when to look again, in Unix seconds."""
    gallery = _gallery_at(runtime, place)
    if gallery is None:
        return None
    searches, version, published = await runtime.galleries.read(_read, runtime, place)
    runtime.calibrations.note_stored(place, len(searches))
    at, now, scoring = _fit_at(searches, published), time.time(), _scoring(place)
    if at is None or at > now:
        return at
    artefact = runtime.model_of(gallery).description.calibration.scorings[scoring]
    previous = published.calibration if published else None
    try:
        fitted = await runtime.pools.calibration.run(fit_searches, searches, artefact, previous)
    except InputProblem as problem:
        log.info("gallery %s keeps its calibration: %s", gallery.name, problem)
        return None
    body = Publication(fitted_at=now, calibration=fitted).model_dump_json()
    await runtime.galleries.write(_publish, runtime, gallery, place, body, version)
    return None


def _read(runtime: Runtime, place: Place) -> tuple[list[SearchScores], int, Publication | None]:
    """The stored searches, and what is published: version 0 and None where nothing is."""
    records = runtime.record.calibrations
    searches = []
    for row in records.searches(*place):
        # One that another program version wrote makes room for new ones.
        with contextlib.suppress(InputProblem):
            searches.append(SearchScores.from_bytes(row))
    found = records.published(place[0]).get(place[1])
    if found is None:
        return searches, 0, None
    return searches, found.version, Publication.read(found.body)


def _publish(runtime: Runtime, gallery: Gallery, place: Place, body: str, after: int) -> None:
    # On the writer thread, after a reset or a switch of the calibration that came meanwhile.
    records = runtime.record.calibrations
    if gallery.settings.calibration != "on" or not records.searches(*place):
        return
    if records.publish(*place, body, after):
        runtime.calibrations.follow(gallery)
