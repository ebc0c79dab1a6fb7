"""Forecasts of a watch list: its false alarms in a day, and the listed people that it finds."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from gmn_client.models import Forecast, ForecastFigures
from model.arrays import Array, sigmoid
from model.order_statistics import FEW_IDENTITIES
from model.wording import counted
from service.watch.scores import Vectors, WatchList
from service.watch.silent import SilentGallery
from service.watch.threshold import Traffic, WatchThreshold

# Mean number of tracks of one person.
TRACKS_PER_PERSON = 4.0
# Probability that a further track of a person who raised an alarm raises another one.
ALARMED_AGAIN = 0.4
# Medians of the obtained rate over the promised one, which is log-normal.
MEDIAN_BEFORE_TRAFFIC = 1.5
MEDIAN_OF_TRAFFIC = 1.0
# Number of tracks that inform as much as one person of the list.
TRACKS_OF_A_PERSON = 3.0
# Rate per track below which the threshold is extrapolated, and its error grows.
FURTHEST = 1e-2
# Number of simulated days.
DRAWS = 20_000
INTERVAL = (0.05, 0.95)
NORMAL_95 = 1.645
# A track is found more often than a single crop; difference in logits and its deviation.
TRACK_GAIN = 1.1
TRACK_SPREAD = 0.9
# Measured shares are kept this far from 0 and 1, whose logits are infinite.
LEAST_SHARE = 0.01
# A higher upper bound on the share that is found says nothing.
HIGHEST_BOUND = 0.99
# Number of the reference's vectors that score highest with a list: strangers who would ring.
RINGING_VECTORS = 100


class Alarms(NamedTuple):
    """The median of the false alarms in a day and its 90% interval; None if not known."""

    false_alarms: float | None = None
    low: int | None = None
    high: int | None = None


class Found(NamedTuple):
    """The share of listed people's tracks that raise an alarm with the right name.

    Attributes:
        found: 0 to 1; None if not known.
        found_low, found_high: 90% interval; with the basis "one_camera" only `found_high` is known.
    """

    found_basis: Literal["several_cameras", "one_camera", "not_known"]
    found: float | None = None
    found_low: float | None = None
    found_high: float | None = None


def rate_within(
    accepted: float, watch_list: WatchList, reference: Vectors | None, traffic: Traffic
) -> float:
    """Return the rate to fit a threshold for, so that the accepted one is forecast.

    Args:
        accepted: accepted false alarms per track.
        reference: vectors `(n, d)` that stand for strangers.
    """
    if reference is None and watch_list.size < FEW_IDENTITIES:
        # Such a list has no forecast.
        return accepted
    return accepted / _median_factor(reference is not None and traffic.is_enough)


def _median_factor(has_traffic: bool) -> float:
    return MEDIAN_OF_TRAFFIC if has_traffic else MEDIAN_BEFORE_TRAFFIC


def forecast_alarms(
    threshold: WatchThreshold,
    tracks_per_day: float,
    tracks_per_person: float = TRACKS_PER_PERSON,
    kept_silent: float = 0.0,
) -> Alarms:
    """Forecast how often strangers' tracks exceed a threshold.

    Args:
        tracks_per_day: number of tracks in the time that is forecast.
        tracks_per_person: mean number of tracks of one stranger, whose alarms come together.
        kept_silent: share of these alarms that silent people explain better, 0 to 1.
    """
    if threshold.basis == "artefact":
        return Alarms()
    generator = np.random.default_rng(0)
    rates = np.exp(_estimate_rate_spread(threshold) * generator.standard_normal(DRAWS))
    median_factor = _median_factor(threshold.traffic_tracks > 0)
    expected = median_factor * threshold.rate * tracks_per_day * (1.0 - kept_silent)
    per_person = 1.0 + ALARMED_AGAIN * max(tracks_per_person - 1.0, 0.0)
    people = generator.poisson(expected * rates / per_person)
    alarms = people + generator.poisson(people * (per_person - 1.0))
    low, high = np.quantile(alarms, INTERVAL).tolist()
    return Alarms(expected, math.floor(low), math.ceil(high))


def _estimate_rate_spread(threshold: WatchThreshold) -> float:
    # The spread is the standard deviation, over lists, of ln(obtained rate / promised rate).
    people = threshold.people
    tracks = threshold.traffic_tracks
    extrapolated = 1.0 + 0.35 * max(0.0, math.log10(FURTHEST / threshold.rate))
    if not tracks:
        return extrapolated * math.sqrt(0.2 + 4.0 / (people + 10.0))
    fitted = extrapolated * math.sqrt(0.05 + 12.0 / (people + tracks / TRACKS_OF_A_PERSON))
    return math.hypot(fitted, 0.35)


def measure_kept_silent(
    watch_list: WatchList, silent: SilentGallery, reference: Vectors | None
) -> float:
    """Measure the share of strangers' alarms that silent people explain better than the list.

    Args:
        reference: vectors `(n, d)` that stand for strangers; without them the share counts as 0.
    """
    if reference is None:
        return 0.0
    scores, cosines, _ = watch_list.score(reference)
    ringing = np.argsort(-scores)[:RINGING_VECTORS]
    return float((cosines[ringing] < silent.limits(reference[ringing])).mean())


def forecast_found(
    watch_list: WatchList, threshold: WatchThreshold, silent: SilentGallery | None = None
) -> Found:
    """Forecast the share of listed people's tracks that are found, by the list's own crops.

    Each crop searches the others. Pairs of two cameras give an estimate; pairs of one camera
    resemble each other too much and give an upper bound.

    Args:
        silent: people who keep a crop silent that they explain better than its own person does.
    """
    left_out = watch_list.left_out
    has_other_camera = np.isfinite(left_out.elsewhere)
    if has_other_camera.any():
        share = _measure_share_above(watch_list, threshold, left_out.elsewhere, silent)
        share = min(max(share, LEAST_SHARE), 1.0 - LEAST_SHARE)
        middle = math.log(share / (1.0 - share)) + TRACK_GAIN
        spread = math.hypot(TRACK_SPREAD, math.sqrt(5.0 / has_other_camera.sum()))
        ends = middle + spread * np.array([-NORMAL_95, 0.0, NORMAL_95])
        low, share, high = sigmoid(ends).tolist()
        # The interval is shown in whole per cent.
        return Found(
            "several_cameras",
            found=share,
            found_low=math.floor(100 * low) / 100,
            found_high=math.ceil(100 * high) / 100,
        )
    has_other_crop = np.isfinite(left_out.same)
    if not has_other_crop.any():
        return Found("not_known")
    share = _measure_share_above(watch_list, threshold, left_out.same, silent)
    # Upper end of Wilson's interval.
    people = len(np.unique(left_out.people[has_other_crop]))
    weight = NORMAL_95**2 / people
    spread = NORMAL_95 * math.sqrt(share * (1.0 - share) / people + weight / people / 4.0)
    bound = (share + weight / 2.0 + spread) / (1.0 + weight)
    return Found("one_camera", found_high=math.ceil(round(100 * bound, 6)) / 100)


def _measure_share_above(
    watch_list: WatchList,
    threshold: WatchThreshold,
    same_person: Array,
    silent: SilentGallery | None,
) -> float:
    left_out = watch_list.left_out
    scores = watch_list.score_leaders(np.column_stack([same_person, left_out.others]))
    is_found = (scores > threshold.value) & (same_person > left_out.others[:, 0])
    if silent is not None:
        is_found &= same_person >= silent.limits(watch_list.units[left_out.positions])
    return float(is_found[np.isfinite(same_person)].mean())


def make_forecast(
    watch_list: WatchList,
    threshold: WatchThreshold,
    tracks_per_day: float,
    own_tracks: int = 0,
    silent: SilentGallery | None = None,
    reference: Vectors | None = None,
) -> Forecast:
    """Forecast the alarms and found people of a list, with its silent people and without them.

    Args:
        tracks_per_day: number of tracks that its cameras see in a day.
        own_tracks: number of the counted tracks that passed cameras of the list.
        reference: vectors `(n, d)` that stand for strangers.
    """
    alarms = forecast_alarms(threshold, tracks_per_day)
    found = forecast_found(watch_list, threshold)
    sentence = describe_forecast(threshold, alarms, found)
    without_silent = None
    if silent and silent.people:
        without_silent = ForecastFigures(
            **alarms._asdict(),
            found=found.found,
            found_low=found.found_low,
            found_high=found.found_high,
        )
        share = measure_kept_silent(watch_list, silent, reference)
        alarms = forecast_alarms(threshold, tracks_per_day, kept_silent=share)
        found = forecast_found(watch_list, threshold, silent)
        people = counted(silent.people.size, "silent person", "silent people")
        with_silent = describe_forecast(threshold, alarms, found)
        sentence = f"{with_silent} Without the {people}: {sentence}"
    return Forecast(
        threshold=threshold.value,
        people=threshold.people,
        tracks_per_day=tracks_per_day,
        traffic_tracks=threshold.traffic_tracks,
        own_tracks=min(own_tracks, threshold.traffic_tracks),
        promised=threshold.promised,
        basis=threshold.basis,
        sentence=sentence,
        rests_on=describe_basis(threshold, own_tracks),
        # A list that is armed is on trial at first.
        trial=True,
        without_silent=without_silent,
        **alarms._asdict(),
        **found._asdict(),
    )


def describe_forecast(threshold: WatchThreshold, alarms: Alarms, found: Found) -> str:
    expected = alarms.false_alarms
    if expected is None:
        alarmed = (
            "How many false alarms the list raises is not known: it has too few people, and the "
            "model has no made-up strangers."
        )
    elif not threshold.promised:
        least_rate = threshold.rate * _median_factor(threshold.traffic_tracks > 0)
        alarmed = (
            f"Fewer than 1 false alarm in {round(1.0 / least_rate):,} tracks cannot be "
            f"promised; at most {alarms.high:,} a day."
        )
    else:
        whole = math.floor(expected)
        number = f"{round(expected):,} false alarm{'' if round(expected) == 1 else 's'}"
        if expected < 0.5:
            number = "Fewer than 1 false alarm"
        elif whole < 10 and 0.3 <= expected - whole < 0.7:
            number = f"{whole} to {whole + 1} false alarms"
        alarmed = f"{number} a day [{alarms.low:,}, {alarms.high:,}]."
    tracks = "of the tracks of listed people are found"
    if found.found is not None:
        share = f"{found.found:.0%} [{found.found_low:.0%}, {found.found_high:.0%}]"
        return f"{alarmed} {share} {tracks}."
    if found.found_high is not None and found.found_high <= HIGHEST_BOUND:
        return f"{alarmed} At most {found.found_high:.0%} {tracks}, as one camera enrolled them."
    if found.found_high is not None:
        return (
            f"{alarmed} How many of their tracks are found is not known: enroll pictures from a "
            "second camera."
        )
    return f"{alarmed} How many listed people are found is not known, with one crop a person."


def describe_basis(threshold: WatchThreshold, own_tracks: int) -> str:
    """Say in a sentence which data a threshold rests on.

    Args:
        own_tracks: number of the counted tracks that passed cameras of the list.
    """
    if threshold.basis == "artefact":
        return "It rests on the model's own thresholds alone; no camera of the list is known."
    if threshold.basis == "list":
        return "It rests on the list alone; no camera of the list is known."
    known = "It rests on the list, the model's made-up strangers"
    tracks = threshold.traffic_tracks
    if not tracks:
        return f"{known}, and no tracks of the cameras it watches yet."
    others = max(0, tracks - own_tracks)
    seen = f"{known} and {tracks:,} counted tracks"
    if not others:
        return f"{seen} of the cameras it watches."
    watched = tracks - others
    return f"{seen}: {watched:,} of the cameras it watches, {others:,} of other or unknown ones."
