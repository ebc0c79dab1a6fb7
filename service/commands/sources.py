"""Sources of images to enroll: an image, a folder, a zip archive or a CSV manifest."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from model.crops.manifest import read_manifest
from model.crops.names import is_image_name
from model.problems import InputProblem

LARGEST_ENTRY = 64 * 1024 * 1024


@dataclass(frozen=True)
class SourceCrop:
    """One image to send, not read yet.

    Attributes:
        name: what a message calls it.
        read: returns the file's bytes; raises `InputProblem` or `OSError` where it cannot.
        identity, camera: who and where; None where the source does not say.
        captured_at: when; None where the source does not say.
        split: `train`, `query` or `gallery`; None where the source does not say.
    """

    name: str
    read: Callable[[], bytes]
    identity: str | None = None
    camera: str | None = None
    captured_at: datetime | None = None
    split: str | None = None


@dataclass(frozen=True)
class Source:
    """What a SOURCE on the command line names.

    Attributes:
        crops: its images, in a stable order.
        labelled: whether it names people and cameras, as a manifest does; images, folders and
            archives do not.
        passed_by: how many other files were left aside because their names are no image's.
    """

    crops: tuple[SourceCrop, ...]
    labelled: bool
    passed_by: int = 0

    def under(self, camera: str | None) -> Source:
        """The same under one camera: chosen where the source names cameras, else set."""
        if camera is None:
            return self
        if self.labelled:
            return self._chosen("camera", camera)
        crops = tuple(replace(crop, camera=camera) for crop in self.crops)
        return replace(self, crops=crops)

    def showing(self, identity: str | None) -> Source:
        """The same, all of one person.

        Raises:
            InputProblem: where the source names people itself.
        """
        if identity is None:
            return self
        if self.labelled or any(crop.identity for crop in self.crops):
            raise InputProblem(
                f"--identity {identity}: the source names the people itself; leave it out, or name "
                "the folder of one person"
            )
        crops = tuple(replace(crop, identity=identity) for crop in self.crops)
        return replace(self, crops=crops)

    def in_split(self, split: str | None) -> Source:
        """The crops of one split."""
        return self if split is None else self._chosen("split", split)

    def _chosen(self, name: str, value: str) -> Source:
        crops = tuple(crop for crop in self.crops if getattr(crop, name) == value)
        if not crops:
            known = sorted({str(getattr(crop, name) or "unknown") for crop in self.crops})
            raise InputProblem(
                f"--{name} {value}: the source has no image with this {name}; it has "
                f"{', '.join(known[:20])}"
            )
        return replace(self, crops=crops)


@contextmanager
def open_source(name: str, read_spec: Callable[[str], Iterable[SourceCrop]]) -> Iterator[Source]:
    """Finds the images that a SOURCE stands for.

    Args:
        name: an image, a folder of images, a folder with a sub-folder of images for each person, a
            zip archive, a CSV manifest, or `KIND:PATH`.
        read_spec: reads the last.

    Yields:
        The source; an archive is closed when the block ends.

    Raises:
        InputProblem: if it is none of them, cannot be read, or holds no image.
    """
    path = Path(name)
    if path.is_file() and is_image_name(path.name):
        yield Source((SourceCrop(path.name, path.read_bytes),), labelled=False)
    elif path.is_file() and path.suffix.lower() != ".csv":
        with _opened(path) as archive:
            yield _archive(path, archive)
    elif path.is_file():
        yield _manifest(path)
    elif path.is_dir():
        yield _folder(path)
    elif ":" in name:
        yield Source(tuple(read_spec(name)), labelled=True)
    else:
        raise InputProblem(
            f"{name}: no such file or folder; name an image, a folder of images, a zip archive, "
            "a CSV manifest, or KIND:PATH"
        )


def _folder(folder: Path) -> Source:
    """The images directly in a folder, or where there is none those of its sub-folders.

    Each sub-folder is one person, named after it.
    """
    files = _files(folder)
    images = [path for path in files if is_image_name(path.name)]
    if images:
        crops = tuple(SourceCrop(path.name, path.read_bytes) for path in images)
        return Source(crops, labelled=False, passed_by=len(files) - len(images))
    people = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    theirs = [(person.name, path) for person in people for path in _files(person)]
    crops = tuple(
        SourceCrop(f"{person}/{path.name}", path.read_bytes, identity=person)
        for person, path in theirs
        if is_image_name(path.name)
    )
    if not crops:
        raise InputProblem(
            f"{folder}: holds no image, neither directly nor in sub-folders named after people; "
            "name the folder that holds the images"
        )
    return Source(crops, labelled=False, passed_by=len(files) + len(theirs) - len(crops))


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise InputProblem(f"{folder}: cannot be read ({error.strerror})") from error


def _manifest(path: Path) -> Source:
    crops = tuple(
        SourceCrop(
            str(row.path),
            row.path.read_bytes,
            row.identity,
            row.camera,
            row.captured_at,
            row.split,
        )
        for row in read_manifest(path)
    )
    return Source(crops, labelled=True)


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputProblem(
            f"{path}: neither an image, a CSV manifest nor a readable zip archive ({error}); "
            "name an image or a folder of images"
        ) from error


def _archive(path: Path, archive: zipfile.ZipFile) -> Source:
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    images = [entry for entry in entries if is_image_name(entry.filename)]
    if not images:
        raise InputProblem(f"{path}: holds no image; put images into the archive")
    crops = tuple(
        SourceCrop(entry.filename, partial(_read_entry, archive, entry)) for entry in images
    )
    return Source(crops, labelled=False, passed_by=len(entries) - len(images))


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.file_size > LARGEST_ENTRY:
        raise InputProblem(f"unpacks to {entry.file_size:,} bytes; send the person's crop")
    try:
        with archive.open(entry) as file:
            return file.read(LARGEST_ENTRY)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputProblem(f"damaged in the archive ({error}); pack it again") from error
    except (RuntimeError, NotImplementedError) as error:
        raise InputProblem(f"{error}; pack it without password, deflated") from error
