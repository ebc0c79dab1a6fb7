"""Sources of images to send: an image, a folder, a CSV manifest, or KIND:PATH."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from model.crops.manifest import read_manifest
from model.crops.names import is_image_name
from model.problems import InputProblem


@dataclass(frozen=True)
class SourceCrop:
    """One image to send, not read yet.

    Attributes:
        name: for messages.
        read: returns the file's bytes; raises `InputProblem` or `OSError` where it cannot.
        identity, camera, captured_at: its labels; None where the source has none.
        split: `train`, `query` or `gallery`; None where the source has no splits.
    """

    name: str
    read: Callable[[], bytes]
    identity: str | None = None
    camera: str | None = None
    captured_at: datetime | None = None
    split: str | None = None


def read_crop(crop: SourceCrop) -> bytes | str:
    """The file's bytes, or as text the reason why it cannot be read."""
    try:
        return crop.read()
    except InputProblem as problem:
        return str(problem)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


@dataclass(frozen=True)
class Source:
    """The images that a SOURCE on the command line names.

    Attributes:
        crops: its images, in a stable order.
        labelled: whether it names people and cameras, as a manifest does; images and folders do
            not.
        passed_by: number of other files, whose names are no image's.
    """

    crops: tuple[SourceCrop, ...]
    labelled: bool
    passed_by: int = 0

    def chosen(self, split: str | None, camera: str | None, identity: str | None = None) -> Source:
        """The crops of a split and a camera; a source without labels gets camera and identity.

        Raises:
            InputProblem: where no crop is left, or the source names people itself.
        """
        crops = self._only("split", split, self.crops)
        if self.labelled:
            crops = self._only("camera", camera, crops)
        elif camera is not None:
            crops = tuple(replace(crop, camera=camera) for crop in crops)
        if identity is not None:
            if self.labelled or any(crop.identity for crop in crops):
                raise InputProblem(
                    f"--identity {identity}: the source names the people itself; leave it out, or "
                    "name the folder of one person"
                )
            crops = tuple(replace(crop, identity=identity) for crop in crops)
        return replace(self, crops=crops)

    @staticmethod
    def _only(
        label: str, value: str | None, crops: tuple[SourceCrop, ...]
    ) -> tuple[SourceCrop, ...]:
        found = tuple(crop for crop in crops if value in (None, getattr(crop, label)))
        if crops and not found:
            known = sorted({str(getattr(crop, label) or "unknown") for crop in crops})
            raise InputProblem(
                f"--{label} {value}: the source has no image with this {label}; it has "
                f"{', '.join(known[:20])}"
            )
        return found


def find_source(name: str, read_spec: Callable[[str], Iterable[SourceCrop]]) -> Source:
    """Finds the images of a SOURCE.

    Args:
        name: an image, a folder of images, a folder with a sub-folder of images for each person, a
            CSV manifest, or `KIND:PATH`.
        read_spec: reads the last.

    Raises:
        InputProblem: if it is none of them, cannot be read, or holds no image.
    """
    path = Path(name)
    if path.is_dir():
        return _folder(path)
    if path.is_file() and is_image_name(path.name):
        return Source((SourceCrop(path.name, path.read_bytes),), labelled=False)
    if path.is_file() or ":" not in name:
        rows = (
            (row.path, (row.identity, row.camera, row.captured_at, row.split))
            for row in read_manifest(path)
        )
        crops = (SourceCrop(str(file), file.read_bytes, *labels) for file, labels in rows)
        return Source(tuple(crops), labelled=True)
    return Source(tuple(read_spec(name)), labelled=True)


def _folder(folder: Path) -> Source:
    """The images of a folder, or if it has none, of its sub-folders, each named after a person."""
    try:
        inside = sorted(folder.iterdir())
        files = [path for path in inside if path.is_file()]
        found = [
            SourceCrop(path.name, path.read_bytes) for path in files if is_image_name(path.name)
        ]
        if not found:
            people = [one for one in inside if one.is_dir() and one.name[0] != "."]
            theirs = [path for one in people for path in sorted(one.iterdir()) if path.is_file()]
            files += theirs
            found = [
                SourceCrop(f"{path.parent.name}/{path.name}", path.read_bytes, path.parent.name)
                for path in theirs
                if is_image_name(path.name)
            ]
    except OSError as error:
        raise InputProblem(f"{error.filename}: cannot be read ({error.strerror})") from error
    if not found:
        raise InputProblem(
            f"{folder}: holds no image, neither directly nor in sub-folders named after people; "
            "name the folder that holds the images"
        )
    return Source(tuple(found), labelled=False, passed_by=len(files) - len(found))
