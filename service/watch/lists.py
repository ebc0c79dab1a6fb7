"""Arming of lists, and their thresholds, which follow the galleries beside the requests."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from gmn_client.models import WatchSettings
from model.gallery_thresholds import artefact_thresholds
from model.problems import InputProblem
from service.errors import InvalidField, ServiceError
from service.gallery.gallery import Gallery
from service.ops.failpoints import failpoint
from service.record.watch import ArmedList, NotedVisit
from service.runtime import Runtime
from service.search.leave_one_out import NamedCrops
from service.search.refit import read_named_crops
from service.watch.active import ActiveList, HeldList
from service.watch.forecast import make_forecast
from service.watch.scores import WatchList
from service.watch.threshold import FEWEST_TRACKS, Traffic, fit_threshold

log = logging.getLogger(__name__)
LOOK_EVERY_SECONDS = 1.0
MOST_PEOPLE = 5000
MOST_CROPS = 50_000
# Traffic that has grown by this factor moves a threshold anew.
GROWTH = 1.5
# Traffic of a shorter time does not tell that of a day.
SHORTEST_TRAFFIC = timedelta(days=1)
DOUBLED = 2.0
# A fit has this share of the time at most, so that a gallery that changes all the time costs
# little.
FITTING_SHARE = 0.1


async def fit_list(runtime: Runtime, gallery: Gallery, settings: WatchSettings) -> ActiveList:
    """Fit the threshold of a gallery as a list, beside the requests.

    Raises:
        NeedsReindex: no loaded model made its vectors.
        InvalidField: it has no named people or too many, or its traffic is not known.
    """
    crops = await read_named_crops(runtime, gallery)
    if len(crops.slots) > MOST_CROPS or len(set(crops.names.tolist())) > MOST_PEOPLE:
        raise InvalidField(
            f"gallery: a list has at most {MOST_PEOPLE:,} people and {MOST_CROPS:,} named crops; "
            "watch a gallery with fewer"
        )
    try:
        return await runtime.pools.watch.run(_fit, runtime, gallery, settings, crops)
    except ServiceError:
        raise
    except InputProblem as problem:
        raise InvalidField(f"gallery: {problem}") from problem


def _fit(
    runtime: Runtime, gallery: Gallery, settings: WatchSettings, crops: NamedCrops
) -> ActiveList:
    model = runtime.models[gallery.embedder]
    watch_list = WatchList(crops.columns.vectors[crops.slots], crops.names, crops.cameras)
    # Heights above a level and plain cosines are not compared, nor those of other sizes.
    subject = f"{model.embedder} {watch_list.has_level:d} {watch_list.size.bit_length()}"
    counted = runtime.record.watches.traffic(gallery.gallery_id, subject)
    traffic = Traffic(np.array(counted[0])) if counted else None
    tracks_per_day = settings.tracks_per_day or _tracks_per_day(counted)
    rate = settings.budget / tracks_per_day
    few_people = artefact_thresholds(model.description.calibration.scorings["cosine"])
    threshold = fit_threshold(watch_list, rate, model.reference, traffic, artefact=few_people)
    return ActiveList(
        gallery=gallery,
        settings=settings,
        watch_list=watch_list,
        row_ids=crops.slots,
        forecast=make_forecast(watch_list, threshold, tracks_per_day),
        embedder=model.embedder,
        subject=subject,
    )


def _tracks_per_day(counted: tuple[list[int], datetime] | None) -> float:
    tracks = sum(counted[0]) if counted else 0
    counted_for = datetime.now(UTC) - counted[1] if counted else timedelta(0)
    if tracks < FEWEST_TRACKS or counted_for < SHORTEST_TRAFFIC:
        raise InvalidField(
            f"tracks_per_day: is not known yet: {tracks} tracks were counted, and it takes "
            f"{FEWEST_TRACKS} and a day; send how many tracks all cameras see in a day"
        )
    return tracks / (counted_for / timedelta(days=1))


async def arm(
    runtime: Runtime, gallery: Gallery, settings: WatchSettings, fitted: ActiveList, key_id: str
) -> None:
    """Arm a list in the record and in this process; others follow at their next look."""
    arm_list = runtime.record.watches.arm
    async with runtime.watches.lock:
        watch = await runtime.galleries.write(
            arm_list, gallery.gallery_id, settings, fitted.forecast, key_id
        )
        held = HeldList(_state(watch, gallery), fitted)
        runtime.watches.held[gallery.gallery_id] = held


async def disarm(runtime: Runtime, gallery: Gallery, why: str, alert: bool = False) -> None:
    """Disarm a list; with `alert` people are told why."""
    await write_alert(runtime, runtime.record.watches.disarm, gallery.gallery_id, why, alert)
    runtime.watches.held.pop(gallery.gallery_id, None)


async def write_alert(
    runtime: Runtime, rule: Callable[..., NotedVisit | None], *args: Any
) -> NotedVisit | None:
    """Run a rule of the record that may write an alert, and count the alert if it is new."""
    noted = await runtime.galleries.write(rule, *args)
    if noted is None or not noted.is_new:
        return noted
    failpoint("watch.noted")
    alert = noted.alert
    runtime.metrics.alerts.labels(alert.kind).inc()
    runtime.metrics.webhook_dropped.inc(noted.dropped)
    if noted.removed:
        log.warning("%d alerts gave place to a new one: too many are kept", noted.removed)
        runtime.metrics.alerts_removed.inc(noted.removed)
    if runtime.shared is not None:
        runtime.shared.announce(alert.gallery, "alert", alert_id=alert.alert_id, kind=alert.kind)
    return noted


async def warn_if_broken(runtime: Runtime, gallery: Gallery) -> None:
    """Write an alert where a list has raised more false alarms than its forecast allows."""
    watch = await runtime.galleries.read(runtime.record.watches.get, gallery.gallery_id)
    if watch is None or watch.state == "disarmed" or watch.promised.high is None:
        return
    if watch.rejected > watch.promised.high * max(1.0, watch.days):
        detail = (
            f"{watch.rejected} false alarms were rejected in {watch.days:.1f} days, and at most "
            f"{watch.promised.high:g} a day were forecast; arm it by a smaller budget"
        )
        await write_alert(runtime, runtime.record.watches.warn, gallery.gallery_id, detail)


async def keep_lists(runtime: Runtime) -> None:
    while True:
        try:
            await _follow_all(runtime)
            runtime.watches.loaded.set()
        except ServiceError as error:
            log.warning("the armed lists could not be read: %s", error.detail)
        except Exception:
            log.exception("the armed lists could not be followed")
        await asyncio.sleep(LOOK_EVERY_SECONDS)


async def _follow_all(runtime: Runtime) -> None:
    async with runtime.watches.lock:
        armed = await runtime.galleries.read(runtime.record.watches.armed)
        held = runtime.watches.held
        for gallery_id in held.keys() - {watch.gallery_id for watch in armed}:
            del held[gallery_id]
        for watch in armed:
            gallery = runtime.galleries.by_id(watch.gallery_id)
            if gallery is None:
                continue
            try:
                await _follow(runtime, gallery, watch)
            except ServiceError as error:
                log.warning("list %s is compared as before: %s", gallery.name, error.detail)
            except Exception:
                log.exception("list %s is compared as before", gallery.name)


async def _follow(runtime: Runtime, gallery: Gallery, watch: ArmedList) -> None:
    ended = None
    if watch.settings.expires_at <= datetime.now(UTC):
        ended = "its time is over"
    elif watch.outdated:
        ended = "its vectors were made anew or restored; look at its forecast and arm it again"
    if ended:
        await disarm(runtime, gallery, ended, alert=True)
        return
    state = _state(watch, gallery)
    before = runtime.watches.held.get(watch.gallery_id)
    if before and (before.state == state or time.monotonic() < before.due):
        return
    began = time.monotonic()
    active = warning = why = None
    try:
        active = await fit_list(runtime, gallery, watch.settings)
    except InvalidField as error:
        why = error.detail
        warning = f"nothing is compared with it: {why}"
    now = time.monotonic()
    due = now + (now - began) / FITTING_SHARE
    runtime.watches.held[watch.gallery_id] = HeldList(state, active, why, due)
    promised = watch.promised.false_alarms
    expected = active.forecast.false_alarms if active else None
    if promised is not None and expected is not None and expected > DOUBLED * promised:
        warning = (
            f"{expected:.1f} false alarms a day are expected now, {promised:.1f} were at first"
        )
    if warning:
        await write_alert(runtime, runtime.record.watches.warn, watch.gallery_id, warning)


def _state(watch: ArmedList, gallery: Gallery) -> object:
    """Return everything that the threshold of a list depends on, traffic by its order of size."""
    grown = math.log(max(1.0, watch.tracks / FEWEST_TRACKS), GROWTH)
    has_traffic = watch.tracks >= FEWEST_TRACKS
    return watch.armed_at, gallery.version, gallery.embedder, has_traffic, int(grown)
