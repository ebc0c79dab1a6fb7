"""Sightings: crops from cameras that are compared with the armed lists and not stored."""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from gmn_client.models import Sighted, SightedImage, SightedMatch
from model.arrays import Array
from model.crops.decode import CropProblem
from model.crops.frames import ImageFile
from service.engine.admission import PER_COMPARISON
from service.engine.device import Embedded
from service.engine.networks import LoadedModel
from service.errors import ServiceError, refused_image
from service.gallery.clocks import in_future, is_in_future, warning_of_fast_clock
from service.gallery.enroll import EmbeddedImages, ImageToEnroll
from service.gallery.registry import GalleryRegistry
from service.ops.critical_sections import attempt
from service.ops.data_directory import require_free_disk
from service.record.keys import ApiKey
from service.record.transaction import batches
from service.record.values import Picture, Sender
from service.runtime import Runtime
from service.watch.active import ActiveList
from service.watch.camera_contacts import CameraContacts
from service.watch.lists import write_alert
from service.watch.parts import Watch
from service.watch.scores import Scores
from service.watch.silent import Likeness
from service.watch.tables.alerts import NotedVisit, SightedPerson
from service.watch.tables.passages import BestLook
from service.watch.tables.traffic import EndedTracks, ListTraffic, TrackPart
from service.watch.threshold import Traffic, bins_of
from service.watch.tracks import (
    MOST_LOOKS,
    QUIET_SECONDS,
    EndedTrack,
    Match,
    OpenTracks,
    OwnAlert,
    Track,
    TrafficKey,
)

# Below this probability an alert would more likely be wrong than right.
LEAST_PROBABILITY = 0.5
# Probabilities are the same at every operating point.
OPERATING_POINT = "far_1e-2"
# Older times of capture are refused.
OLDEST = timedelta(days=7)
# Older sightings are noted, but nobody is told.
LATE = timedelta(minutes=10)
# The crop and its track are as likely to show one person as two.
EVEN_ODDS = 0.5
# Later crops of a visit are written together, unless its matches are returned.
NOTED_EVERY_SECONDS = 1.0
LOOK_EVERY_SECONDS = 1.0
TRAFFIC_EVERY_SECONDS = 30.0
LISTS_AT_ONCE = 16


@dataclass(eq=False)
class _Sighting:
    """A crop of a request.

    Attributes:
        position: position among the images of the request.
        image: None if its vector was sent instead.
        captured: time of capture, at most that of its arrival.
        ahead_seconds: by how much the time that was sent is ahead of this clock; None without any.
        still: whether its person stays at the same place.
        zone: the zone of the camera's picture in which the person stands.
        problem: reason for its refusal.
        vectors: vectors `(d,)` by embedder.
        height: in pixels; None until it is embedded, and if its vector was sent.
        faults: codes of the limits of quality that it exceeds.
    """

    position: int
    image: ImageFile | None
    track: Track
    captured: datetime
    ahead_seconds: float | None
    still: bool
    zone: str | None
    problem: CropProblem | None
    warnings: list[str]
    vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    height: int | None = None
    faults: tuple[str, ...] = ()


_Scored = tuple[ActiveList, list[_Sighting], Scores, Array]


