"""Sightings: crops of a camera that are compared with the armed lists, and not stored."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmn_client.models import RefusedImage, Sighted, SightedImage, SightedMatch
from model.crops.decode import CropProblem
from model.crops.frames import ImageFile
from service.engine.admission import PER_COMPARISON
from service.engine.batcher import Embedded
from service.errors import RecordUnavailable, StorageFailed, UnknownGallery, refused_image
from service.gallery.enroll import EmbeddedImages, ImageToEnroll
from service.ops.data_directory import require_free_disk
from service.record.keys import ApiKey
from service.record.transaction import batches
from service.record.values import Picture
from service.record.watch import NotedVisit, VisitSeen
from service.runtime import Runtime
from service.watch.active import ActiveList
from service.watch.lists import write_alert
from service.watch.threshold import Traffic
from service.watch.tracks import MOST_LOOKS, QUIET_SECONDS, Match, Track

log = logging.getLogger(__name__)
# An alert is at least as likely right as wrong.
LEAST_PROBABILITY = 0.5
# Any one: probabilities do not depend on it.
OPERATING_POINT = "far_1e-2"
# Nothing is dated further ahead, and nothing older is compared.
CLOCKS_DIFFER_BY = timedelta(minutes=1)
OLDEST = timedelta(days=7)
# Older sightings are news of the past.
LATE_SECONDS = 600.0
# Further crops of a visit are written together.
NOTED_EVERY_SECONDS = 1.0
# An alert that the record does not take once its sighting was accepted is tried for so long.
PATIENCE_SECONDS = 60.0
RETRY_SECONDS = 1.0
LOOK_EVERY_SECONDS = 1.0
TRAFFIC_EVERY_SECONDS = 30.0
LISTS_AT_ONCE = 16
CLOSING_SECONDS = 10.0


@dataclass(eq=False)
class _Look:
    """A crop that is compared.

    Attributes:
        position: among the images of the request.
        image: None where its vector was sent in its place.
        vectors: by embedder.
    """

    position: int
    image: ImageFile | None
    track: Track
    captured: datetime
    vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict)


Problems = dict[int, CropProblem]
"""Problems of images, by their positions."""
Scores = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]
"""Scores of crops with one list; see `WatchList.nearest`."""


async def sight(
    runtime: Runtime,
    caller: ApiKey,
    images: Sequence[ImageToEnroll],
    arrived: float,
    *,
    wait: bool = False,
    enrolled: EmbeddedImages | None = None,
) -> Sighted:
    """Compare crops with the armed lists that a key is for; their matches raise alerts.

    A crop of a visit that is under way goes on with it, and so does the same crop sent again.

    Args:
        arrived: when the request had, by `time.perf_counter`.
        wait: whether to answer what matched. Else alerts are written after the answer.
        enrolled: the images, as embedded for their gallery; they are compared with other lists.

    Raises:
        RecordUnavailable, StorageFailed: an alert could not be written now.
        UnusableImages, QueueFull: nothing was compared.
    """
    if runtime.galleries.record_state.state == "unreachable":
        raise RecordUnavailable("it does not answer, and no alert could be written")
    require_free_disk(runtime.settings)
    await runtime.watches.ready()
    lists = [
        active
        for active in runtime.watches.current()
        if caller.gallery in (None, active.gallery.name)
        and not (enrolled and active.gallery is enrolled.gallery)
    ]
    tracks, looks, problems = _take(runtime, caller, images)
    # Every crop is embedded, whatever the lists watch: a camera's key learns nothing of them.
    usual = enrolled.embedder if enrolled else runtime.model.embedder
    embedders = {active.embedder for active in lists} or {usual}
    async with contextlib.AsyncExitStack() as admitted:
        try:
            cost = _cost(runtime, embedders, lists, looks)
            await admitted.enter_async_context(runtime.admission.admit(cost))
            for embedder in embedders:
                problems |= await _embed(runtime, embedder, looks, enrolled)
        except BaseException:
            # They are sent again, and compared then.
            for look in looks:
                look.track.looks -= 1
            raise
        for look in looks:
            look.track.looks -= look.position in problems
        looks = [look for look in looks if look.position not in problems]
        accepted = len(images) - len(problems)
        runtime.metrics.sightings.inc(accepted)
        comparing = _compare(runtime, lists, looks, dict.fromkeys(tracks.values()), arrived, wait)
        matches: Mapping[Track, list[SightedMatch]] = {}
        if wait:
            matches = await comparing
        else:
            _go_on(runtime, comparing, admitted.pop_all())
    if not caller.may("query"):
        matches = {}
    results: list[SightedImage | RefusedImage] = []
    for position in range(len(images)):
        if position in problems:
            results.append(refused_image(problems[position]))
        else:
            found = matches.get(tracks[position], []) if wait else None
            results.append(SightedImage(matches=found))
    return Sighted(accepted=accepted, results=results)


def _take(
    runtime: Runtime, caller: ApiKey, images: Sequence[ImageToEnroll]
) -> tuple[dict[int, Track], list[_Look], Problems]:
    """Return the track of each image by its position, the crops to compare, and problems."""
    tracks: dict[int, Track] = {}
    looks: list[_Look] = []
    problems: Problems = {}
    now = datetime.now(UTC)
    for position, image in enumerate(images):
        captured = image.captured_at or now
        problem = _wrong_time(captured, now)
        if problem is not None:
            problems[position] = problem
            continue
        track = runtime.tracks.take(caller.key_id, image.camera, image.track, captured.timestamp())
        tracks[position] = track
        if track.looks < MOST_LOOKS:
            track.looks += 1
            looks.append(_Look(position, image.image, track, captured))
    return tracks, looks, problems


def _wrong_time(captured: datetime, now: datetime) -> CropProblem | None:
    if captured > now + CLOCKS_DIFFER_BY:
        return CropProblem(
            "captured_in_future",
            f"captured_at: {captured.isoformat()} is more than a minute in the future; set the "
            "clocks of the camera and of this machine right, or leave the field out",
        )
    if captured < now - OLDEST:
        return CropProblem(
            "captured_long_ago",
            f"captured_at: {captured.isoformat()} is more than {OLDEST.days} days ago; enroll old "
            "crops into a gallery, and search them there",
        )
    return None


def _cost(
    runtime: Runtime,
    embedders: Collection[str],
    lists: Sequence[ActiveList],
    looks: Sequence[_Look],
) -> float:
    cost = PER_COMPARISON * len(looks) * sum(len(active.row_ids) for active in lists)
    files = [look.image for look in looks if look.image is not None]
    return cost + sum(runtime.models[embedder].pipeline.cost(files) for embedder in embedders)


async def _embed(
    runtime: Runtime, embedder: str, looks: Sequence[_Look], enrolled: EmbeddedImages | None
) -> Problems:
    """Set the vectors of crops by an embedder, and return the problems of refused crops."""
    embedded: Sequence[Embedded]
    if enrolled and enrolled.embedder == embedder:
        embedded = [enrolled.embedded[look.position] for look in looks]
    else:
        # A vector that was sent compares with vectors of its own embedder alone.
        looks = [look for look in looks if look.image is not None]
        files = [look.image for look in looks if look.image is not None]
        pipeline = runtime.models[embedder].pipeline
        await pipeline.open_frame(files)
        embedded = await pipeline.embed(files, runtime.settings.quality)
    problems: Problems = {}
    for look, outcome in zip(looks, embedded, strict=True):
        if isinstance(outcome, CropProblem):
            problems[look.position] = outcome
        else:
            look.vectors[embedder] = outcome.vector
            vectors = look.track.vectors.setdefault(embedder, [])
            vectors.append(outcome.vector.astype(np.float16))
    return problems


async def _compare(
    runtime: Runtime,
    lists: Sequence[ActiveList],
    looks: Sequence[_Look],
    tracks: Collection[Track],
    arrived: float,
    wait: bool,
) -> dict[Track, list[SightedMatch]]:
    # Other callers have their turn between two parts.
    for part in batches(lists, LISTS_AT_ONCE):
        compared = [(active, taken) for active in part if (taken := _taken(active, looks))]
        scores = await runtime.tracks.threads.run(_score, compared)
        for (active, taken), scores_of_list in zip(compared, scores, strict=True):
            _note_scores(runtime, active, taken, scores_of_list)
    matches: dict[Track, list[SightedMatch]] = {}
    for track in tracks:
        matches[track] = []
        for match in list(track.matches.values()):
            if not wait and time.monotonic() - match.noted_at < NOTED_EVERY_SECONDS:
                continue
            noted = await _note(runtime, track, match, patient=not wait)
            if noted is None or noted.alert.identity is None:
                continue
            if noted.is_new:
                runtime.metrics.alert_seconds.observe(time.perf_counter() - arrived)
            found = SightedMatch(
                gallery=match.gallery.name,
                identity=noted.alert.identity,
                probability=match.probability,
                alert_id=noted.alert.alert_id,
            )
            matches[track].append(found)
    return matches


def _taken(active: ActiveList, looks: Sequence[_Look]) -> list[_Look]:
    return [
        look
        for look in looks
        if active.embedder in look.vectors and active.takes(look.track.camera, look.captured)
    ]


def _score(compared: Sequence[tuple[ActiveList, Sequence[_Look]]]) -> list[Scores]:
    return [
        active.watch_list.nearest(np.stack([look.vectors[active.embedder] for look in looks]))
        for active, looks in compared
    ]


def _note_scores(
    runtime: Runtime, active: ActiveList, looks: Sequence[_Look], scores: Scores
) -> None:
    gallery = active.gallery
    number = gallery.gallery_id
    place = number, active.subject
    for look, height, cosine, row in zip(looks, *scores, strict=True):
        track = look.track
        if height <= track.best.get(place, -math.inf):
            continue
        track.best[place] = float(height)
        if height <= active.forecast.threshold:
            continue
        current = runtime.calibrations.current(gallery, "cosine")
        judge = current.judge(OPERATING_POINT, active.watch_list.size, float(cosine - height))
        probability = float(judge.probability(np.array([cosine]))[0])
        if probability < LEAST_PROBABILITY:
            continue
        runtime.metrics.sightings_matched.inc()
        before = track.matches.get(number)
        track.matches[number] = Match(
            gallery=gallery,
            embedder=active.embedder,
            row_id=int(active.row_ids[row]),
            score=float(height),
            threshold=active.forecast.threshold,
            probability=probability,
            calibration_version=str(judge.state.version),
            image=look.image,
            noted=before.noted if before else 0,
        )


async def _note(
    runtime: Runtime, track: Track, match: Match, patient: bool = False
) -> NotedVisit | None:
    """Write the crops of a visit that the record does not have yet.

    Args:
        patient: whether to try again where the record cannot be written.

    Returns:
        None where the list was disarmed, or its person is not there any more.
    """
    crops = track.crops - match.noted
    match.noted = track.crops
    match.noted_at = time.monotonic()
    picture = None
    if match.image is not None and runtime.settings.keep_images != "none":
        content = await runtime.models[match.embedder].pipeline.thumbnail(match.image)
        picture = Picture(content, "image/jpeg")
    seen = VisitSeen(
        kind="late" if time.time() - track.last > LATE_SECONDS else "visit",
        row_id=match.row_id,
        camera=track.camera,
        track=track.name,
        first_seen=datetime.fromtimestamp(track.began, UTC),
        last_seen=datetime.fromtimestamp(track.last, UTC),
        crops=crops,
        score=match.score,
        threshold=match.threshold,
        probability=match.probability,
        cohesion=track.cohesion(match.embedder),
        calibration_version=match.calibration_version,
        picture=picture,
    )
    note_visit = runtime.record.watches.note_visit
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            noted = await write_alert(runtime, note_visit, match.gallery.gallery_id, seen)
            break
        except UnknownGallery:
            noted = None
            break
        except (RecordUnavailable, StorageFailed):
            if not patient or time.monotonic() > until:
                match.noted -= crops
                raise
            await asyncio.sleep(RETRY_SECONDS)
    match.image = None
    if noted is None:
        track.matches.pop(match.gallery.gallery_id, None)
    return noted


def _go_on(
    runtime: Runtime,
    comparing: Coroutine[Any, Any, object],
    admitted: contextlib.AsyncExitStack,
) -> None:
    """Compare after the answer; the request's cost is held until then."""

    async def run() -> None:
        async with admitted:
            try:
                await comparing
            except Exception:
                runtime.metrics.sightings_lost.inc()
                log.exception("accepted sightings were not compared, or raised no alert")

    task = asyncio.create_task(run(), name="sightings")
    runtime.tracks.comparing.add(task)
    task.add_done_callback(runtime.tracks.comparing.discard)


