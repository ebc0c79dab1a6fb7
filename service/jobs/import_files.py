"""The files of an import: its archive, kept and unpacked, and the images with their labels."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from model.crops.decode import CropProblem
from model.crops.folder import packed_root, read_folder
from model.crops.manifest import MANIFEST, CropFile
from model.crops.names import Ignored, LeftOut, shown
from model.crops.unpack import FULL, DiskFull, UnpackLimits, unpack_crops
from service.errors import InvalidField, StorageFailed
from service.gallery.enroll import checked_camera, checked_metadata, checked_text
from service.ops.data_directory import (
    IMPORTS,
    MEBIBYTE,
    hold_folder,
    make_folder,
    require_free_disk,
    sync,
    sync_below,
)
from service.ops.failpoints import failpoint
from service.ops.health import heartbeat
from service.record.jobs import Job
from service.runtime import Runtime

CHECKS = {
    "identity": checked_text,
    "camera": checked_camera,
    "external_id": checked_text,
    "metadata": checked_metadata,
}


def keep_archive(
    runtime: Runtime, spool: Path, archive: BinaryIO, held: contextlib.ExitStack
) -> None:
    """Keeps the archive of an import, durably, and holds its folder; raises `StorageFailed`."""
    try:
        make_folder(spool)
        # Held before it is noted: what is noted and not held was cut off.
        held.enter_context(hold_folder(spool))
        runtime.record.unneeded_files.add([f"{IMPORTS}/{spool.name}"])
        with (spool / "archive").open("wb") as file:
            while part := archive.read(MEBIBYTE):
                require_free_disk(runtime.settings)
                file.write(part)
        # An acknowledged archive is not sent again, so it must survive a power cut.
        sync_below(spool)
    except OSError as error:
        raise StorageFailed(
            f"the archive could not be kept ({error.strerror}); nothing was enrolled, free space "
            "in the data directory and send it again"
        ) from error


def read_import(
    runtime: Runtime, job: Job, spool: Path, ignored: Ignored
) -> tuple[Path, list[CropFile], list[LeftOut]]:
    """The folder and images of an import, in the same order every time; an archive is unpacked.

    Returns:
        Besides them, the images of the archive that were left out, where the import begins.

    Raises:
        InputProblem: for an archive or manifest that cannot be used.
        StorageFailed: the disk did not take the archive's content.
    """
    if (mounted := job.parameters.get("folder")) is not None:
        folder = mounted_folder(runtime, mounted)
        return folder, _read_items(folder, folder, job.parameters, ignored), []
    folder, left_out = (spool / "files").resolve(), []
    if not job.progress:
        left_out = _unpack(runtime, spool, folder, ignored)
    return folder, _read_items(folder, packed_root(folder), job.parameters, ignored), left_out


def _unpack(runtime: Runtime, spool: Path, folder: Path, ignored: Ignored) -> list[LeftOut]:
    archive, settings = spool / "archive", runtime.settings
    if not archive.is_file():
        if folder.is_dir():
            # An earlier process unpacked it. Where another has the lease, no progress is saved.
            return []
        raise InvalidField(
            "archive: could not be used, and its files were removed before the service ended "
            "amid saying why; send it again"
        )
    # A process that lost its lease may still be unpacking: each has a folder of its own.
    part = spool / f"part-{runtime.worker}"
    shutil.rmtree(part, ignore_errors=True)
    limits = UnpackLimits(settings.max_import_bytes, settings.max_image_bytes)

    def between() -> None:
        heartbeat()
        try:
            require_free_disk(settings)
        except StorageFailed as error:
            raise DiskFull(error.detail) from error

    try:
        part.mkdir()
        left_out = unpack_crops(archive, part, limits, between, ignored)
        # Under its final name the folder must be complete, also after a power cut.
        sync_below(part)
    except (DiskFull, OSError) as error:
        if isinstance(error, OSError) and error.errno not in FULL:
            raise
        raise StorageFailed(f"the archive cannot be unpacked ({error}); free space") from error
    failpoint("import.unpacked")
    try:
        part.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(part, ignore_errors=True)
    sync(spool)
    return left_out


def _read_items(
    folder: Path, root: Path, parameters: Mapping[str, Any], ignored: Ignored
) -> list[CropFile]:
    """The images to enroll; an error about a file outside would reveal that file's content."""
    name = parameters.get("manifest")
    manifest = _resolved(folder, name) if name else _resolved(root, MANIFEST)
    if manifest is not None and not manifest.is_relative_to(folder):
        raise InvalidField("manifest: lies outside the import; put it among the images")
    if manifest is None or not manifest.is_file():
        if name:
            raise InvalidField(
                f"manifest: there is no file {shown(name)!r} in the import; name one"
            )
        manifest = None
    items = read_folder(folder, ignored, manifest, root=root, within=folder)
    for item in items:
        _check_labels(item)
    for label in ("identity", "camera"):
        if value := parameters.get(label):
            if any(getattr(item, label) for item in items):
                raise InvalidField(f"{label}: the manifest or the folders give it; leave it out")
            items = [replace(item, **{label: value}) for item in items]
    return items


def _check_labels(item: CropFile) -> None:
    for label, check in CHECKS.items():
        if (value := getattr(item, label)) is None:
            continue
        try:
            check(label, value)
        except InvalidField as error:
            # The place is named and not its text, as others read what a job failed for.
            where = f"manifest: line {item.line}" if item.line else "folder: the name of one"
            detail = error.detail.replace(repr(value[:40]), "…")
            raise InvalidField(f"{where}: {detail}") from error


def read_file(folder: Path, path: Path, max_bytes: int) -> bytes | CropProblem:
    """The bytes of an image below a resolved folder, or why they cannot be read."""
    try:
        path = path.resolve()
        if not path.is_relative_to(folder):
            return CropProblem("unreadable", "leads out of the folder; copy the file into it")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= max_bytes:
                return file.read(max_bytes)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        return CropProblem("unreadable", f"cannot be read ({reason}); make it readable")
    return CropProblem(
        "file_too_large",
        f"the file has {size:,} bytes, over the limit of {max_bytes:,}; send the person's crop",
    )


def mounted_folder(runtime: Runtime, folder: str) -> Path:
    """A folder below the import directory; raises `InvalidField`."""
    root = runtime.settings.import_dir
    if root is None:
        raise InvalidField(
            "folder: this service imports no folders; send an archive, or set GMN_IMPORT_DIR"
        )
    root = root.resolve()
    path = _resolved(root, folder)
    if path is None or not path.is_relative_to(root) or not path.is_dir():
        raise InvalidField(
            f"folder: there is no folder {folder[:200]!r} below GMN_IMPORT_DIR; name one"
        )
    return path


def _resolved(folder: Path, name: str) -> Path | None:
    """The path with symbolic links followed; None where it does not exist."""
    try:
        return (folder / name).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        return None


def spool_folder(runtime: Runtime, job_id: str) -> Path:
    """The folder of the files of one import."""
    return runtime.settings.data_dir / IMPORTS / job_id
