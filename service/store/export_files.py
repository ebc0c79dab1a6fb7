"""Reading of exports that were sent: everything is checked before the first crop is stored.

Files are looked up in the zip by the names in `crops.jsonl` and read into memory. Nothing is
unpacked, so no name is a path on this machine, and no link is followed.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
from pydantic import ValidationError
from pydantic_core import to_json

from model.crops.unpack import DAMAGE, METHODS, BoundedReads
from model.problems import InputProblem, is_of_the_machine
from service.engine.images import find_content_type
from service.errors import InvalidField
from service.gallery.clocks import is_in_future
from service.jobs.import_files import parse_labels
from service.ops.data_directory import MEBIBYTE
from service.record.values import LABELS, ArchivedCrop, CropLabels, StoredCrop, labels_of
from service.record.vectors import Vector
from service.store.export_rows import (
    CROPS,
    DESCRIPTION,
    MOST_CROPS,
    VECTORS,
    ExportDescription,
    ExportedCrop,
    ExportedPicture,
    FileSum,
)
from service.wording import describe_invalid

# The list of a zip file takes about 90 bytes for each picture.
MAX_LIST_BYTES = 128 * MEBIBYTE
MAX_DESCRIPTION_BYTES = 64 * 1024
# Metadata of 16 KiB, each byte of which may be escaped, and other labels.
MAX_LINE_BYTES = 256 * 1024
# A check of an export has parts, after which the imports of other keys may have their turn.
CROPS_OF_A_PART = 1000
BYTES_OF_A_PART = 32 * MEBIBYTE
Check = Callable[[], object]


@dataclass(frozen=True)
class SentCrop:
    """A crop of an export.

    Attributes:
        crop: the crop with its vector, without its picture.
        picture: where its picture lies; None if it has none.
    """

    crop: ArchivedCrop
    picture: ExportedPicture | None


class SentExport:
    """An export in a zip file.

    Attributes:
        description: the content of `export.json`.
    """

    def __init__(self, archive: Path) -> None:
        """Open an export; raises `InvalidField`, as the methods do if it is damaged."""
        with ExitStack() as held, _naming_damage():
            file = held.enter_context(BoundedReads(io.FileIO(archive), MAX_LIST_BYTES))
            self._packed = held.enter_context(zipfile.ZipFile(file))
            self._root = self._find_root()
            self.description = self._read_description()
            self._held = held.pop_all()

    def close(self) -> None:
        self._held.close()

    def _find_root(self) -> str:
        root = find_root(self._packed.namelist())
        if root is None:
            raise InvalidField(
                f"archive: has {DESCRIPTION} or {CROPS} without the other, so it is no whole "
                "export; download it again"
            )
        return root

    def _read_description(self) -> ExportDescription:
        body = self._read(DESCRIPTION, MAX_DESCRIPTION_BYTES)
        try:
            return ExportDescription.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise InvalidField(
                f"archive: {DESCRIPTION}: {place}: {describe_invalid(first)}; send an export of "
                "this version, as it was downloaded"
            ) from error

    def check(
        self, max_bytes: int, max_picture_bytes: int, checked: int | None, between: Check
    ) -> Iterator[int]:
        """Check sizes, counts and checksums of all files, and the labels of all crops, in parts.

        Args:
            max_bytes: limit on the content of all files together.
            max_picture_bytes: limit on one picture.
            checked: the number that was yielded last when an earlier check of this export was
                interrupted; None begins with the first part.
            between: called between the steps.

        Yields:
            The number of crops that are checked, after each part.

        Raises:
            InvalidField: names the first difference.
        """
        with _naming_damage():
            yield from self._check(max_bytes, max_picture_bytes, checked, between)

    def _check(
        self, max_bytes: int, max_picture_bytes: int, checked: int | None, between: Check
    ) -> Iterator[int]:
        if checked is None:
            self._check_size(max_bytes)
            self._check_files(between)
            checked = 0
            yield checked
        yield from self._check_crops(checked, max_picture_bytes, between)

    def _check_size(self, max_bytes: int) -> None:
        # The library reads no more of a file than the list says.
        size = sum(entry.file_size for entry in self._packed.infolist())
        if size > max_bytes:
            raise InvalidField(
                f"archive: unpacks to {size:,} bytes, over the limit of {max_bytes:,}; raise "
                "GMN_MAX_IMPORT_BYTES if it was exported like that"
            )

    def _check_files(self, between: Check) -> None:
        for name in (CROPS, VECTORS):
            if name not in self.description.files:
                raise InvalidField(f"archive: {DESCRIPTION}: files: says nothing of {name}")
            self._check_sum(name, self.description.files[name], between)
        for vectors in self._read_vectors():
            between()
            if not np.isfinite(vectors).all():
                raise InvalidField(f"archive: {VECTORS}: has numbers that are not finite")

    def _check_crops(self, checked: int, max_picture_bytes: int, between: Check) -> Iterator[int]:
        crop_ids: set[str] = set()
        unread = set(self._packed.namelist())
        pictures = 0
        bytes_read = 0
        number = 0
        for number, crop in enumerate(self._read_crops(), 1):
            between()
            if number > MOST_CROPS:
                raise InvalidField(f"archive: {CROPS}: has more than {MOST_CROPS:,} lines")
            crop_ids.add(crop.crop_id)
            if len(crop_ids) != number:
                raise InvalidField(f"archive: {CROPS}: line {number} repeats an earlier crop")
            if crop.picture is not None:
                pictures += 1
                self._take_picture(crop.picture, number, unread)
            if number <= checked:
                continue
            _check_crop(crop, number)
            if crop.picture is not None:
                self._check_picture(crop.picture, number, max_picture_bytes)
                bytes_read += crop.picture.bytes
            if bytes_read >= BYTES_OF_A_PART or number - checked >= CROPS_OF_A_PART:
                checked = number
                bytes_read = 0
                yield checked
        for name, counted, said in (
            ("crops", number, self.description.crops),
            ("pictures", pictures, self.description.pictures),
        ):
            if counted != said:
                raise InvalidField(
                    f"archive: {CROPS}: has {counted:,} {name}, and {DESCRIPTION} says {said:,}; "
                    "download the export again"
                )
        yield number

    def crops(self, first: int) -> Iterator[SentCrop]:
        """Yield the crops with their vectors from the number `first` on, in order."""
        with _naming_damage():
            rows = itertools.chain.from_iterable(self._read_vectors())
            both = zip(self._read_crops(), rows, strict=True)
            for crop, vector in itertools.islice(both, first, None):
                yield SentCrop(ArchivedCrop(_as_stored(crop), vector), crop.picture)

    def read_pictures(self, crops: Sequence[SentCrop]) -> list[ArchivedCrop]:
        """Return crops with their pictures."""
        with _naming_damage():
            return [
                replace(sent.crop, picture=self._read(sent.picture.file, sent.picture.bytes))
                if sent.picture is not None
                else sent.crop
                for sent in crops
            ]

    def _read_crops(self) -> Iterator[ExportedCrop]:
        with self._open(CROPS) as file:
            for number in itertools.count(1):
                line = file.readline(MAX_LINE_BYTES + 1)
                if not line:
                    return
                if len(line) > MAX_LINE_BYTES:
                    raise InvalidField(f"archive: {CROPS}: line {number} is too long")
                try:
                    yield ExportedCrop.model_validate_json(line)
                except ValidationError as error:
                    # Name the place, not the value: others can read why a job failed.
                    place = ".".join(str(part) for part in error.errors()[0]["loc"])
                    raise InvalidField(
                        f"archive: {CROPS}: line {number} is no crop of an export "
                        f"({place or 'JSON'})"
                    ) from error

    def _read_vectors(self) -> Iterator[Vector]:
        """Yield the vectors in parts `(n, d)`."""
        crops = self.description.crops
        dimension = self.description.dimension
        with self._open(VECTORS) as file:
            if np.lib.format.read_magic(file) != (1, 0):  # type: ignore[no-untyped-call]
                raise InvalidField(f"archive: {VECTORS}: is no array of an export")
            header = np.lib.format.read_array_header_1_0(file)  # type: ignore[no-untyped-call]
            if header != ((crops, dimension), False, np.dtype("<f4")):
                raise InvalidField(
                    f"archive: {VECTORS}: is not {crops:,} × {dimension:,} numbers of float32"
                )
            vector_bytes = max(1, 4 * dimension)
            vectors_at_once = max(1, MEBIBYTE // vector_bytes)
            for first in range(0, crops, vectors_at_once):
                count = min(vectors_at_once, crops - first)
                body = file.read(count * vector_bytes)
                yield np.frombuffer(body, "<f4").reshape(count, dimension)

    def _take_picture(self, picture: ExportedPicture, number: int, unread: set[str]) -> None:
        """Take the file of a picture from those that no line has named yet."""
        name = self._root + picture.file
        if name in unread:
            unread.remove(name)
        elif name in self._packed.NameToInfo:
            # A small file that every line names would be read a million times.
            raise InvalidField(
                f"archive: {CROPS}: line {number} names the picture of an earlier line; an export "
                "has a file for each picture, so make it again"
            )

    def _check_picture(self, picture: ExportedPicture, number: int, max_bytes: int) -> None:
        where = f"archive: {CROPS}: the picture of line {number}"
        if picture.bytes > max_bytes:
            raise InvalidField(f"{where} has over {max_bytes:,} bytes")
        content = self._read(picture.file, picture.bytes)
        if hashlib.sha256(content).hexdigest() != picture.sha256:
            raise InvalidField(f"{where} is another one than was exported")
        if find_content_type(content) != picture.content_type:
            raise InvalidField(f"{where} is not {picture.content_type}")

    def _check_sum(self, name: str, said: FileSum, between: Check) -> None:
        digest = hashlib.sha256()
        size = 0
        with self._open(name) as file:
            while part := file.read(MEBIBYTE):
                between()
                digest.update(part)
                size += len(part)
                if size > said.bytes:
                    break
        if size != said.bytes or digest.hexdigest() != said.sha256:
            raise InvalidField(
                f"archive: {name}: is not the file that was exported; download the export again"
            )

    def _read(self, name: str, most: int) -> bytes:
        with self._open(name) as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise InvalidField(f"archive: {name}: has over {most:,} bytes")
        return content

    def _open(self, name: str) -> IO[bytes]:
        try:
            entry = self._packed.getinfo(self._root + name)
        except KeyError as error:
            raise InvalidField(
                f"archive: {name[:80]}: is missing from the export; download it again"
            ) from error
        if entry.compress_type not in METHODS:
            raise InvalidField(
                f"archive: {name[:80]}: is packed by method {entry.compress_type}; pack it stored "
                "or deflated"
            )
        return self._packed.open(entry)


@contextmanager
def _naming_damage() -> Iterator[None]:
    """Raise `InvalidField` for the many kinds of errors that a damaged zip file causes."""
    try:
        yield
    except DAMAGE as error:
        if is_of_the_machine(error) or isinstance(error, InputProblem):
            raise
        raise InvalidField(
            f"archive: the export is damaged ({type(error).__name__}); download it again"
        ) from error


def is_export(archive: Path) -> bool:
    """Return whether a file is an export, whole or not."""
    try:
        with (
            BoundedReads(io.FileIO(archive), MAX_LIST_BYTES) as file,
            zipfile.ZipFile(file) as packed,
        ):
            names = packed.namelist()
    except DAMAGE as error:
        if is_of_the_machine(error):
            raise
        return False
    # With capitals it is a spoilt export, and no archive of pictures without names.
    return any(name.rpartition("/")[2].lower() == CROPS for name in names)


def find_root(names: Sequence[str]) -> str | None:
    """Return the folder of an export in a zip file, which may have been packed again."""
    known = set(names)
    for name in names:
        root, slash, last = name.rpartition("/")
        if last == DESCRIPTION and root + slash + CROPS in known:
            return root + slash
    return None


def _check_crop(crop: ExportedCrop, number: int) -> None:
    """Raise `InvalidField` if an enrollment would refuse the labels of a crop."""
    where = f"archive: {CROPS}: line {number}"
    now = datetime.now(UTC)
    for name in ("captured_at", "created_at"):
        moment = getattr(crop, name)
        if moment is not None and is_in_future(moment, now):
            # By retention, such a crop would be kept for too long.
            raise InvalidField(f"{where}: {name} is in the future; set the clocks right")
    _parse_labels(crop, where)


def _parse_labels(crop: ExportedCrop, where: str = "archive") -> CropLabels:
    labels: dict[str, Any] = {name: getattr(crop, name) for name in LABELS}
    if crop.metadata is not None:
        labels["metadata"] = to_json(crop.metadata).decode()
    return parse_labels(labels, where)


def _as_stored(crop: ExportedCrop) -> StoredCrop:
    return StoredCrop(
        slot=0,
        crop_id=crop.crop_id,
        **labels_of(_parse_labels(crop)),
        sha256=crop.sha256,
        quality=crop.quality,
        created_at=crop.created_at,
        content_type=crop.picture.content_type if crop.picture else None,
        image_bytes=crop.picture.bytes if crop.picture else 0,
    )
