"""Removal of the crops of an import, as a job."""

from __future__ import annotations

import time

from gmn_client.models import ImportedCrops
from service.errors import JobUnfinished, UnknownJob
from service.gallery.changes import AuditEntry
from service.gallery.gallery import Gallery
from service.gallery.registry import GalleryRegistry
from service.jobs.runner import create_job, save_job, yield_turn
from service.record.jobs import Job, Jobs
from service.record.values import CropsChange
from service.runtime import Runtime

CROPS_AT_ONCE = 1000


async def count_imported(runtime: Runtime, gallery: Gallery, job_id: str) -> ImportedCrops:
    """Count the crops that an import stored and the gallery still has.

    Raises:
        UnknownJob: the gallery has no such import.
        JobUnfinished: the import waits or runs.
    """
    job = await _find_import(runtime.record.jobs, runtime.galleries, gallery, job_id)
    read = runtime.galleries.read
    gallery_id = gallery.gallery_id
    crops, renamed = await read(runtime.record.crops.count_imported, gallery_id, job_id)
    reviewed, in_cases = await read(runtime.desk.kept.count_imported, gallery_id, job_id)
    return ImportedCrops(
        crops=crops,
        renamed=renamed,
        reviewed=reviewed,
        in_cases=in_cases,
        duplicates=job.progress.get("duplicates", 0),
    )


async def begin_removal(runtime: Runtime, gallery: Gallery, job_id: str, key_id: str) -> Job:
    """Create the job that removes the crops of an import, or return the unfinished one.

    Raises:
        UnknownJob, JobUnfinished: as `count_imported`.
    """
    await _find_import(runtime.record.jobs, runtime.galleries, gallery, job_id)
    for other in await runtime.galleries.read(runtime.record.jobs.open):
        if other.kind == "removal" and other.parameters["import"] == job_id:
            return other
    return await create_job(runtime, gallery, "removal", {"import": job_id}, key_id)


async def run_removal(runtime: Runtime, gallery: Gallery, job: Job) -> str | None:
    began = time.monotonic()
    job_id = job.parameters["import"]
    done = job.progress.get("done", 0)
    total = done + (await count_imported(runtime, gallery, job_id)).crops
    await save_job(runtime, job, {"total": total, "done": done})
    entry = AuditEntry("delete_imported", {"import_job": job_id})

    def remove(gallery_id: int) -> CropsChange:
        return runtime.record.crops.remove_imported(gallery_id, job_id, CROPS_AT_ONCE)

    while removed := (await runtime.crop_deletions.delete(gallery, entry, remove)).count:
        done += removed
        await save_job(runtime, job, {"total": max(done, total), "done": done})
        await yield_turn(runtime, job, began)
    # Somebody may have deleted some of the crops in the meantime.
    await save_job(runtime, job, {"total": done, "done": done})
    return None


async def _find_import(
    jobs: Jobs, galleries: GalleryRegistry, gallery: Gallery, job_id: str
) -> Job:
    job = await galleries.read(jobs.get, job_id)
    if job is None or (job.kind, job.gallery_id) != ("import", gallery.gallery_id):
        raise UnknownJob(job_id)
    if not job.finished:
        raise JobUnfinished(job_id, job.state)
    return job
