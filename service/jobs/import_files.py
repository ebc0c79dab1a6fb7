"""Reading of imports from an archive or a folder: images, labels and vectors."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from model.crops.decode import CropProblem
from model.crops.file_forms import FileForms
from model.crops.folder import packed_root, read_folder
from model.crops.manifest import MANIFEST, MAX_MANIFEST_BYTES, find_manifest
from model.crops.names import EXPORT_FILES, Ignored, LeftOut, shown
from model.crops.unpack import FULL, DiskFull, UnpackLimits, unpack_crops
from model.feature_file import COLUMNS, is_feature_file, read_sent
from model.problems import InputProblem, is_of_the_machine
from service.errors import InvalidField, RecordUnavailable, StorageFailed
from service.gallery.enroll import ExportedCrop
from service.gallery.labels import LABEL_PARSERS
from service.gallery.registry import GalleryRegistry
from service.jobs.export_files import (
    ReadVectors,
    open_vectors,
    parse_exported,
    read_description,
)
from service.jobs.runner import Cancelled
from service.ops import data_directory
from service.ops.data_directory import failpoint
from service.ops.threads import heartbeat
from service.record.jobs import Job, Jobs
from service.record.values import LABELS, CropLabels
from service.settings import Settings
from service.store.export_rows import ExportDescription

# Interval at which the record is checked for a cancellation during unpacking.
CANCELLED_WITHIN_SECONDS = 0.25
# Labels of a crop in a feature file, in the order of `COLUMNS`.
ROW_LABELS = ("external_id", "identity", "camera", "captured_at")


class ImportItem(NamedTuple):
    """A crop to import.

    Attributes:
        path: its image; None if it has only a vector.
        row: its row among the vectors, if there are any.
        sha256: hash of the image of a feature file.
        exported: what an export says of it.
    """

    path: Path | None
    labels: CropLabels
    row: int = 0
    sha256: str = ""
    exported: ExportedCrop | None = None


@dataclass(frozen=True)
class ImportVectors:
    """Vectors of the crops of an import.

    Attributes:
        embedder: fingerprint of the embedder that made them.
    """

    embedder: str
    read: ReadVectors


@dataclass(frozen=True)
class ImportContent:
    """Images or vectors to import.

    Attributes:
        folder: resolved folder of the images.
        items: the crops.
        ignored: files and columns that are not part of the import.
        left_out: files that could not be unpacked.
        vectors: vectors of the items, if they come from a feature file or an export.
        export: the description of the export that this is; None if it is none.
        is_mounted: the folder is not the service's own.
    """

    folder: Path
    items: list[ImportItem]
    ignored: Ignored
    left_out: list[LeftOut] = field(default_factory=list)
    vectors: ImportVectors | None = None
    export: ExportDescription | None = None
    is_mounted: bool = False

    def name_of(self, item: ImportItem) -> str:
        if item.path is not None:
            return shown(str(item.path.relative_to(self.folder)))
        if item.exported is not None:
            return item.exported.crop_id
        return shown(item.labels.external_id or str(item.row))


def read_import(
    settings: Settings, job: Job, spool: Path, between: Callable[[], None]
) -> ImportContent:
    """Read the images and labels of an import, or its vectors; blocks.

    Args:
        between: called between the steps; see `make_check`.

    Raises:
        Cancelled: the job was cancelled, or its gallery deleted.
        ServiceStopping: the process stops.
        InputProblem: the import cannot be used.
    """
    ignored = Ignored()
    if (mounted := job.parameters.get("folder")) is not None:
        folder = mounted_folder(settings.import_dir, mounted, job.parameters.get("gallery"))
        content = _read_folder(folder, folder, job.parameters, ignored, between)
        return replace(content, is_mounted=True)
    folder = (spool / "files").resolve()
    archive = spool / "archive"
    if not (archive.exists() or folder.exists()):
        raise InvalidField("archive: the file that was sent is gone; send it again")
    if archive.is_file() and is_feature_file(archive):
        return _read_vectors(settings.max_body_bytes, archive, folder, job.parameters, between)
    left_out: list[LeftOut] = []
    if not job.progress:
        left_out = _unpack(settings, archive, folder, ignored, between)
    content = _read_folder(folder, packed_root(folder), job.parameters, ignored, between)
    return replace(content, left_out=left_out)


def make_check(jobs: Jobs, galleries: GalleryRegistry, job: Job) -> Callable[[], None]:
    """Return a function to be called between the steps of long work for a job.

    It raises `Cancelled` or `ServiceStopping` once the work has to end.
    """
    checked_at = time.monotonic()

    def between() -> None:
        nonlocal checked_at
        heartbeat()
        if time.monotonic() - checked_at > CANCELLED_WITHIN_SECONDS:
            with contextlib.suppress(RecordUnavailable):
                current = jobs.get(job.job_id)
                if current is None or current.cancelling:
                    raise Cancelled
            if galleries.by_id(job.gallery_id) is None:
                raise Cancelled
            checked_at = time.monotonic()

    return between


def _read_vectors(
    max_bytes: int,
    archive: Path,
    folder: Path,
    parameters: Mapping[str, Any],
    between: Callable[[], None],
) -> ImportContent:
    for name in ("identity", "camera", "manifest"):
        if parameters.get(name):
            raise InvalidField(f"{name}: a feature file names its crops itself; leave it out")
    try:
        sent = read_sent(archive, max_bytes)
    except InputProblem as problem:
        raise InvalidField(f"archive: {str(problem).removeprefix(f'{archive}: ')}") from problem
    items = []
    columns = sent.columns
    rows = zip(*(columns[name] for name in COLUMNS[:4]), strict=True)
    for number, row in enumerate(rows):
        between()
        labels = zip(ROW_LABELS, (text or None for text in row), strict=True)
        checked = parse_labels(dict(labels), f"archive: crop {number}")
        items.append(ImportItem(None, checked, number, columns["sha256"][number]))
    vectors = ImportVectors(sent.origin.embedder, lambda rows: sent.features[list(rows)])
    return ImportContent(folder, items, Ignored(), vectors=vectors)


def _unpack(
    settings: Settings,
    archive: Path,
    folder: Path,
    ignored: Ignored,
    between: Callable[[], None],
) -> list[LeftOut]:
    # A crop from an earlier attempt does not count until the job has progress.
    if folder.exists():
        data_directory.remove_folder(folder)
    limits = UnpackLimits(settings.max_import_bytes, settings.max_image_bytes)

    def before_entry() -> None:
        between()
        data_directory.require_free_disk(settings)

    try:
        folder.mkdir(parents=True)
        left_out = unpack_crops(archive, folder, limits, ignored, before_entry)
        # Once progress is saved, the folder must be complete even after a power cut.
        data_directory.sync_disk(folder)
    except (DiskFull, OSError) as error:
        if isinstance(error, OSError) and error.errno not in FULL:
            raise
        raise StorageFailed(f"the archive cannot be unpacked ({error}); free space") from error
    for file in left_out:
        # Without them, the crops that were deleted would be enrolled anew.
        if file.name.rpartition("/")[2].lower() in EXPORT_FILES:
            raise InvalidField(f"archive: {file.name}: {file.reason}; download the export again")
    failpoint("import.unpacked")
    return left_out


def _read_folder(
    folder: Path,
    root: Path,
    parameters: Mapping[str, Any],
    ignored: Ignored,
    between: Callable[[], None],
) -> ImportContent:
    export = read_description(folder, root)
    name = parameters.get("manifest")
    if name:
        # The path may be written as on Windows.
        manifest = _resolve(folder, name) or _resolve(folder, name.replace("\\", "/"))
    else:
        found = find_manifest(root)
        manifest = found and _resolve(root, found.name)
    # An error about a file outside the import could reveal its content.
    if manifest is not None and not manifest.is_relative_to(folder):
        raise InvalidField("manifest: lies outside the import; put it among the images")
    if manifest is None or not manifest.is_file():
        if name:
            raise InvalidField(
                f"manifest: there is no file {shown(name)!r} in the import; name one"
            )
        if export is not None:
            raise InvalidField(f"archive: {MANIFEST} of the export is missing; download it again")
        manifest = None
    if manifest is not None and manifest.stat().st_size > MAX_MANIFEST_BYTES:
        raise InvalidField(
            f"manifest: has over {MAX_MANIFEST_BYTES:,} bytes; pack fewer crops into one archive"
        )
    files = read_folder(
        folder,
        ignored,
        manifest,
        root=root,
        within=folder,
        between=between,
        is_export=export is not None,
    )
    given = {label: parameters[label] for label in ("identity", "camera") if parameters.get(label)}
    for label in given:
        if any(getattr(file, label) for file in files):
            raise InvalidField(f"{label}: the manifest or the folders give it; leave it out")
    items = []
    crop_ids = set()
    now = datetime.now(UTC)
    for row, file in enumerate(files):
        between()
        where = f"manifest: line {file.line}" if file.line else "folder: the name of one"
        labels = replace(parse_labels({n: getattr(file, n) for n in LABELS}, where), **given)
        if export is None:
            items.append(ImportItem(file.path, labels))
            continue
        exported = parse_exported(file, where, now)
        crop_ids.add(exported.crop_id)
        if len(crop_ids) == row:
            raise InvalidField(f"{where}: repeats the crop of an earlier line; keep one of the two")
        path = None if file.path.is_dir() else file.path
        items.append(ImportItem(path, labels, row, exported=exported))
    vectors = None
    if export is not None:
        read = open_vectors(folder, root, len(items), between)
        vectors = ImportVectors(export.embedding_fingerprint, read)
    return ImportContent(folder, items, ignored, vectors=vectors, export=export)


def parse_labels(labels: Mapping[str, Any], where: str) -> CropLabels:
    """Parse labels in the same way as an enrollment parses text.

    Args:
        where: location of the labels, for error messages.

    Raises:
        InvalidField: an enrollment would refuse a label.
    """
    parsed = {}
    for name, check in LABEL_PARSERS.items():
        value: Any = labels.get(name)
        try:
            parsed[name] = check(name, value) if isinstance(value, str) else value
        except InvalidField as error:
            # Name the location, not the text: others can read why a job failed.
            detail = error.detail.replace(repr(value[:40]), "…")
            raise InvalidField(f"{where}: {detail}") from error
    return CropLabels(**parsed)


def read_file(
    content: ImportContent, path: Path | None, max_bytes: int
) -> bytes | CropProblem | None:
    if path is None:
        return None
    folder = content.folder
    try:
        path = path.resolve()
        if not path.is_relative_to(folder):
            return CropProblem("unreadable", "leads out of the folder; copy the file into it")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= max_bytes:
                return file.read(max_bytes)
    except (OSError, ValueError, RuntimeError) as error:
        # A file that a mounted folder cannot read may never be read.
        may_be_the_folder = content.is_mounted and getattr(error, "errno", None) == errno.EIO
        if is_of_the_machine(error) and not may_be_the_folder:
            raise
        reason = getattr(error, "strerror", None) or type(error).__name__
        return CropProblem("unreadable", f"cannot be read ({reason}); make it readable")
    return CropProblem(
        "file_too_large",
        f"the file has {size:,} bytes, over the limit of {max_bytes:,}; send the person's crop",
    )


def mounted_folder(root: Path | None, folder: str, gallery: str | None) -> Path:
    """Return a folder in the import directory, or in a gallery's part of it if one is given.

    Args:
        root: the import directory; None if folders are not imported.

    Raises:
        InvalidField: there is no such folder.
    """
    if root is None:
        raise InvalidField(
            "folder: this service imports no folders; send an archive, or set GMN_IMPORT_DIR"
        )
    root = root.resolve()
    allowed = root / gallery if gallery else root
    path = _resolve(root, folder)
    if path is None or not path.is_relative_to(allowed) or not path.is_dir():
        key_note = f", in {gallery}/ as the key is for that gallery" if gallery else ""
        raise InvalidField(
            f"folder: there is no folder {folder[:200]!r} below GMN_IMPORT_DIR{key_note}; name one"
        )
    return path


def _resolve(folder: Path, name: str) -> Path | None:
    """Return the real path of a name in a resolved folder, in any Unicode form, or None."""
    try:
        return FileForms().resolve(folder / name, folder).resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:
        if is_of_the_machine(error):
            raise
        return None