async def keep_tracks(runtime: Runtime) -> None:
    """End quiet tracks and store the traffic until cancelled, and then all that is left."""
    comparing = runtime.tracks.comparing
    stored = time.monotonic()
    try:
        while True:
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            now = time.monotonic()
            await _end_tracks(runtime, now - QUIET_SECONDS)
            if now - stored >= TRAFFIC_EVERY_SECONDS:
                stored = now
                await _store_traffic(runtime)
    finally:
        if comparing:
            await asyncio.wait(comparing, timeout=CLOSING_SECONDS)
        await _end_tracks(runtime, math.inf)
        await _store_traffic(runtime)


async def _end_tracks(runtime: Runtime, heard_before: float) -> None:
    for track in runtime.tracks.end(heard_before):
        for match in list(track.matches.values()):
            if match.noted < track.crops:
                try:
                    await _note(runtime, track, match)
                except Exception:
                    log.exception("the last crops of a visit were not noted")


async def _store_traffic(runtime: Runtime) -> None:
    traffic = runtime.tracks.traffic
    add = runtime.record.watches.add_traffic
    for place in list(traffic):
        scores = traffic.pop(place)
        counts = Traffic.of(np.array(scores)).counts.tolist()
        try:
            await runtime.galleries.write(add, *place, counts)
        except UnknownGallery:
            continue
        except Exception:
            traffic[place] += scores
            log.exception("traffic was not stored; it is tried again")
