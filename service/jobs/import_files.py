"""Reading of imports from an archive or a folder: images, labels and vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from model.crops.folder import CropFolder, packed_root
from model.crops.hash_set import HashSet
from model.crops.manifest import CropFile
from model.crops.names import EXPORT_FILES, Ignored, LeftOut, shown
from model.crops.unpack import FULL, DiskFull, UnpackLimits, UnpackProgress, unpack_crops
from model.feature_file import COLUMNS, is_feature_file, read_sent
from model.problems import InputProblem
from service.errors import InvalidField, StorageFailed
from service.gallery.enroll import ExportedCrop
from service.gallery.labels import LABEL_PARSERS
from service.jobs.export_files import (
    ReadVectors,
    check_vectors,
    open_vectors,
    parse_exported,
    read_description,
)
from service.jobs.import_folder import locate_manifest, mounted_folder
from service.jobs.runner import TurnOver
from service.ops import data_directory
from service.ops.data_directory import failpoint
from service.record.jobs import Job
from service.record.values import LABELS, CropLabels
from service.settings import Settings
from service.store.export_rows import ExportDescription

# A batch has more crops if they need no image.
VECTORS_PER_BATCH = 256
# A batch has fewer crops if their images have more bytes than these together.
BYTES_PER_BATCH = 16 * data_directory.MEBIBYTE
# The file of an import that says how far its archive is unpacked. It exists between its turns.
PROGRESS_FILE = "unpacked"
PROGRESS = TypeAdapter(UnpackProgress)
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


NumberedItem = tuple[int, ImportItem]
"""The position of a crop in the report of its import, and the crop."""


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
        count: number of crops.
        read_items: yields the crops from one on, counted from 0, and raises `InputProblem` at one
            that has changed since and cannot be used.
        ignored: files and columns that are not part of the import.
        left_out: files that could not be unpacked.
        vectors: vectors of the items, if they come from a feature file or an export.
        export: the description of the export that this is; None if it is none.
        is_mounted: the folder is not the service's own.
    """

    folder: Path
    count: int
    read_items: Callable[[int], Iterator[ImportItem]]
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
    settings: Settings,
    job: Job,
    spool: Path,
    between: Callable[[], None],
    require_turn: Callable[[], None] = lambda: None,
) -> ImportContent:
    """Check the images and labels of an import, or its vectors; blocks.

    Once the job has progress they were checked, and are only counted.

    Args:
        between: called between the steps; see `make_check` in runner.py.
        require_turn: called between the entries of an archive that is unpacked; see
            `make_turn_check` in runner.py.

    Raises:
        Cancelled: the job was cancelled, or its gallery deleted.
        TurnOver: another call goes on with the unpacking where this one has ended.
        ServiceStopping: the process stops.
        InputProblem: the import cannot be used.
    """
    ignored = Ignored()
    is_checked = bool(job.progress)
    if (mounted := job.parameters.get("folder")) is not None:
        folder = mounted_folder(settings.import_dir, mounted, job.parameters.get("gallery"))
        content = _read_folder(folder, folder, job.parameters, is_checked, ignored, between)
        return replace(content, is_mounted=True)
    folder = (spool / "files").resolve()
    archive = spool / "archive"
    if not (archive.exists() or folder.exists()):
        raise InvalidField("archive: the file that was sent is gone; send it again")
    if archive.is_file() and is_feature_file(archive):
        return _read_vectors(settings.max_body_bytes, archive, folder, job.parameters, between)
    left_out: list[LeftOut] = []
    if not is_checked:
        left_out = _unpack(settings, spool, folder, ignored, between, require_turn)
    root = packed_root(folder)
    content = _read_folder(folder, root, job.parameters, is_checked, ignored, between)
    return replace(content, left_out=left_out)


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
    return ImportContent(
        folder, len(items), lambda first: iter(items[first:]), Ignored(), vectors=vectors
    )


