"""`gmn enroll --job`: a source sent as one import, which the service does by itself."""

from __future__ import annotations

import csv
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmn_client import Client
from gmn_client.models import Job
from model.crops.names import is_image_name
from model.problems import InputProblem
from service.commands.connection import follow, progress_bar
from service.commands.packing import Packing
from service.commands.sources import SourceCrop, open_source

REPORT_COLUMNS = ("position", "source", "code", "detail")
FORMULA = ("=", "+", "-", "@")


@dataclass(frozen=True)
class JobSource:
    """What is sent, and how.

    Attributes:
        name: an image, folder, zip, tar, CSV manifest, or KIND:PATH.
        camera, split: which of it, or for images, a folder or archive under which camera.
        identity: whom all images show; None where the source names people, or nobody does.
        read_spec: reads KIND:PATH.
    """

    name: str
    camera: str | None
    split: str | None
    identity: str | None
    read_spec: Callable[[str], Iterable[SourceCrop]]


@dataclass(frozen=True)
class Imported:
    """An import that has ended, and each line of what is wrong with it.

    Attributes:
        problems: position (empty where it was never sent), source, code and detail.
    """

    job: Job
    problems: Sequence[tuple[str, str, str, str]]
    unread: int = 0
    passed_by: int = 0


def enroll_as_job(
    client: Client, source: JobSource, begin: Callable[[], None], report: Path | None
) -> dict[str, Any]:
    """Sends a source as one import, and waits until it has ended.

    A zip or tar goes as it is; anything else is packed while it is sent.

    Args:
        client: of the gallery.
        source: what to send.
        begin: called once the source is known to be usable.
        report: CSV file for what is wrong with which image.

    Returns:
        The summary that the command shows.
    """
    started = time.perf_counter()
    if report is not None:
        _write_report(report, ())
    path = Path(source.name)
    archive = path.is_file() and path.suffix.lower() != ".csv" and not is_image_name(path.name)
    ended = (_send_archive if archive else _pack)(client, source, begin)
    if report is not None:
        _write_report(report, ended.problems)
    job, seconds = ended.job, time.perf_counter() - started
    sent = job.progress.total + ended.unread
    return {
        "gallery": job.gallery,
        "job_id": job.job_id,
        "state": job.state,
        "detail": job.detail,
        "sent": sent,
        "enrolled": job.progress.landed,
        "duplicates": job.progress.duplicates,
        "passed_by": ended.passed_by,
        "seconds": round(seconds, 3),
        "crops_per_second": round(sent / max(seconds, 1e-9), 1),
        "problems": [{"name": name, "problem": detail} for _, name, _, detail in ended.problems],
    }


def _send_archive(client: Client, source: JobSource, begin: Callable[[], None]) -> Imported:
    path = Path(source.name)
    if source.split is not None:
        raise InputProblem(f"--split {source.split}: an archive names none; send its manifest")
    if source.identity is not None:
        raise InputProblem(
            f"--identity {source.identity}: an archive is sent as it is; put a manifest.csv into "
            "it, or leave --job out"
        )
    try:
        readable = zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    except OSError as error:
        raise InputProblem(f"{path}: cannot be read ({error.strerror})") from error
    if not readable:
        raise InputProblem(
            f"{path}: neither a CSV manifest nor a zip or tar archive; pack the images into one, "
            "or name their folder"
        )
    begin()
    with progress_bar() as progress:
        sending = progress.add_task("Sending", total=None)
        job = client.import_archive(path, camera=source.camera)
        progress.remove_task(sending)
        job = follow(client, job, "Enrolling", progress)
    return Imported(job, _problems(client, job, {}))


def _pack(client: Client, source: JobSource, begin: Callable[[], None]) -> Imported:
    with open_source(source.name, source.read_spec) as found, progress_bar() as progress:
        chosen = found.in_split(source.split).under(source.camera).showing(source.identity)
        sending = progress.add_task("Sending", total=len(chosen.crops))
        packing = Packing(chosen, lambda: progress.advance(sending))
        camera = None if packing.with_manifest else source.camera
        begin()
        job = client.import_archive(packing.upload, camera=camera)
        progress.remove_task(sending)
        job = follow(client, job, "Enrolling", progress)
    unread = [("", name, "unreadable", detail) for name, detail in packing.unreadable]
    problems = [*unread, *_problems(client, job, packing.names)]
    return Imported(job, problems, len(unread), chosen.passed_by)


def _problems(client: Client, job: Job, names: dict[str, str]) -> list[tuple[str, str, str, str]]:
    if not job.problems:
        return []
    return [
        (
            str(one.position),
            # The report marks what a spreadsheet would take for a formula.
            names.get(one.source.removeprefix("'"), one.source),
            one.code,
            one.detail,
        )
        for one in client.job_problems(job.job_id)
    ]


def _write_report(report: Path, problems: Sequence[tuple[str, str, str, str]]) -> None:
    try:
        with report.open("w", newline="", encoding="utf-8", errors="replace") as file:
            lines = csv.writer(file)
            lines.writerow(REPORT_COLUMNS)
            for problem in problems:
                lines.writerow(f"'{text}" if text.startswith(FORMULA) else text for text in problem)
    except OSError as error:
        raise InputProblem(
            f"--report {report}: cannot be written ({error.strerror}); name another file"
        ) from error
