"""Calls on long work: begin an import or a reindex, follow a job, stop it."""

from __future__ import annotations

from service.client.answers import Page
from service.client.calls.call import Call, Upload, given, path_to
from service.client.job_answers import Job


def import_archive(
    gallery: str,
    archive: Upload,
    identity: str | None,
    camera: str | None,
    manifest: str | None,
) -> Call[Job]:
    """Begins to enrol the images of an archive."""
    said = {"identity": identity, "camera": camera, "manifest": manifest}
    path = path_to("galleries", gallery, "imports")
    return Call("POST", path, Job, fields=given(said), archive=archive, long=True)


def import_folder(
    gallery: str,
    folder: str,
    identity: str | None,
    camera: str | None,
    manifest: str | None,
) -> Call[Job]:
    """Begins to enrol the images of a folder that the service can read."""
    said = {"folder": folder, "identity": identity, "camera": camera, "manifest": manifest}
    return Call("POST", path_to("galleries", gallery, "imports"), Job, fields=given(said))


def reindex(gallery: str) -> Call[Job]:
    """Begins to embed a gallery anew; one that has begun already is answered as it is."""
    return Call("POST", path_to("galleries", gallery, "reindex"), Job, repeatable=True)


def newest(gallery: str | None, limit: int) -> Call[Page[Job]]:
    """The newest jobs."""
    params: dict[str, str | int] = {"limit": limit}
    if gallery is not None:
        params["gallery"] = gallery
    return Call("GET", path_to("jobs"), Page[Job], params=params)


def read(job_id: str) -> Call[Job]:
    """How far a job is."""
    return Call("GET", path_to("jobs", job_id), Job)


def events(job_id: str) -> Call[bytes]:
    """A job at every change, as server-sent events."""
    return Call("GET", path_to("jobs", job_id, "events"), bytes)


def report(job_id: str) -> Call[bytes]:
    """What is wrong with which item, as CSV."""
    return Call("GET", path_to("jobs", job_id, "report"), bytes)


def cancel(job_id: str) -> Call[Job]:
    """Asks a job to stop; a second time it is answered as it is."""
    return Call("DELETE", path_to("jobs", job_id), Job, repeatable=True)
