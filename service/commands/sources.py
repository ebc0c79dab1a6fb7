"""Sources of images to send: an image, a folder, a CSV manifest, or KIND:PATH."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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
        source = self if split is None else self._only("split", split)
        if camera is not None:
            source = (
                source._only("camera", camera) if self.labelled else source._with("camera", camera)
            )
        if identity is None:
            return source
        if self.labelled or any(crop.identity for crop in self.crops):
            raise InputProblem(
                f"--identity {identity}: the source names the people itself; leave it out, or name "
                "the folder of one person"
            )
        return source._with("identity", identity)

    def _with(self, label: str, value: str) -> Source:
        crops = tuple(replace(crop, **{label: value}) for crop in self.crops)  # type: ignore[arg-type]
        return replace(self, crops=crops)

    def _only(self, label: str, value: str) -> Source:
        crops = tuple(crop for crop in self.crops if getattr(crop, label) == value)
        if not crops:
            known = sorted({str(getattr(crop, label) or "unknown") for crop in self.crops})
            raise InputProblem(
                f"--{label} {value}: the source has no image with this {label}; it has "
                f"{', '.join(known[:20])}"
            )
        return replace(self, crops=crops)


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
        return Source(tuple(_manifest(path)), labelled=True)
    return Source(tuple(read_spec(name)), labelled=True)


def _manifest(path: Path) -> Iterator[SourceCrop]:
    for row in read_manifest(path):
        labels = (row.identity, row.camera, row.captured_at, row.split)
        yield SourceCrop(str(row.path), row.path.read_bytes, *labels)


def _folder(folder: Path) -> Source:
    """The images of a folder, or if it has none, of its sub-folders, each named after a person."""
    files = _files(folder)
    found = [SourceCrop(path.name, path.read_bytes) for path in files if is_image_name(path.name)]
    if not found:
        people = sorted(one for one in folder.iterdir() if one.is_dir() and one.name[0] != ".")
        named = [(person.name, path) for person in people for path in _files(person)]
        files += [path for _, path in named]
        found = [
            SourceCrop(f"{person}/{path.name}", path.read_bytes, identity=person)
            for person, path in named
            if is_image_name(path.name)
        ]
    if not found:
        raise InputProblem(
            f"{folder}: holds no image, neither directly nor in sub-folders named after people; "
            "name the folder that holds the images"
        )
    return Source(tuple(found), labelled=False, passed_by=len(files) - len(found))


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise InputProblem(f"{folder}: cannot be read ({error.strerror})") from error
