"""`gmn enroll --job`: a source packed into an archive, which is sent as one import."""

from __future__ import annotations

import csv
import io
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gmn_client import Client
from model.problems import InputProblem
from service.commands.common import follow, progress_bar
from service.commands.sources import Source, read_crop

COLUMNS = ("path", "identity", "camera", "captured_at")
REPORT_COLUMNS = ("position", "source", "code", "detail")
FORMULA = ("=", "+", "-", "@")
Problem = tuple[str, str, str, str]
"""The columns of the report; a crop that was not sent has no position."""


@dataclass(frozen=True)
class Packed:
    """An archive to send.

    Attributes:
        file: a zip or tar.
        identity, camera: of every image, where there is no manifest in the archive.
        names: for messages, by the names in the archive.
        unreadable: the crops that are not in it.
    """

    file: Path
    camera: str | None
    identity: str | None = None
    names: dict[str, str] = field(default_factory=dict)
    unreadable: list[Problem] = field(default_factory=list)


def require_archive(path: Path, split: str | None) -> None:
    """Raises `InputProblem` for a file that is no archive, or a split, which archives lack."""
    if split is not None:
        raise InputProblem(f"--split {split}: an archive names none; send its manifest")
    try:
        readable = zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    except OSError as error:
        raise InputProblem(f"{path}: cannot be read ({error.strerror})") from error
    if not readable:
        raise InputProblem(
            f"{path}: neither a CSV manifest nor a zip or tar archive; pack the images into one, "
            "or name their folder"
        )


@contextmanager
def pack(source: Source, camera: str | None) -> Iterator[Packed]:
    """Packs a source into a temporary tar file, with a manifest where the source names people.

    Raises:
        InputProblem: for a crop with an identity and without a camera, which a manifest needs.
    """
    labelled = source.labelled or any(crop.identity for crop in source.crops)
    for crop in source.crops if labelled else ():
        if not (crop.identity and crop.camera):
            raise InputProblem(
                f"{crop.name}: an import's manifest names identity and camera of every image; give "
                "the camera with --camera, or enroll these without --job"
            )
    manifest = io.StringIO()
    lines = csv.writer(manifest)
    lines.writerow(COLUMNS)
    with tempfile.NamedTemporaryFile(prefix="gmn-", suffix=".tar") as file, progress_bar() as bar:
        packed = Packed(Path(file.name), camera)
        with tarfile.open(fileobj=file, mode="w") as tar:
            for number, crop in enumerate(bar.track(source.crops, description="Packing")):
                data, name = read_crop(crop), f"{number:08d}.png"
                if isinstance(data, str):
                    packed.unreadable.append(("", crop.name, "unreadable", data))
                    continue
                _add(tar, name, data)
                packed.names[name] = crop.name
                moment = crop.captured_at.isoformat() if crop.captured_at else ""
                lines.writerow((name, crop.identity, crop.camera, moment))
            if labelled:
                _add(tar, "manifest.csv", manifest.getvalue().encode())
        file.flush()
        yield packed


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def send(client: Client, archive: Packed, report: Path | None) -> dict[str, Any]:
    """Sends an archive as one import and follows it to its end.

    Returns:
        The outcome and its counts, as `gmn enroll` shows them.
    """
    with progress_bar() as progress:
        progress.add_task("Sending", total=None)
        job = client.import_archive(archive.file, identity=archive.identity, camera=archive.camera)
    job = follow(client, job, "Enrolling")
    problems = archive.unreadable + [
        (str(one.position), archive.names.get(one.source, one.source), one.code, one.detail)
        for one in (client.job_problems(job.job_id) if job.problems else ())
    ]
    if report is not None:
        write_report(report, problems)
    return {
        "job_id": job.job_id,
        "state": job.state,
        "detail": job.detail,
        "sent": job.progress.total + len(archive.unreadable),
        "enrolled": job.progress.landed,
        "duplicates": job.progress.duplicates,
        "problems": [{"name": name, "problem": detail} for _, name, _, detail in problems],
    }


def write_report(report: Path, problems: Sequence[Problem]) -> None:
    """Writes the problems as CSV; raises `InputProblem` where the file cannot be written."""
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
