"""Refit: store the searches that wait, and move a gallery's calibration to what is stored."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

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
from service.ops.health import idle
from service.runtime import Runtime
from service.search.calibrations import Publication, read_publication, scoring_of
from service.search.kept_searches import Place

log = logging.getLogger(__name__)
STORED_WITHIN_SECONDS = 2.0


async def refit_calibrations(runtime: Runtime) -> None:
    """Stores searches and fits calibrations, again and again, until it is cancelled.

    No answer waits for it. What waits when it is cancelled is stored too.
    """
    later = Later()
    try:
        while True:
            with idle(), contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STORED_WITHIN_SECONDS):
                    await runtime.kept_searches.ready.wait()
            try:
                await store_and_refit(runtime, later)
            except ServiceError as error:
                log.warning("searches were not kept for the calibration: %s", error.detail)
            except Exception:
                log.exception("a calibration could not be fitted to its searches")
    finally:
        waiting = list(runtime.kept_searches.take())
        with contextlib.suppress(ServiceError):
            await runtime.galleries.write(_store, runtime, waiting)


@dataclass
class Later:
    """What has enough new searches for a fit, by the time from which it may be fitted again."""

    due: dict[Place, float] = field(default_factory=dict)

    def take(self) -> set[Place]:
        """Those whose time has come."""
        now = time.time()
        come = {place for place, at in self.due.items() if at <= now}
        for place in come:
            del self.due[place]
        return come


async def store_and_refit(runtime: Runtime, later: Later) -> None:
    """Stores what waits, then fits what has enough new searches.

    Raises:
        ServiceError: the record cannot be written; what waited is lost.
    """
    waiting = list(runtime.kept_searches.take())
    if waiting:
        await runtime.galleries.write(partial(_store, runtime, waiting))
    for place in {place for place, _ in waiting} | later.take():
        again_at = await _refit(runtime, place)
        if again_at is not None:
            later.due[place] = again_at


def _store(runtime: Runtime, waiting: Sequence[tuple[Place, list[tuple[str, bytes]]]]) -> None:
    for place, rows in waiting:
        if _learning(runtime, place) is not None:
            runtime.record.calibrations.add_searches(*place, rows)


def _learning(runtime: Runtime, place: Place) -> Gallery | None:
    """The gallery, where what its searches taught of this subject still counts."""
    gallery_id, subject = place
    gallery = runtime.galleries.by_id(gallery_id)
    if gallery is None or gallery.needs_reindex or gallery.settings.calibration != "on":
        return None
    same = runtime.calibrations.subject(gallery, scoring_of(subject)) == subject
    return gallery if same else None


@dataclass(frozen=True)
class _Kept:
    """What is stored for one gallery and subject; the version is 0 where nothing is published."""

    searches: list[SearchScores]
    version: int
    published: Publication | None


async def _refit(runtime: Runtime, place: Place) -> float | None:
    """Fits a calibration and publishes it; answers when to look again, in Unix seconds."""
    gallery, (_, subject) = _learning(runtime, place), place
    if gallery is None:
        return None
    kept = await runtime.galleries.read(partial(_read, runtime, place))
    runtime.calibrations.note_kept(gallery, subject, len(kept.searches))
    if kept.published is None:
        if len(kept.searches) < LEAST_SEARCHES:
            return None
    else:
        since = kept.published.fitted_at
        if sum(one.at > since for one in kept.searches) < REFIT_AFTER_SEARCHES:
            return None
        if time.time() < since + REFIT_AFTER_SECONDS:
            return since + REFIT_AFTER_SECONDS
    scoring = scoring_of(subject)
    artefact = runtime.model_of(gallery).description.calibration.scorings[scoring]
    now = time.time()
    try:
        previous = kept.published.calibration if kept.published else None
        fitted = await asyncio.to_thread(fit_searches, kept.searches, artefact, previous, scoring)
    except InputProblem as problem:
        log.info("gallery %s keeps its calibration: %s", gallery.name, problem)
        return None
    body = Publication(fitted_at=now, calibration=fitted).model_dump_json()
    if await runtime.galleries.write(lambda: _publish(runtime, gallery, subject, body, kept)):
        await runtime.galleries.read(lambda: runtime.calibrations.follow(gallery))
    return None


def _read(runtime: Runtime, place: Place) -> _Kept:
    records = runtime.record.calibrations
    gallery_id, subject = place
    searches = []
    for row in records.searches(gallery_id, subject):
        # One that another program version wrote makes room for new ones.
        with contextlib.suppress(InputProblem):
            searches.append(SearchScores.from_bytes(row))
    found = records.published(gallery_id).get(subject)
    if found is None:
        return _Kept(searches, 0, None)
    return _Kept(searches, found.version, read_publication(found.body))


def _publish(runtime: Runtime, gallery: Gallery, subject: str, body: str, kept: _Kept) -> bool:
    # On the writer thread, after a reset or a switch that came meanwhile.
    records = runtime.record.calibrations
    if gallery.settings.calibration != "on" or not records.searches(gallery.gallery_id, subject):
        return False
    return records.publish(gallery.gallery_id, subject, body, kept.version)