async def sight(
    runtime: Runtime,
    caller: ApiKey,
    images: Sequence[ImageToEnroll],
    arrived: float,
    *,
    wait: bool = False,
    enrolled: EmbeddedImages | None = None,
) -> Sighted:
    """Compare crops with the armed lists of a key, and raise alerts for matches.

    A crop that is sent again continues the same visit.

    Args:
        arrived: arrival time of the request, by `time.perf_counter`.
        wait: return the matches; if not set, later crops of a visit are written once a second.
        enrolled: the embedded images, if they were enrolled; the list of their own gallery is
            left out.

    Raises:
        RecordUnavailable, StorageFailed: an alert could not be written now.
        UnusableImages, QueueFull: nothing was compared.
    """
    require_free_disk(runtime.settings)
    await runtime.watch.lists.ready()
    lists = runtime.watch.lists.seen_by(caller)
    if enrolled:
        lists = [active for active in lists if active.gallery is not enrolled.gallery]
    now = datetime.now(UTC)
    sightings = [
        _add_to_track(runtime.watch.tracks, caller, position, image, now)
        for position, image in enumerate(images)
    ]
    chosen = [sighting for sighting in sightings if sighting.problem is None]
    embedded = {enrolled.embedder: enrolled.embedded} if enrolled else {}
    # Embed every crop: the time of an answer must not tell a camera's key whether there are lists.
    embedders = {active.embedder for active in lists} or set(embedded) or {runtime.model.embedder}
    crops = sum(active.crops for active in lists)
    to_compare = sum(sighting.track.looks < MOST_LOOKS for sighting in chosen)
    cost = PER_COMPARISON * to_compare * crops
    files = [sighting.image for sighting in chosen if sighting.image is not None]
    for embedder in embedders - embedded.keys():
        cost += runtime.models[embedder].pipeline.cost(files)
    async with runtime.admission.admit(cost):
        for embedder in embedders:
            await _embed(runtime, embedder, chosen, embedded.get(embedder))
        accepted = [sighting for sighting in chosen if sighting.problem is None]
        for sighting in accepted:
            _follow_person(runtime.models, runtime.watch.tracks, sighting)
        compared = [sighting for sighting in accepted if sighting.track.take_look()]
        tracks = dict.fromkeys(sighting.track for sighting in accepted)
        matches = await _compare(runtime, lists, compared, tracks, arrived, wait)
    _count_cameras(runtime.watch.contacts, sightings)
    usable = sum(sighting.problem is None for sighting in sightings)
    runtime.metrics.sightings.inc(usable)
    if not caller.may("query"):
        matches = {}
    results = [
        refused_image(sighting.problem)
        if sighting.problem
        else SightedImage(
            matches=matches.get(sighting.track, []) if wait else None, warnings=sighting.warnings
        )
        for sighting in sightings
    ]
    return Sighted(accepted=usable, results=results)


def _count_cameras(cameras: CameraContacts, sightings: Sequence[_Sighting]) -> None:
    for sighting in sightings:
        track = sighting.track
        is_usable = sighting.problem is None
        cameras.count(
            track.caller,
            track.camera,
            is_usable=is_usable,
            ahead_seconds=sighting.ahead_seconds,
            begins_track=is_usable and not track.is_counted,
        )
        track.is_counted |= is_usable


def _add_to_track(
    tracks: OpenTracks, caller: ApiKey, position: int, image: ImageToEnroll, now: datetime
) -> _Sighting:
    given = image.captured_at
    problem = None if given is None else _check_time(given, now)
    warnings = [] if given is None or problem else _warn_of_clock(given, now)
    ahead = None if given is None else (given - now).total_seconds()
    # A crop was captured before it arrived, whatever the clock of its camera says.
    captured = now if given is None else min(given, now)
    seconds = captured.timestamp()
    if problem is None:
        track = tracks.take(caller.key_id, image.camera, image.track, seconds, image.still)
    else:
        track = Track(caller.key_id, image.camera, image.track, seconds)
    return _Sighting(
        position=position,
        image=image.image,
        track=track,
        captured=captured,
        ahead_seconds=ahead,
        still=image.still,
        zone=image.zone,
        problem=problem,
        warnings=warnings,
    )


def _check_time(captured: datetime, now: datetime) -> CropProblem | None:
    if is_in_future(captured, now):
        return in_future(captured)
    if captured < now - OLDEST:
        return CropProblem(
            "captured_long_ago",
            f"captured_at: {captured.isoformat()} is more than {OLDEST.days} days ago; enroll old "
            "crops into a gallery, and search them there",
        )
    return None


def _warn_of_clock(captured: datetime, now: datetime) -> list[str]:
    """Return a warning of a time of capture that tells of a wrong clock, in a list, or none."""
    if warning := warning_of_fast_clock(captured, now):
        return [warning]
    age = now - captured
    if age > LATE:
        return [
            f"captured_at: {captured.isoformat()} is {age // timedelta(minutes=1)} min old, so "
            "that alerts are late and nobody is told of them; if the crop was sent at once, set "
            "the camera's clock and that of this machine right"
        ]
    return []


