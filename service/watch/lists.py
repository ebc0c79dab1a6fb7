"""Arm lists, and fit their thresholds again in the background when their galleries change."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from gmn_client.models import WatchSettings
from model.gallery_thresholds import artefact_thresholds
from model.problems import InputProblem
from model.wording import counted
from service.engine.networks import LoadedModel
from service.errors import InvalidField, NeedsReindex, ServiceError
from service.gallery.gallery import Gallery
from service.ops.audit import AuditLog
from service.ops.critical_sections import attempt
from service.ops.data_directory import failpoint
from service.ops.metrics import Metrics
from service.ops.shared import SharedRedis
from service.record.values import Sender
from service.runtime import Runtime
from service.search.leave_one_out import NamedCrops
from service.watch.active import ActiveList, HeldList
from service.watch.camera_thresholds import CameraThresholds, fit_cameras, growth_of, measure_growth
from service.watch.forecast import make_forecast, rate_within
from service.watch.scores import WatchList
from service.watch.silent import SilentGallery, read_silent, summarize_silent
from service.watch.tables.alerts import NotedVisit
from service.watch.tables.armed_lists import ArmedList, watches_camera
from service.watch.tables.parts import WatchTables
from service.watch.tables.traffic import CameraTraffic
from service.watch.threshold import FEWEST_TRACKS, ThresholdFit, Traffic

log = logging.getLogger(__name__)
LOOK_EVERY_SECONDS = 1.0
MOST_PEOPLE = 5000
MOST_CROPS = 50_000
# Traffic must have been counted for this long to stand for a whole day.
SHORTEST_TRAFFIC = timedelta(days=1)
# Smaller moves of a threshold are not logged.
LEAST_MOVE = 1e-4
# A warning is raised when the expected false alarms have grown by this factor.
WARN_GROWTH = 2.0
# Upper bound on the share of time spent on fits of a gallery that changes constantly.
FITTING_SHARE = 0.1


async def fit_list(
    runtime: Runtime,
    gallery: Gallery,
    settings: WatchSettings,
    armed_at: datetime | None = None,
) -> ActiveList:
    """Fit the thresholds of a gallery as a list, in a thread.

    Args:
        armed_at: time from which reviews of its alerts move them; None for a list to be armed.

    Raises:
        NeedsReindex: no loaded model has the gallery's embedder.
        InvalidField: the gallery has no named people or too many, or its traffic is not known.
    """
    # Read before the crops, so that vectors of two embedders are noticed when the list is armed.
    embedder = gallery.embedder
    crops = await runtime.fitter.read_named_crops(gallery)
    if len(crops.slots) > MOST_CROPS or len(set(crops.names.tolist())) > MOST_PEOPLE:
        raise InvalidField(
            f"gallery: a list has at most {MOST_PEOPLE:,} people and {MOST_CROPS:,} named crops; "
            "watch a gallery with fewer"
        )
    silent = None
    if settings.silent is not None:
        silent = await read_silent(
            runtime.galleries,
            runtime.fitter,
            runtime.pools.watch,
            settings.silent,
            crops,
            runtime.models[embedder],
        )
    try:
        return await runtime.pools.watch.run(
            _fit,
            runtime.models[embedder],
            runtime.watch,
            gallery,
            settings,
            armed_at,
            crops,
            silent,
        )
    except ServiceError:
        raise
    except InputProblem as problem:
        raise InvalidField(f"gallery: {problem}") from problem


def _fit(
    model: LoadedModel,
    tables: WatchTables,
    gallery: Gallery,
    settings: WatchSettings,
    armed_at: datetime | None,
    crops: NamedCrops,
    silent: SilentGallery | None,
) -> ActiveList:
    vectors = crops.columns.vectors[crops.slots]
    watch_list = WatchList(vectors, crops.names, crops.cameras)
    # Traffic counts only for lists of similar size: scores relative to a level and cosines differ.
    score_kind = f"{model.embedder} {watch_list.has_level:d} {watch_list.size.bit_length()}"
    counts, since = tables.traffic.of_list(gallery.gallery_id, score_kind)
    traffic = Traffic(counts)
    tracks_per_day = settings.tracks_per_day or _measure_tracks_per_day(traffic.tracks, since)
    accepted = settings.budget / tracks_per_day
    rate = rate_within(accepted, watch_list, model.reference, traffic)
    few_people = artefact_thresholds(model.cosine_calibration)
    fit = ThresholdFit(watch_list, rate, model.reference, artefact=few_people)
    threshold = fit.at(traffic=traffic)
    by_camera = tables.traffic.by_camera(gallery.gallery_id, score_kind)
    reviews = {}
    if armed_at is not None:
        reviews = tables.watches.reviews_by_camera(gallery.gallery_id, armed_at, score_kind)
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


def _count_watched_tracks(settings: WatchSettings, traffic: Mapping[Sender, CameraTraffic]) -> int:
    """Return the number of counted tracks that passed cameras which the list watches."""
    return sum(
        counted.tracks
        for sender, counted in traffic.items()
        if watches_camera(settings, sender.camera)
    )


def _measure_tracks_per_day(tracks: int, since: datetime) -> float:
    counted_for = datetime.now(UTC) - since
    if tracks < FEWEST_TRACKS or counted_for < SHORTEST_TRAFFIC:
        raise InvalidField(
            f"tracks_per_day: is not known yet: {tracks} were compared with the list, and it takes "
            f"{FEWEST_TRACKS} and a whole day; say about how many all cameras see in a day"
        )
    return tracks / (counted_for / timedelta(days=1))


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
            f"{rejected} rejected in {watch.days:.1f} days, and at most "
            f"{watch.promised.high:g} a day were forecast; arm it for fewer a day"
        )
        await write_alert(runtime, runtime.watch.watches.warn, gallery.gallery_id, detail)


async def keep_lists(runtime: Runtime) -> None:
    while True:
        await attempt("following the armed lists", _follow_lists(runtime))
        await asyncio.sleep(LOOK_EVERY_SECONDS)


async def _follow_lists(runtime: Runtime) -> None:
    held = runtime.watch.lists.held
    # A list that is armed during the read stays, although the read may not show it.
    ended = set(held)
    armed = await runtime.galleries.read(runtime.watch.watches.armed)
    ended.difference_update(watch.gallery_id for watch in armed)
    for gallery_id in ended:
        del held[gallery_id]
    for watch in armed:
        gallery = runtime.galleries.by_id(watch.gallery_id)
        if gallery is not None:
            await attempt(f"fitting list {gallery.name}", _follow_list(runtime, gallery, watch))
    runtime.watch.lists.loaded.set()


async def _follow_list(runtime: Runtime, gallery: Gallery, watch: ArmedList) -> None:
    end_reason = None
    if watch.settings.expires_at <= datetime.now(UTC):
        end_reason = "its time is over"
    elif watch.outdated:
        end_reason = "its vectors were recomputed; read its forecast and arm it again"
    if end_reason:
        disarm = runtime.watch.watches.disarm
        await write_alert(runtime, disarm, watch.gallery_id, end_reason, watch.armed_at)
        return
    silent = summarize_silent(runtime.galleries, watch.settings.silent)
    state = _summarize_state(watch, gallery), silent
    held = runtime.watch.lists.held
    former = held.get(watch.gallery_id)
    is_paused = watch.paused_at is not None
    if former and former.is_paused != is_paused:
        former = held[watch.gallery_id] = replace(former, is_paused=is_paused)
    if former and time.monotonic() < former.due:
        return
    if former and former.state == state and not await _has_grown(runtime, former, watch):
        return
    began = time.monotonic()
    active = reason = warning = None
    try:
        active = await fit_list(runtime, gallery, watch.settings, watch.armed_at)
        promised = watch.promised.false_alarms
        expected = active.forecast.false_alarms
        if active.silent and active.silent.why:
            warning = f"nobody is kept silent: {active.silent.why}"
        elif promised is not None and expected is not None and expected > WARN_GROWTH * promised:
            warning = (
                f"{expected:.1f} false alarms a day are expected now, {promised:.1f} were at first"
            )
    except (InvalidField, NeedsReindex) as error:
        reason = error.detail
        warning = f"nothing is compared with it: {reason}"
    if held.get(watch.gallery_id) is not former:
        # It was disarmed, or armed again, during the fit.
        return
    now = time.monotonic()
    due = now + (now - began) / FITTING_SHARE
    # If the warning cannot be written, the list is fitted again and warns then.
    fitted = HeldList(None if warning else state, active, reason, due, is_paused=is_paused)
    held[watch.gallery_id] = fitted
    if former and former.active and active:
        await _log_moves(runtime.audit, gallery.name, former.active.thresholds, active.thresholds)
    if warning:
        await write_alert(runtime, runtime.watch.watches.warn, watch.gallery_id, warning)
        if held.get(watch.gallery_id) is fitted:
            held[watch.gallery_id] = replace(fitted, state=state)


def _summarize_state(watch: ArmedList, gallery: Gallery) -> object:
    """Return values that change when the thresholds of a list have to be fitted again."""
    return watch.armed_at, gallery.version, watch.review_changes, growth_of(watch.tracks)


async def _has_grown(runtime: Runtime, former: HeldList, watch: ArmedList) -> bool:
    """Return True if the traffic of a camera has grown so much that its threshold may move."""
    if former.active is None or former.tracks == watch.tracks:
        return False
    traffic = await runtime.galleries.read(
        runtime.watch.traffic.by_camera, watch.gallery_id, former.active.score_kind
    )
    if measure_growth(traffic) != measure_growth(former.active.thresholds.traffic):
        return True
    if runtime.watch.lists.held.get(watch.gallery_id) is former:
        runtime.watch.lists.held[watch.gallery_id] = replace(former, tracks=watch.tracks)
    return False


async def _log_moves(
    audit: AuditLog, gallery: str, former: CameraThresholds, current: CameraThresholds
) -> None:
    for sender, threshold in current.by_sender.items():
        # Changed crops of the list move its thresholds at all cameras, which is no news of one.
        if current.has_same_evidence(former, sender):
            continue
        before = former.at(sender).value
        if math.isclose(before, threshold.value, abs_tol=LEAST_MOVE):
            continue
        state = current.describe_at(sender)
        await audit.done(
            "move_threshold",
            gallery=gallery,
            camera=sender.camera,
            camera_key_id=sender.key_id,
            before=round(before, 4),
            after=round(threshold.value, 4),
            tracks=state.tracks,
            confirmed=state.confirmed,
            rejected=state.rejected,
            reviews_ignored=state.reviews_ignored,
        )