def _unpack(
    settings: Settings,
    spool: Path,
    folder: Path,
    ignored: Ignored,
    between: Callable[[], None],
    require_turn: Callable[[], None],
) -> list[LeftOut]:
    progress = _read_progress(spool)
    # An attempt that was broken off may have left a part of an entry.
    if progress is None and folder.exists():
        data_directory.remove_folder(folder)
    progress = progress or UnpackProgress()
    limits = UnpackLimits(settings.max_import_bytes, settings.max_image_bytes)

    def before_entry() -> None:
        between()
        require_turn()

    def amid() -> None:
        between()
        data_directory.require_free_disk(settings)

    archive = spool / "archive"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        left_out = unpack_crops(archive, folder, limits, ignored, before_entry, amid, progress)
        # Once progress is saved, the folder must be complete even after a power cut.
        data_directory.sync_disk(folder)
    except TurnOver:
        # The same holds for the entries that the next turn leaves out.
        data_directory.sync_disk(folder)
        (spool / PROGRESS_FILE).write_bytes(PROGRESS.dump_json(progress))
        raise
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


def _read_progress(spool: Path) -> UnpackProgress | None:
    """Return how far an archive was unpacked when its turn was over, once; None if it was not."""
    file = spool / PROGRESS_FILE
    try:
        progress = PROGRESS.validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    file.unlink()
    data_directory.sync(spool)
    return progress


def _read_folder(
    folder: Path,
    root: Path,
    parameters: Mapping[str, Any],
    is_checked: bool,
    ignored: Ignored,
    between: Callable[[], None],
) -> ImportContent:
    export = read_description(folder, root)
    manifest = locate_manifest(folder, root, parameters.get("manifest"), export is not None)
    crops = CropFolder(
        folder, manifest, root=root, within=folder, between=between, is_export=export is not None
    )
    given = {label: parameters[label] for label in ("identity", "camera") if parameters.get(label)}

    def parse(files: Iterator[CropFile], first: int) -> Iterator[ImportItem]:
        now = datetime.now(UTC)
        for row, file in enumerate(files, first):
            yield _parse_item(file, row, given, now, export is not None)

    count = crops.count() if is_checked else _check(parse(crops.check(ignored), 0))
    vectors = None
    if export is not None:
        read = open_vectors(folder, root, count)
        if not is_checked:
            check_vectors(read, count, between)
        vectors = ImportVectors(export.embedding_fingerprint, read)
    return ImportContent(
        folder,
        count,
        lambda first: parse(crops.crops(first), first),
        ignored,
        vectors=vectors,
        export=export,
    )


def _parse_item(
    file: CropFile, row: int, given: Mapping[str, Any], now: datetime, is_export: bool
) -> ImportItem:
    for label in given:
        if getattr(file, label):
            raise InvalidField(f"{label}: the manifest or the folders give it; leave it out")
    where = f"manifest: line {file.line}" if file.line else "folder: the name of one"
    labels = replace(parse_labels({n: getattr(file, n) for n in LABELS}, where), **given)
    if not is_export:
        return ImportItem(file.path, labels)
    exported = parse_exported(file, where, now)
    path = None if file.path.is_dir() else file.path
    return ImportItem(path, labels, row, exported=exported)


def _check(items: Iterator[ImportItem]) -> int:
    """Return the number of items; raise `InvalidField` if a crop of an export is there twice."""
    count = 0
    crop_ids = HashSet()
    for item in items:
        count += 1
        if item.exported is not None and not crop_ids.add(item.exported.crop_id):
            raise InvalidField(
                f"manifest: crop {item.exported.crop_id} is there twice; keep one of the two lines"
            )
    return count


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


def read_batches(
    items: Iterator[NumberedItem], most_images: int, count: int
) -> list[list[NumberedItem]]:
    """Read the next items as at most `count` batches; blocks."""
    read = (_read_batch(items, most_images) for _ in range(count))
    return [batch for batch in read if batch]


def _read_batch(items: Iterator[NumberedItem], most_images: int) -> list[NumberedItem]:
    batch: list[NumberedItem] = []
    images = 0
    image_bytes = 0
    for position, item in items:
        batch.append((position, item))
        if item.path is not None:
            images += 1
            image_bytes += _measure(item.path)
        is_full = images == most_images or image_bytes >= BYTES_PER_BATCH
        if is_full or len(batch) == VECTORS_PER_BATCH:
            break
    return batch


def _measure(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        # Reading the file says why it cannot be used.
        return 0