async def _embed(
    runtime: Runtime,
    embedder: str,
    sightings: Sequence[_Sighting],
    embedded: Sequence[Embedded] | None,
) -> None:
    """Set the vectors of crops by one embedder, or the problems of refused crops.

    Args:
        embedded: the images of the request, if they were embedded already.
    """
    if embedded is not None:
        embedded = [embedded[sighting.position] for sighting in sightings]
    else:
        # A vector that was sent can only be compared with vectors of its own embedder.
        sightings = [sighting for sighting in sightings if sighting.image is not None]
        files = [sighting.image for sighting in sightings if sighting.image is not None]
        pipeline = runtime.models[embedder].pipeline
        await pipeline.open_frame(files)
        embedded = await pipeline.embed(files, runtime.settings.quality)
    for sighting, outcome in zip(sightings, embedded, strict=True):
        if isinstance(outcome, CropProblem):
            sighting.problem = outcome
        else:
            sighting.vectors[embedder] = outcome.vector
            sighting.height = outcome.height
            sighting.faults = tuple(fault.code for fault in outcome.faults)


def _follow_person(
    models: Mapping[str, LoadedModel], tracks: OpenTracks, sighting: _Sighting
) -> None:
    """Move a crop to another track if the tracker's label has gone over to another person."""

    def shows(track: Track) -> bool:
        return all(
            _shows_one_person(models[embedder], track.similarity(embedder, vector))
            for embedder, vector in sighting.vectors.items()
        )

    track = sighting.track
    seconds = sighting.captured.timestamp()
    if not shows(track):
        track = tracks.move(track, seconds, sighting.still, shows)
        sighting.track = track
    track.add_crop(seconds)
    for embedder, vector in sighting.vectors.items():
        track.add_vector(embedder, vector)


def _shows_one_person(model: LoadedModel, cosine: float | None) -> bool:
    if cosine is None:
        return True
    pairs = model.cosine_calibration
    return bool(pairs.probability(np.array([cosine]))[0] >= EVEN_ODDS)


async def _compare(
    runtime: Runtime,
    lists: Sequence[ActiveList],
    sightings: Sequence[_Sighting],
    tracks: Collection[Track],
    arrived: float,
    wait: bool,
) -> dict[Track, list[SightedMatch]]:
    # Other callers take turns between two parts.
    for part in batches(lists, LISTS_AT_ONCE):
        scored, failed = await runtime.watch.tracks.threads.run(_score, part, sightings)
        for active, watched, scores, limits in scored:
            try:
                _note_scores(runtime, active, watched, scores, limits)
            except Exception as error:
                failed.append((active, error))
        for active, failure in failed:
            runtime.watch.lists.note_failure(active.gallery, failure)
    matches: dict[Track, list[SightedMatch]] = {}
    for track in tracks:
        matches[track] = []
        for match in list(track.matches.values()):
            if not wait and time.monotonic() - match.noted_at < NOTED_EVERY_SECONDS:
                continue
            try:
                noted = await _note(runtime, track, match)
            except ServiceError:
                # The crop is sent again.
                raise
            except Exception as error:
                # The end of the track writes the alert.
                runtime.watch.lists.note_failure(match.gallery, error)
                continue
            if noted is None or noted.alert.identity is None:
                continue
            if noted.is_new:
                runtime.metrics.alert_seconds.observe(time.perf_counter() - arrived)
            result = SightedMatch(
                gallery=match.gallery.name,
                identity=noted.alert.identity,
                probability=match.probability,
                alert_id=noted.alert.alert_id,
            )
            matches[track].append(result)
    return matches


def _score(
    lists: Sequence[ActiveList], sightings: Sequence[_Sighting]
) -> tuple[list[_Scored], list[tuple[ActiveList, Exception]]]:
    """Score sightings against each list; return the scores, and the lists that failed."""
    scored = []
    failed = []
    for active in lists:
        try:
            if scores := _score_list(active, sightings):
                scored.append(scores)
        except Exception as error:
            failed.append((active, error))
    return scored, failed


