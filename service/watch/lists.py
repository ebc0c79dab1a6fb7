"""Arm lists, fit their thresholds, and write their alerts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from gmn_client.models import WatchSettings
from model.gallery_thresholds import artefact_thresholds
from model.order_statistics import RANKS
from model.problems import InputProblem
from model.wording import counted
from service.engine.networks import LoadedModel
from service.errors import InvalidField, ServiceError
from service.gallery.gallery import Gallery
from service.ops.critical_sections import log_failure
from service.ops.data_directory import failpoint
from service.ops.metrics import Metrics
from service.ops.shared import SharedRedis
from service.record.values import Sender
from service.runtime import Runtime
from service.search.leave_one_out import NamedCrops
from service.watch.active import ActiveList, HeldList
from service.watch.camera_thresholds import CameraThresholds, fit_cameras
from service.watch.forecast import make_forecast, rate_within
from service.watch.scores import WatchList
from service.watch.silent import SilentGallery, read_silent
from service.watch.tables.alerts import NotedVisit
from service.watch.tables.armed_lists import ArmedList, watches_camera
from service.watch.tables.parts import WatchTables
from service.watch.tables.traffic import CameraTraffic, CountedTraffic
from service.watch.threshold import FEWEST_TRACKS, ThresholdFit, Traffic, WatchThreshold

log = logging.getLogger(__name__)
MOST_PEOPLE = 5000
MOST_CROPS = 50_000
# Traffic must have been counted for this long to stand for a whole day.
SHORTEST_TRAFFIC = timedelta(days=1)
# A list that rings for a larger share of strangers' tracks is not armed. Its alerts would hardly
# say anything: even if a fifth of those who pass were listed and all found, most were wrong.
MOST_RINGING = 1 / 3
# Scores of the counted traffic are used until the list's size leaves their order by this factor. In
# a list of fewer than nine people that has doubled, or in a larger one that has halved, they put
# the threshold too low.
SIZE_TOLERANCE = 1.2
MORE_ALARMS = "more false alarms than were promised"
OVER_THE_LIMIT = (
    f"a list has at most {MOST_PEOPLE:,} people and {MOST_CROPS:,} named crops; watch a gallery "
    "with fewer"
)


async def fit_list(
    runtime: Runtime,
    gallery: Gallery,
    settings: WatchSettings,
    armed: ArmedList | None = None,
) -> ActiveList:
    """Fit the thresholds of a gallery as a list, in a thread.

    Args:
        armed: the stored state of an armed list; None for a list to be armed.

    Raises:
        NeedsReindex: no loaded model has the gallery's embedder.
        InvalidField: the gallery has no named people; or a list to be armed has too many of them,
            its traffic is not known, or it would ring for too many strangers.
    """
    # Read before the crops, so that vectors of two embedders are noticed when the list is armed.
    model = runtime.models[gallery.embedder]
    crops, faults = await _read_crops(runtime, gallery)
    if faults and armed is None:
        raise InvalidField(f"gallery: {OVER_THE_LIMIT}")
    silent = await _read_silent(runtime, settings, crops, model)
    try:
        active = await runtime.pools.watch.run(
            _fit,
            model,
            runtime.watch,
            gallery,
            settings,
            armed,
            crops,
            silent,
        )
    except ServiceError:
        raise
    except InputProblem as problem:
        raise InvalidField(f"gallery: {problem}") from problem
    return replace(active, faults=faults)


async def keep_thresholds(
    runtime: Runtime, gallery: Gallery, armed: ArmedList, former: ActiveList | None
) -> ActiveList:
    """Give the present people of an armed list that cannot be fitted its former thresholds.

    Args:
        former: the list as this process compared with it; None after a start, from which on the
            threshold of the forecast holds that the list was armed with.

    Raises:
        NeedsReindex: no loaded model has the gallery's embedder.
        InvalidField: the gallery has no named people.
        InputProblem: it has too few for thresholds of scores that are relative to a level.
    """
    model = runtime.models[gallery.embedder]
    crops, faults = await _read_crops(runtime, gallery)
    silent = former.silent if former else None
    try:
        silent = await _read_silent(runtime, armed.settings, crops, model)
    except Exception as error:
        log_failure(f"reading the silent people of list {gallery.name}", error)
    kept = await runtime.pools.watch.run(
        _compare_as_before,
        model,
        gallery,
        armed,
        former,
        crops,
        silent,
    )
    return replace(kept, faults=faults)


async def _read_crops(runtime: Runtime, gallery: Gallery) -> tuple[NamedCrops, tuple[str, ...]]:
    """Read the named crops of a list up to its limits, and say whether some are left out."""
    crops = await runtime.fitter.read_named_crops(gallery)
    if not len(crops.slots):
        raise InvalidField("gallery: the list has no named person; enroll crops with names")
    if len(crops.slots) <= MOST_CROPS and len(set(crops.names.tolist())) <= MOST_PEOPLE:
        return crops, ()
    first = await runtime.pools.watch.run(_choose_first, crops)
    return first, (f"only those who were enrolled first are compared: {OVER_THE_LIMIT}",)


def _choose_first(crops: NamedCrops) -> NamedCrops:
    """Choose the people of a list who were enrolled first, and the first crops of each."""
    # Names are numbered in the order of their first crops.
    crops = crops.at(np.flatnonzero(crops.names < MOST_PEOPLE))
    starts = np.flatnonzero(np.diff(crops.names, prepend=-1))
    crops_of_people = np.diff(starts, append=len(crops.names))
    turns = np.arange(len(crops.names)) - np.repeat(starts, crops_of_people)
    return crops.at(np.sort(np.argsort(turns, kind="stable")[:MOST_CROPS]))


async def _read_silent(
    runtime: Runtime, settings: WatchSettings, crops: NamedCrops, model: LoadedModel
) -> SilentGallery | None:
    if settings.silent is None:
        return None
    return await read_silent(
        runtime.galleries,
        runtime.fitter,
        runtime.pools.watch,
        settings.silent,
        crops,
        model,
    )


def _fit(
    model: LoadedModel,
    tables: WatchTables,
    gallery: Gallery,
    settings: WatchSettings,
    armed: ArmedList | None,
    crops: NamedCrops,
    silent: SilentGallery | None,
) -> ActiveList:
    watch_list = _as_list(crops)
    former = tables.traffic.counted(gallery.gallery_id)
    score_kind = _choose_score_kind(model.embedder, watch_list, former)
    counts, _ = tables.traffic.of_list(gallery.gallery_id, score_kind)
    traffic = Traffic(counts)
    tracks_per_day = settings.tracks_per_day or _measure_tracks_per_day(former, armed)
    accepted = settings.budget / tracks_per_day
    if accepted > MOST_RINGING and armed is None:
        raise InvalidField(
            f"budget: {settings.budget:g} false alarms in {tracks_per_day:g} tracks a day let more "
            f"than one stranger in {round(1 / MOST_RINGING)} ring; accept at most "
            f"{MOST_RINGING * tracks_per_day:.3g}, or say how many tracks all cameras see in a "
            "whole day"
        )
    accepted = min(accepted, MOST_RINGING)
    rate = rate_within(accepted, watch_list, model.reference, traffic)
    few_people = artefact_thresholds(model.cosine_calibration)
    fit = ThresholdFit(watch_list, rate, model.reference, artefact=few_people)
    threshold = fit.at(traffic=traffic)
    by_camera = tables.traffic.by_camera(gallery.gallery_id, score_kind)
    reviews = {}
    if armed is not None:
        reviews = tables.watches.reviews_by_camera(gallery.gallery_id, armed.armed_at, score_kind)
    return ActiveList(
        gallery=gallery,
        settings=settings,
        watch_list=watch_list,
        slots=crops.slots,
        forecast=make_forecast(
            watch_list,
            threshold,
            tracks_per_day,
            _count_watched_tracks(settings, by_camera),
            silent,
            model.reference,
        ),
        thresholds=fit_cameras(fit, threshold, crops.camera_codes(), by_camera, reviews),
        embedder=model.embedder,
        score_kind=score_kind,
        silent=silent,
    )


def _compare_as_before(
    model: LoadedModel,
    gallery: Gallery,
    armed: ArmedList,
    former: ActiveList | None,
    crops: NamedCrops,
    silent: SilentGallery | None,
) -> ActiveList:
    watch_list = _as_list(crops)
    promised = armed.promised
    had_level = former.watch_list.has_level if former else promised.people >= RANKS
    if had_level and not watch_list.has_level:
        raise InputProblem("the list has too few people for its former thresholds; enroll others")
    # A threshold holds for the scores that it was fitted to.
    watch_list.has_level = had_level
    asked = armed.settings.budget / promised.tracks_per_day
    at_arming = WatchThreshold(
        value=promised.threshold,
        asked=asked,
        rate=asked,
        basis=promised.basis,
        people=promised.people,
        traffic_tracks=promised.traffic_tracks,
    )
    return ActiveList(
        gallery=gallery,
        settings=armed.settings,
        watch_list=watch_list,
        slots=crops.slots,
        forecast=former.forecast if former else promised,
        thresholds=former.thresholds if former else CameraThresholds(at_arming),
        embedder=model.embedder,
        score_kind=_choose_score_kind(model.embedder, watch_list, None),
        silent=silent,
    )


def _as_list(crops: NamedCrops) -> WatchList:
    return WatchList(crops.columns.vectors[crops.slots], crops.names, crops.cameras)


def _choose_score_kind(embedder: str, watch_list: WatchList, former: CountedTraffic | None) -> str:
    """Return the kind of a list's scores, that of its counted traffic if they are comparable.

    Scores that are relative to a level and plain cosines differ, and so do those of lists of
    different size.
    """
    scoring = f"{embedder} {watch_list.has_level:d}"
    if former is not None:
        scoring_before, _, order = former.score_kind.rpartition(" ")
        if scoring_before == scoring and _is_near(watch_list.size, int(order)):
            return former.score_kind
    return f"{scoring} {watch_list.size.bit_length()}"


def _is_near(size: int, order: int) -> bool:
    """Return True if a size is hardly beyond those whose binary number has `order` digits."""
    least = 1 << (order - 1)
    most = (1 << order) - 1
    return least / SIZE_TOLERANCE <= size <= most * SIZE_TOLERANCE


def _count_watched_tracks(settings: WatchSettings, traffic: Mapping[Sender, CameraTraffic]) -> int:
    """Return the number of counted tracks that passed cameras which the list watches."""
    return sum(
        counted.tracks
        for sender, counted in traffic.items()
        if watches_camera(settings, sender.camera)
    )


def _measure_tracks_per_day(former: CountedTraffic | None, armed: ArmedList | None) -> float:
    tracks = former.tracks if former else 0
    counted_for = datetime.now(UTC) - former.since if former else timedelta(0)
    if tracks >= FEWEST_TRACKS and counted_for >= SHORTEST_TRAFFIC:
        return tracks / (counted_for / timedelta(days=1))
    if armed is not None:
        return armed.promised.tracks_per_day
    raise InvalidField(
        f"tracks_per_day: is not known yet: {tracks} were compared with the list, and it takes "
        f"{FEWEST_TRACKS} and a whole day; say about how many all cameras see in a day"
    )


async def arm(runtime: Runtime, fitted: ActiveList, key_id: str) -> None:
    gallery_id = fitted.gallery.gallery_id
    await runtime.galleries.write(
        runtime.watch.watches.arm,
        gallery_id,
        fitted.settings,
        fitted.forecast,
        fitted.embedder,
        key_id,
    )
    # Without a state it is fitted again soon: crops may have been enrolled since it was fitted.
    runtime.watch.lists.held[gallery_id] = HeldList(None, fitted)


async def pause(runtime: Runtime, gallery: Gallery, is_paused: bool) -> None:
    await runtime.galleries.write(runtime.watch.watches.pause, gallery.gallery_id, is_paused)
    held = runtime.watch.lists.held
    if former := held.get(gallery.gallery_id):
        held[gallery.gallery_id] = replace(former, is_paused=is_paused)


async def write_alert(
    runtime: Runtime, rule: Callable[..., NotedVisit | None], *args: Any
) -> NotedVisit | None:
    """Run a function of the record that may write an alert; count and announce a new alert."""
    noted = await runtime.galleries.write(rule, *args)
    if noted is not None:
        if noted.is_new:
            failpoint("watch.noted")
        announce_alert(runtime.metrics, runtime.shared, noted)
    return noted


def announce_alert(metrics: Metrics, shared: SharedRedis | None, noted: NotedVisit) -> None:
    """Count the dropped deliveries of an alert; count and announce it in Redis if it is new."""
    metrics.webhook_dropped.inc(noted.dropped)
    if not noted.is_new:
        return
    alert = noted.alert
    metrics.alerts.labels(alert.kind).inc()
    if noted.removed:
        log.warning("%d old alerts were removed: the limit on alerts is reached", noted.removed)
        metrics.alerts_removed.inc(noted.removed)
    if shared:
        shared.announce(
            alert.gallery,
            "alert",
            alert_id=alert.alert_id,
            kind=alert.kind,
        )


async def warn_if_broken(runtime: Runtime, gallery: Gallery) -> None:
    watch = await runtime.galleries.read(runtime.watch.watches.get, gallery.gallery_id)
    if watch is None or watch.state == "disarmed" or watch.promised.high is None:
        return
    if watch.rejected > watch.promised.high * max(1.0, watch.days):
        rejected = counted(watch.rejected, "false alarm was", "false alarms were")
        detail = (
            f"{MORE_ALARMS}: {rejected} rejected in {watch.days:.1f} days, and at most "
            f"{watch.promised.high:g} a day were forecast; arm it for fewer a day"
        )
        await write_alert(runtime, runtime.watch.watches.warn, gallery.gallery_id, detail)
