"""Visits made of the tracklets of one person."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from gmn_client.models import Visit
from model.arrays import Floats
from service.links import crop_image
from service.ops.threads import heartbeat
from service.search.calibration import CurrentCalibration
from service.visits.reading import SeenCrops
from service.visits.tracklets import Tracklet, find_tracklets

# Tracklets of a person at one camera are one visit if no more than this lies between them.
VISIT_GAP_SECONDS = 5 * 60.0


def link_visits(
    gallery: str, crops: SeenCrops, current: CurrentCalibration, group_id: str | None
) -> list[Visit]:
    """Make the visits of one person in the order of time, each compared with the one before."""
    calibration = current.model.cosine_calibration
    tracklets = find_tracklets(crops, current.joins_at, heartbeat)
    visits: list[Visit] = []
    mean_before: Floats | None = None
    for numbers in split_into_visits(tracklets, range(len(tracklets))):
        heartbeat()
        own = [tracklets[number] for number in numbers]
        positions = np.concatenate([tracklet.positions for tracklet in own])
        mean = crops.units[positions].mean(axis=0)
        typical = positions[np.argmax(crops.units[positions] @ mean)]
        visit = describe_visit(gallery, crops, own, crops.labels[typical].crop_id)
        fields: dict[str, Any] = {"group_id": group_id}
        if mean_before is not None:
            fields["gap_seconds"] = _measure_gap(visits[-1], visit)
            fields["link_probability"] = float(calibration.probability(mean_before @ mean))
        mean_before = mean
        visits.append(visit.model_copy(update=fields))
    return visits


def _measure_gap(before: Visit, visit: Visit) -> float | None:
    if before.last_seen is None or visit.first_seen is None:
        return None
    return max(0.0, (visit.first_seen - before.last_seen).total_seconds())


def split_into_visits(tracklets: Sequence[Tracklet], numbers: Iterable[int]) -> list[list[int]]:
    """Divide tracklets of one person into visits, in the order of time, with unknown times last.

    Tracklets without a camera or a time may be of any, and are visits of their own.
    """
    visits: list[list[int]] = []
    # The visit that each camera saw last, and its end.
    latest: dict[str, tuple[list[int], float]] = {}
    for number in sorted(numbers, key=lambda number: _unknown_last(tracklets[number].first)):
        tracklet = tracklets[number]
        if tracklet.camera is None or math.isnan(tracklet.first):
            visits.append([number])
            continue
        visit, end = latest.get(tracklet.camera, ([], -math.inf))
        if tracklet.first - end > VISIT_GAP_SECONDS:
            visit = []
            visits.append(visit)
        visit.append(number)
        latest[tracklet.camera] = visit, max(end, tracklet.last)
    return visits


def _unknown_last(time: float) -> float:
    return math.inf if math.isnan(time) else time


def describe_visit(
    gallery: str, crops: SeenCrops, visit: Sequence[Tracklet], best_crop_id: str
) -> Visit:
    """Describe a visit; the first of its crops is the given one, and the others follow in time."""
    labels = [crops.labels[position] for tracklet in visit for position in tracklet.positions]
    others = [crop.crop_id for crop in labels if crop.crop_id != best_crop_id]
    first = min(_unknown_last(tracklet.first) for tracklet in visit)
    last = max(_unknown_last(tracklet.last) for tracklet in visit)
    return Visit(
        gallery=gallery,
        camera=visit[0].camera,
        identity=next((tracklet.identity for tracklet in visit if tracklet.identity), None),
        group_id=None,
        first_seen=_as_moment(first),
        last_seen=_as_moment(last),
        tracks=list(dict.fromkeys(tracklet.track for tracklet in visit if tracklet.track)),
        crops=len(labels),
        crop_ids=[best_crop_id, *others],
        image_url=crop_image(gallery, best_crop_id),
    )


def _as_moment(time: float) -> datetime | None:
    return datetime.fromtimestamp(time, UTC) if math.isfinite(time) else None