def _score_list(active: ActiveList, sightings: Sequence[_Sighting]) -> _Scored | None:
    """Score sightings against a list, with the cosines that its silent people demand."""
    watched = [
        sighting
        for sighting in sightings
        if active.embedder in sighting.vectors
        and active.takes(sighting.track.camera, sighting.captured)
    ]
    if not watched:
        return None
    vectors = np.stack([sighting.vectors[active.embedder] for sighting in watched])
    limits = np.full(len(watched), -np.inf)
    if active.silent:
        limits = active.silent.limits(vectors)
    return active, watched, active.watch_list.score(vectors), limits


def _note_scores(
    runtime: Runtime,
    active: ActiveList,
    sightings: Sequence[_Sighting],
    scores: Scores,
    limits: Array,
) -> None:
    gallery = active.gallery
    gallery_id = gallery.gallery_id
    key = gallery_id, active.score_kind
    for sighting, score, cosine, row, limit in zip(sightings, *scores, limits, strict=True):
        track = sighting.track
        is_of_silent = _is_of_silent(track, key, float(cosine), float(limit))
        is_best = score > track.best.get(key, -math.inf)
        # A track that is kept silent may also ring at a look that is not its best one.
        if not is_best and gallery_id not in track.kept_silent:
            continue
        threshold = active.thresholds.at(Sender(track.caller, track.camera)).value
        if is_best:
            track.best[key] = float(score)
            if active.settings.explain_passages:
                track.best_looks[gallery_id] = _best_look(sighting, float(score), threshold)
        if score <= threshold:
            continue
        current = runtime.calibrations.current(gallery, "cosine").of_plain_vectors
        judge = current.judge(OPERATING_POINT, active.watch_list.size, float(cosine - score))
        least_cosine = cosine - score + threshold
        probability, needed = judge.probability(np.array([cosine, least_cosine])).tolist()
        if probability < LEAST_PROBABILITY:
            if is_best and gallery_id in track.best_looks:
                best = track.best_looks[gallery_id]
                track.best_looks[gallery_id] = replace(best, probability=probability)
            continue
        former = track.matches.get(gallery_id)
        if is_of_silent:
            # An alert that was raised by an earlier look stays as it is.
            if former is None:
                track.kept_silent.add(gallery_id)
            continue
        track.kept_silent.discard(gallery_id)
        runtime.metrics.sightings_matched.inc()
        track.matches[gallery_id] = Match(
            gallery=gallery,
            slot=int(active.slots[row]),
            score=float(score),
            threshold=threshold,
            score_kind=active.score_kind,
            probability=probability,
            needed=max(needed, LEAST_PROBABILITY),
            calibration_version=str(judge.state.version),
            image=sighting.image,
            captured=sighting.captured,
            zone=sighting.zone,
            noted=former.noted if former else 0,
        )


def _best_look(sighting: _Sighting, score: float, threshold: float) -> BestLook:
    return BestLook(
        captured_at=sighting.captured,
        score=score,
        threshold=threshold,
        probability=None,
        height=sighting.height,
        faults=sighting.faults,
        zone=sighting.zone,
    )


def _is_of_silent(track: Track, key: TrafficKey, cosine: float, limit: float) -> bool:
    """Add a look to a track, and return True if silent people explain its looks better.

    Args:
        key: that of the list.
        cosine: best cosine of the look with the list.
        limit: cosine that its silent people demand; −∞ if nobody is kept silent.
    """
    if limit == -math.inf:
        return False
    likeness = track.likeness.setdefault(key, Likeness())
    likeness.add_look(cosine, limit)
    return likeness.is_of_silent


