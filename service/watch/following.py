"""Follow the armed lists: fit them again when they change, and tell what keeps them from it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from model.problems import InputProblem
from service.errors import InvalidField, NeedsReindex
from service.gallery.gallery import Gallery
from service.ops.audit import AuditLog
from service.ops.critical_sections import attempt, log_failure
from service.record.values import Sender
from service.runtime import Runtime
from service.watch.active import ActiveList, HeldList, describe_error, find_fault_of_hours
from service.watch.camera_thresholds import CameraThresholds, growth_of, measure_growth
from service.watch.lists import MORE_ALARMS, fit_list, keep_thresholds, write_alert
from service.watch.silent import summarize_silent
from service.watch.tables.armed_lists import ArmedList
from service.watch.tables.traffic import CameraTraffic

LOOK_EVERY_SECONDS = 1.0
# How often the record is asked whether an alert of the last day has told of a fault.
WARN_AGAIN_SECONDS = 3600.0
# Smaller moves of a threshold are not logged.
LEAST_MOVE = 1e-4
# A warning is raised when the expected false alarms have grown by this factor.
WARN_GROWTH = 2.0
# Upper bound on the share of time spent on fits of a gallery that changes constantly.
FITTING_SHARE = 0.1


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
    await _fit_if_changed(runtime, gallery, watch)
    await _warn(runtime, watch.gallery_id)


async def _fit_if_changed(runtime: Runtime, gallery: Gallery, watch: ArmedList) -> None:
    silent = summarize_silent(runtime.galleries, watch.settings.silent)
    fault = find_fault_of_hours(watch.settings)
    state = _summarize_state(watch, gallery), silent, fault
    held = runtime.watch.lists.held
    former = held.get(watch.gallery_id)
    is_paused = watch.paused_at is not None
    if former and former.is_paused != is_paused:
        former = held[watch.gallery_id] = replace(former, is_paused=is_paused)
    began = time.monotonic()
    if former and began < former.due:
        return
    is_same = former and former.state == state and began < former.again
    if former and is_same and not await _has_grown(runtime, former, watch):
        return
    fitted = await _fit_or_keep(runtime, gallery, watch, former)
    if fault and fitted.active:
        fitted = fitted.with_fault(fault)
    if held.get(watch.gallery_id) is not former:
        # It was disarmed, or armed again, during the fit.
        return
    now = time.monotonic()
    due = now + (now - began) / FITTING_SHARE
    held[watch.gallery_id] = replace(fitted, state=state, due=due, is_paused=is_paused)
    if former and former.active and fitted.active:
        before = former.active.thresholds
        await _log_moves(runtime.audit, gallery.name, before, fitted.active.thresholds)


async def _fit_or_keep(
    runtime: Runtime, gallery: Gallery, watch: ArmedList, former: HeldList | None
) -> HeldList:
    """Fit a list, or go on comparing with it as before if it cannot be fitted now."""
    try:
        active = await fit_list(runtime, gallery, watch.settings, watch)
    except Exception as error:
        why = _log_and_describe(gallery, error)
    else:
        return _hold(active, _describe_growth(watch, active))
    before = former.active if former else None
    try:
        kept = await keep_thresholds(runtime, gallery, watch, before)
    except (InvalidField, NeedsReindex) as error:
        # There is nobody to compare with, or no model by which crops could be compared with them.
        why = describe_error(error)
    except Exception as error:
        why = _log_and_describe(gallery, error)
        if before is not None:
            return _hold(before).with_fault(f"its people and thresholds are those of before: {why}")
    else:
        return _hold(kept).with_fault(f"its thresholds are those of before: {why}")
    nothing = HeldList(None, None).with_fault(f"nothing is compared with it: {why}")
    return replace(nothing, why=why)


def _log_and_describe(gallery: Gallery, error: Exception) -> str:
    if not isinstance(error, InputProblem):
        log_failure(f"fitting list {gallery.name}", error)
    return describe_error(error)


def _describe_growth(watch: ArmedList, active: ActiveList) -> str | None:
    promised = watch.promised.false_alarms
    expected = active.forecast.false_alarms
    if promised is None or expected is None or expected <= WARN_GROWTH * promised:
        return None
    return (
        f"{MORE_ALARMS}: {expected:.1f} false alarms a day are expected now, {promised:.1f} were "
        "at first"
    )


def _hold(active: ActiveList, broken: str | None = None) -> HeldList:
    """Hold a list, to be fitted again; `broken` says how it breaks its promise."""
    warnings = [*active.faults]
    if active.silent and active.silent.why:
        warnings.append(f"nobody is kept silent: {active.silent.why}")
    if broken:
        warnings.append(broken)
    return HeldList(None, active, "; ".join(active.faults) or None, warnings=tuple(warnings))


async def _warn(runtime: Runtime, gallery_id: int) -> None:
    """Write the alerts of a list that is not as it was armed, each once a day."""
    held = runtime.watch.lists.held
    current = held.get(gallery_id)
    if current is None or time.monotonic() < current.warn_at:
        return
    for warning in current.warnings:
        await write_alert(runtime, runtime.watch.watches.warn, gallery_id, warning)
    if held.get(gallery_id) is current:
        warn_at = time.monotonic() + WARN_AGAIN_SECONDS
        held[gallery_id] = replace(current, warn_at=warn_at)


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
    before = former.active.thresholds.traffic
    if measure_growth(traffic) != measure_growth(before):
        return True
    # Many cameras with little traffic each may have shown enough together.
    if growth_of(_count_tracks(traffic)) != growth_of(_count_tracks(before)):
        return True
    if runtime.watch.lists.held.get(watch.gallery_id) is former:
        runtime.watch.lists.held[watch.gallery_id] = replace(former, tracks=watch.tracks)
    return False


def _count_tracks(traffic: Mapping[Sender, CameraTraffic]) -> int:
    return sum(counted.tracks for counted in traffic.values())


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
