"""Grouping: unnamed crops are clustered by their scores, as suggestions for people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.arrays import Floats, unit_rows
from model.wording import counted
from service.errors import InvalidField, UnknownGallery
from service.gallery.gallery import Gallery
from service.gallery.registry import GalleryRegistry
from service.jobs.runner import create_job, save_job
from service.record.jobs import Job
from service.record.record import Record
from service.record.tracks import cohesion
from service.record.transaction import batches
from service.record.values import FILTER, ArchivedCrop, ListFilter
from service.runtime import Runtime
from service.search.calibration import CurrentCalibration

# The scores of this many crops and the clustering take about 0.6 GB.
MOST_CROPS = 5000
CROPS_AT_ONCE = 500
# Number of rows of scores after which the progress is saved.
ROWS_PER_SAVE = 64
OPERATING_POINT = "far_1e-2"


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
    if entry and wanted == ListFilter(named=False) and entry.unnamed > MOST_CROPS:
        raise _too_many()
    parameters = FILTER.dump_python(wanted, mode="json", exclude_defaults=True)
    return await create_job(runtime, gallery, "grouping", parameters, key_id)


async def run_grouping(runtime: Runtime, gallery: Gallery, job: Job) -> str | None:
    wanted = FILTER.validate_python(job.parameters)
    version, crops = await _read_crops(runtime.record, runtime.galleries, gallery, wanted)
    groups: list[tuple[list[int], float]] = []
    if len(crops) > 1:
        current = runtime.calibrations.current(gallery, None)
        level = current.published.level if current.published else None
        # Judge as in a search among these crops, each of which may show another person.
        judge = current.judge(OPERATING_POINT, len(crops), level)
        vectors = np.stack([crop.vector for crop in crops])
        scores = await _score_pairs(runtime, job, current, vectors)
        least_cohesion = judge.uncertain if current.scoring == "cosine" else current.joins_at
        tracks = _find_cohesive_tracks(crops, least_cohesion)
        clusters = await runtime.pools.calibration.run(_cluster, scores, judge.uncertain, tracks)
        slots = np.array([crop.record.slot for crop in crops])
        means = judge.probability(np.array([mean for _, mean in clusters]))
        pairs = zip(clusters, means.tolist(), strict=True)
        groups = [(slots[positions].tolist(), probability) for (positions, _), probability in pairs]
    single = len(crops) - sum(len(group) for group, _ in groups)
    await runtime.galleries.write(
        runtime.record.groups.put, gallery.gallery_id, job.job_id, version, groups, single
    )
    await save_job(runtime, job, {"total": len(crops), "done": len(crops)})
    grouped = counted(len(groups), "group holds", "groups hold")
    return f"{grouped} {len(crops) - single:,} of {counted(len(crops), 'crop')}"


async def _read_crops(
    record: Record, galleries: GalleryRegistry, gallery: Gallery, wanted: ListFilter
) -> tuple[int, list[ArchivedCrop]]:
    """Read the gallery's version and its crops, with vectors of a single embedder.

    Raises:
        InvalidField: there are too many crops.
    """
    read = galleries.read
    gallery_id = gallery.gallery_id
    while True:
        before = await read(record.galleries.get, gallery_id)
        slots = await read(record.crops.slots, gallery_id, wanted, MOST_CROPS + 1)
        if len(slots) > MOST_CROPS:
            raise _too_many()
        crops: list[ArchivedCrop] = []
        for batch in batches(slots, CROPS_AT_ONCE):
            crops += await read(record.crops.indexed, gallery_id, batch)
        after = await read(record.galleries.get, gallery_id)
        if before is None or after is None:
            raise UnknownGallery(gallery.name)
        if before.generation == after.generation:
            return before.version, crops
        # A reindex has switched the vectors: read again.
        await galleries.catch_up()


async def _score_pairs(
    runtime: Runtime, job: Job, current: CurrentCalibration, vectors: Floats
) -> Floats:
    """Score all pairs of crops by the default scoring; return symmetric `(n, n)` float32."""
    run = runtime.pools.calibration.run
    scores: Floats
    if current.scoring == "cosine":
        units = unit_rows(vectors)
        scores = await run(np.matmul, units, units.T)
    else:
        networks = current.model.networks
        scores = np.empty((len(vectors), len(vectors)), np.float32)
        for row, query in enumerate(vectors):
            if row % ROWS_PER_SAVE == 0:
                await save_job(runtime, job, {"total": len(vectors), "done": row})
            others = vectors[row:]
            for part in networks.slices_of(1, len(others)):
                scored = await runtime.device.run(networks.pair_scores, query[None], others[part])
                scores[row, row:][part] = scored
            scores[row:, row] = scores[row, row:]
    # Pairs that M-Net fails on count as different people.
    lowest = float(-np.finfo(np.float32).max / 4)
    return await run(np.nan_to_num, scores, False, lowest, lowest, lowest)


def _find_cohesive_tracks(crops: Sequence[ArchivedCrop], least: float) -> list[list[int]]:
    """Return the positions of the crops of each track whose cohesion is at least `least`.

    Trackers confuse people who cross, so a track of low cohesion must not join its crops.
    """
    tracks: defaultdict[tuple[str, str | None], list[int]] = defaultdict(list)
    for position, crop in enumerate(crops):
        if crop.record.track is not None:
            tracks[crop.record.track, crop.record.camera].append(position)
    return [
        positions
        for positions in tracks.values()
        if len(positions) > 1 and cohesion(np.stack([crops[n].vector for n in positions])) >= least
    ]


def _cluster(
    scores: Floats, cut: float, tracks: Sequence[Sequence[int]] = ()
) -> list[tuple[NDArray[np.int64], float]]:
    """Group by average linkage; return positions and mean score of each group, largest first.

    Positions of a group start with the crop that is least similar to the others.

    Args:
        scores: scores of pairs, `(n, n)`; overwritten with distances.
        cut: groups are merged while the mean score between them exceeds this.
        tracks: positions of crops to be merged before all others.
    """
    import fastcluster

    top = float(scores.max())
    np.subtract(top, scores, out=scores)
    clusters = [[position] for position in range(len(scores))]
    # Each row has two clusters and their distance, ascending; it creates one more cluster.
    linked = scores.copy()
    for positions in tracks:
        # Smaller than every other distance, so that the linkage merges these first.
        linked[np.ix_(positions, positions)] = min(0.0, top - cut) - 1.0
    distances = linked[np.triu_indices_from(linked, 1)]
    for first, second, distance, _ in fastcluster.linkage(distances, "average"):
        if distance >= top - cut:
            break
        merged = sorted(clusters[int(first)] + clusters[int(second)])
        clusters[int(first)] = clusters[int(second)] = []
        clusters.append(merged)

    groups = []
    for positions in clusters:
        if len(positions) > 1:
            pairs = scores[np.ix_(positions, positions)]
            farthest_first = np.argsort(-pairs.mean(axis=1), kind="stable")
            mean = pairs[np.triu_indices_from(pairs, 1)].mean(dtype=np.float64)
            groups.append((np.array(positions)[farthest_first], top - float(mean)))
    return sorted(groups, key=lambda group: (-len(group[0]), -group[1]))


def _too_many() -> InvalidField:
    return InvalidField(
        f"camera, captured_after, captured_before: more than {MOST_CROPS:,} unnamed crops "
        "pass; send a camera or a shorter time, and group the others once these are named"
    )