async def _note(runtime: Runtime, track: Track, match: Match) -> NotedVisit | None:
    """Write the crops of a visit that the record does not have yet.

    Returns:
        None if the list was disarmed or no longer has the person.
    """
    if match.image is not None and runtime.settings.keep_images != "none":
        content = await runtime.model.pipeline.thumbnail(match.image)
        match.picture = Picture(content, "image/jpeg")
    gallery_id = match.gallery.gallery_id
    own = track.alerts.get(gallery_id)
    sighted = SightedPerson(
        kind="late" if time.time() - track.last_seen > LATE.total_seconds() else "visit",
        slot=match.slot,
        first_seen=_moment(track.first_seen),
        last_seen=_moment(track.last_seen),
        crops=track.crops - match.noted,
        camera=track.camera,
        zone=match.zone,
        key_id=track.caller,
        track=track.name,
        captured_at=match.captured,
        score=match.score,
        score_kind=match.score_kind,
        threshold=match.threshold,
        probability=match.probability,
        needed=match.needed,
        cohesion=track.cohesion(match.gallery.embedder),
        calibration_version=match.calibration_version,
        picture=match.picture,
        own_alert=own.alert_id if own else None,
        own_score=own.score if own else None,
    )
    match.noted = track.crops
    try:
        noted = await write_alert(runtime, runtime.watch.alerts.note_visit, gallery_id, sighted)
    except BaseException:
        # If the client has left, the end of the track writes the alert.
        match.noted -= sighted.crops
        raise
    match.image = None
    match.noted_at = time.monotonic()
    if noted and noted.alert.state == "open":
        # A rejection of an alert that shows another track is not about this one.
        shows_it = (noted.alert.track, noted.alert.score) == (track.name, match.score)
        own = OwnAlert(noted.alert.alert_id, match.score)
        track.alerts[gallery_id] = own if shows_it else None
    # A better match may have taken its place during the write.
    if noted is None and track.matches.get(gallery_id) is match:
        del track.matches[gallery_id]
    return noted


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


async def keep_tracks(runtime: Runtime) -> None:
    """End quiet tracks and store the traffic until cancelled; then end and store the rest."""
    stored = time.monotonic()
    try:
        while True:
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            now = time.monotonic()
            await _end_tracks(runtime, now - QUIET_SECONDS)
            if now - stored >= TRAFFIC_EVERY_SECONDS:
                stored = now
                await _store_ended(runtime.watch, runtime.galleries)
    finally:
        await _end_tracks(runtime, math.inf)
        await _store_ended(runtime.watch, runtime.galleries)


async def _end_tracks(runtime: Runtime, arrived_before: float) -> None:
    for track in runtime.watch.tracks.end(arrived_before):
        for match in list(track.matches.values()):
            if match.noted < track.crops:
                await attempt("noting the last crops of a visit", _note(runtime, track, match))


async def _store_ended(watch: Watch, galleries: GalleryRegistry) -> None:
    await _store_traffic(watch.tracks, watch.traffic, galleries)
    while watch.tracks.passages:
        store = galleries.write(watch.passages.add, *watch.tracks.passages.popitem())
        await attempt("storing the passages of a list", store)


async def _store_traffic(
    open_tracks: OpenTracks, list_traffic: ListTraffic, galleries: GalleryRegistry
) -> None:
    traffic = open_tracks.traffic
    while traffic:
        key, tracks = traffic.popitem()
        by_sender: defaultdict[Sender, list[EndedTrack]] = defaultdict(list)
        for track in tracks:
            by_sender[track.sender].append(track)
        ended = {sender: _summarize(of_sender) for sender, of_sender in by_sender.items()}
        # Traffic that cannot be stored is dropped: it would fill the memory while the disk is full.
        store = galleries.write(list_traffic.add, *key, ended)
        await attempt("storing the traffic of a list", store)


def _summarize(tracks: Sequence[EndedTrack]) -> EndedTracks:
    scores = np.array([track.score for track in tracks])
    # Another process may have seen a part of a track that has a name.
    has_name = np.array([track.name is not None for track in tracks])
    parts = [
        TrackPart(
            track.name,
            _moment(track.began),
            _moment(track.until),
            score_bin,
            track.kept_silent,
        )
        for track, score_bin in zip(tracks, bins_of(scores).tolist(), strict=True)
        if track.name is not None
    ]
    kept_silent = sum(track.kept_silent for track in tracks if track.name is None)
    return EndedTracks(Traffic.of(scores[~has_name]).counts, parts, kept_silent)
