"""The thresholds of a watch list at each camera."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from gmn_client.models import CameraThreshold
from model.wording import counted
from service.record.values import Sender
from service.watch.tables.camera_reviews import CameraReviews
from service.watch.tables.traffic import CameraTraffic
from service.watch.threshold import (
    FEWEST_TRACKS,
    Reviews,
    ThresholdFit,
    Traffic,
    WatchThreshold,
)

# A threshold is fitted again when the traffic has grown by this factor.
GROWTH = 1.5
NO_REVIEWS = CameraReviews()


@dataclass(frozen=True)
class CameraThresholds:
    """The thresholds of a list at the cameras of API keys.

    Attributes:
        elsewhere: threshold at a camera that enrolled nobody, until it has shown enough tracks.
        own: thresholds at cameras that enrolled people, by name, for keys that sent nothing yet.
        by_sender: thresholds at cameras of keys that have sent tracks.
        traffic, reviews: what those rest on.
    """

    elsewhere: WatchThreshold
    own: Mapping[str, WatchThreshold] = field(default_factory=dict)
    by_sender: Mapping[Sender, WatchThreshold] = field(default_factory=dict)
    traffic: Mapping[Sender, CameraTraffic] = field(default_factory=dict)
    reviews: Mapping[Sender, CameraReviews] = field(default_factory=dict)

    def at(self, sender: Sender) -> WatchThreshold:
        known = self.by_sender.get(sender)
        if known is None and sender.camera is not None:
            known = self.own.get(sender.camera)
        return known or self.elsewhere

    def has_same_evidence(self, other: CameraThresholds, sender: Sender) -> bool:
        """Return True if a camera's traffic has not grown since, and no review was changed."""
        return self._evidence(sender) == other._evidence(sender)

    def _evidence(self, sender: Sender) -> tuple[object, ...]:
        reviews = self.reviews.get(sender, NO_REVIEWS)
        counted = self.traffic.get(sender)
        growth = growth_of(counted.tracks if counted else 0)
        return growth, reviews.are_ignored, reviews.confirmed, reviews.rejected

    def describe(self) -> list[CameraThreshold]:
        """Return the thresholds at the cameras that the list has heard of, by name."""
        senders = sorted(self.by_sender, key=lambda sender: (sender.camera or "", sender.key_id))
        return [self.describe_at(sender) for sender in senders]

    def describe_at(self, sender: Sender) -> CameraThreshold:
        threshold = self.at(sender)
        reviews = self.reviews.get(sender, NO_REVIEWS)
        counted = self.traffic.get(sender)
        return CameraThreshold(
            key_id=sender.key_id,
            camera=sender.camera,
            threshold=threshold.value,
            own_camera=threshold.own_camera,
            basis=threshold.basis,
            tracks=counted.tracks if counted else 0,
            confirmed=len(reviews.confirmed),
            rejected=len(reviews.rejected),
            reviews_ignored=reviews.are_ignored,
            rests_on=_describe_basis(threshold),
        )


def fit_cameras(
    fit: ThresholdFit,
    elsewhere: WatchThreshold,
    cameras: Mapping[str, int],
    traffic: Mapping[Sender, CameraTraffic],
    reviews: Mapping[Sender, CameraReviews],
) -> CameraThresholds:
    """Fit the threshold of a list at each camera.

    Args:
        elsewhere: threshold at a camera that enrolled nobody, until it has shown enough tracks.
        cameras: codes of the cameras that enrolled people, by name.
        traffic, reviews: those of each camera.
    """
    by_sender = {}
    for sender in traffic.keys() | reviews.keys():
        code = None if sender.camera is None else cameras.get(sender.camera)
        counted = traffic.get(sender)
        if code is None and (counted is None or counted.tracks < FEWEST_TRACKS):
            by_sender[sender] = elsewhere
            continue
        reviewed = reviews.get(sender, NO_REVIEWS)
        by_sender[sender] = fit.at(
            code,
            Traffic(counted.counts) if counted else None,
            None if reviewed.are_ignored else _as_arrays(reviewed),
        )
    own = {name: fit.at(code) for name, code in cameras.items()}
    return CameraThresholds(elsewhere, own, by_sender, traffic, reviews)


def measure_growth(traffic: Mapping[Sender, CameraTraffic]) -> dict[Sender, int]:
    """Return values that change when a camera's traffic has grown enough for another fit."""
    return {sender: growth_of(counted.tracks) for sender, counted in traffic.items()}


def growth_of(tracks: int) -> int:
    # Less traffic than `FEWEST_TRACKS` is not used.
    used = max(tracks, FEWEST_TRACKS - 1)
    return math.floor(math.log(used / FEWEST_TRACKS, GROWTH))


def _as_arrays(reviews: CameraReviews) -> Reviews:
    return Reviews(np.array(reviews.rejected), np.array(reviews.confirmed))


def _describe_basis(threshold: WatchThreshold) -> str:
    parts = ["the list"]
    if threshold.basis in ("reference", "traffic"):
        parts.append("the model's made-up strangers")
    if threshold.basis == "artefact":
        parts.append("the model's own thresholds")
    if threshold.own_camera:
        parts.append("its crops of this camera")
    if threshold.traffic_tracks:
        parts.append(counted(threshold.traffic_tracks, "track"))
    if threshold.reviews:
        parts.append(f"{counted(threshold.reviews, 'review')} of alerts there")
    if len(parts) == 1:
        return "It rests on the list alone."
    return f"It rests on {', '.join(parts[:-1])} and {parts[-1]}."
