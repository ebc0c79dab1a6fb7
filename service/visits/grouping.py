"""Grouping: a job that joins a gallery's crops without names into suggested people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.arrays import sigmoid
from model.calibration import ScoringCalibration
from model.wording import counted
from service.errors import InvalidField
from service.gallery.gallery import Gallery
from service.jobs.runner import create_job, save_job
from service.ops.threads import heartbeat
from service.record.jobs import Job
from service.record.values import FILTER, ListFilter
from service.runtime import Runtime
from service.visits.linkage import People, join_tracklets
from service.visits.reading import SeenCrops, read_seen_crops
from service.visits.tables import GroupedTracklet, StoredGroup
from service.visits.tracklets import Tracklet, find_tracklets

# The vectors of this many crops take 0.2 GB, and the distances of this many tracklets 0.4 GB.
MOST_CROPS = 100_000
MOST_TRACKLETS = 10_000
# Number of crops after which the progress is saved.
CROPS_PER_SAVE = 5000
UNNAMED = ListFilter(named=False, set_aside=False)


async def begin_grouping(
    runtime: Runtime, gallery: Gallery, wanted: ListFilter, key_id: str
) -> Job:
    """Create the job that groups unnamed crops, or return the unfinished one.

    Raises:
        InvalidField: there are too many crops, and no filter.
        NeedsReindex: no loaded model can compare the crops.
        UnknownGallery: the gallery was just deleted.
    """
    read = runtime.galleries.read
    record = runtime.record
    running = await read(record.jobs.unfinished, gallery.gallery_id, "grouping")
    if running is not None:
        return running
    runtime.calibrations.current(gallery, None)
    entry = await read(record.galleries.get, gallery.gallery_id)
    # The crops that are set aside may be unnamed ones.
    if entry and wanted == UNNAMED and entry.unnamed - entry.set_aside > MOST_CROPS:
        raise _too_many(MOST_CROPS, "unnamed crops")
    parameters = FILTER.dump_python(wanted, mode="json", exclude_defaults=True)
    return await create_job(runtime, gallery, "grouping", parameters, key_id)


async def run_grouping(runtime: Runtime, gallery: Gallery, job: Job) -> str | None:
    wanted = FILTER.validate_python(job.parameters)
    galleries = runtime.galleries
    record = runtime.record
    gallery_id = gallery.gallery_id
    slots = await galleries.read(record.crops.slots, gallery_id, wanted, MOST_CROPS + 1)
    if len(slots) > MOST_CROPS:
        raise _too_many(MOST_CROPS, "unnamed crops")

    async def note_read(count: int) -> None:
        if count % CROPS_PER_SAVE == 0:
            await save_job(runtime, job, {"total": len(slots), "done": count})

    crops = await read_seen_crops(record, galleries, gallery, slots, note_read)
    current = runtime.calibrations.current(gallery, None)
    calibration = current.model.cosine_calibration
    groups = await runtime.pools.calibration.run(group_crops, crops, calibration, current.joins_at)
    await galleries.write(runtime.groupings.put, gallery_id, job.job_id, crops.version, groups)
    total = len(crops.labels)
    sizes = [len(group.slots) for group in groups if len(group.slots) > 1]
    counts = {"total": total, "done": total, "groups": len(sizes), "grouped": sum(sizes)}
    await save_job(runtime, job, counts)
    grouped = counted(len(sizes), "group holds", "groups hold")
    return f"{grouped} {sum(sizes):,} of {counted(total, 'crop')}"


def group_crops(
    crops: SeenCrops, calibration: ScoringCalibration, joins_at: float
) -> list[StoredGroup]:
    """Join crops into people, largest first; a single crop of a person is a group too.

    Args:
        calibration: that of the cosine.
        joins_at: as for `find_tracklets`.

    Raises:
        InvalidField: there are too many tracklets.
    """
    if not crops.labels:
        return []
    tracklets = find_tracklets(crops, joins_at, heartbeat)
    if len(tracklets) > MOST_TRACKLETS:
        raise _too_many(MOST_TRACKLETS, "tracks of unnamed crops")
    people = join_tracklets(crops, tracklets, calibration, heartbeat)
    of_people: list[list[int]] = [[] for _ in people.weakest]
    for number, label in enumerate(people.labels.tolist()):
        of_people[label].append(number)
    groups = [_describe(crops, tracklets, people, calibration, numbers) for numbers in of_people]
    return sorted(groups, key=lambda group: (-len(group.slots), -group.probability))


def _describe(
    crops: SeenCrops,
    tracklets: Sequence[Tracklet],
    people: People,
    calibration: ScoringCalibration,
    numbers: Sequence[int],
) -> StoredGroup:
    own = [tracklets[number] for number in numbers]
    # A tracklet is as certain as its least fitting crop, which the tracker took for the person's.
    cohesions = np.array([tracklet.cohesion for tracklet in own])
    weakest = float(calibration.log_likelihood_ratios(cohesions).min())
    weakest = min(weakest, float(people.weakest[people.labels[numbers[0]]]))
    positions = np.concatenate([tracklet.positions for tracklet in own])
    units = crops.units[positions]
    farthest_first = np.argsort(units @ units.mean(axis=0), kind="stable")
    return StoredGroup(
        slots=[crops.labels[position].slot for position in positions[farthest_first]],
        probability=float(sigmoid(np.array(weakest))),
        tracklets=[
            GroupedTracklet(
                slots=[crops.labels[position].slot for position in tracklet.positions],
                counted=int(people.counted[number]),
                fewest=int(people.fewest[number]),
                most=int(people.most[number]),
            )
            for number, tracklet in zip(numbers, own, strict=True)
        ],
    )


def _too_many(most: int, things: str) -> InvalidField:
    return InvalidField(
        f"camera, captured_after, captured_before: more than {most:,} {things} pass; send a camera "
        "or a shorter time, and group the others once these are named"
    )
