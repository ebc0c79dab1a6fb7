"""What an image can be given as: a path, bytes, an open file, a PIL image, or `Image`."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from model.problems import InputProblem

UNNAMED = "image"
# Modes of PIL images that a PNG can hold and the service reads.
PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA"})
KINDS = (
    "give a path, the bytes of an image file, a file opened with open(path, 'rb'), a PIL image, or "
    "service.client.Image; for an array PIL.Image.fromarray(array)"
)


@runtime_checkable
class BinaryFile(Protocol):
    """A file that was opened for reading bytes."""

    def read(self) -> bytes:
        """All that is left of it."""


@runtime_checkable
class PilImage(Protocol):
    """An image of Pillow, which the client itself does not need."""

    mode: str

    def convert(self, mode: str) -> PilImage:
        """The image in another mode."""

    def save(self, file: io.BytesIO, format: str, **options: Any) -> None:
        """Encodes the image."""

    def getexif(self) -> Any:
        """Its EXIF data, which may say how it is turned."""


ImageData = bytes | str | Path | BinaryFile | PilImage


@dataclass(frozen=True)
class Image:
    """One image to enrol and what is known of it.

    Attributes:
        data: a path, the bytes of an image file, a file opened in binary mode, or a PIL image.
        name: what a message calls it; a file's own name where None is given.
        identity, camera: who and where; None where unknown.
        captured_at: when, with time zone; None where unknown.
        external_id: your own id of it; None where it has none.
        metadata: what else to keep with it, as JSON holds it.
    """

    data: ImageData
    name: str | None = None
    identity: str | None = None
    camera: str | None = None
    captured_at: datetime | None = None
    external_id: str | None = None
    metadata: Mapping[str, Any] | None = None


ImageSource = ImageData | Image


def images_of(sources: Iterable[ImageSource]) -> list[Image]:
    """What a call was given for `images`, one `Image` each.

    Raises:
        TypeError: where it was given a single image, or what is no image.
    """
    if isinstance(sources, str | bytes | Path | Image) or not isinstance(sources, Iterable):
        raise TypeError(
            f"images: is one {type(sources).__name__}, and several are expected; give a list, as "
            "in enroll([image])"
        )
    return [one if isinstance(one, Image) else Image(one) for one in sources]


def named_bytes(source: ImageSource) -> tuple[str, bytes]:
    """Name and content of an image file, read or encoded where it is not there yet.

    Raises:
        TypeError: for what is no image.
        InputProblem: for a file that cannot be read.
    """
    if isinstance(source, Image):
        name, content = named_bytes(source.data)
        return source.name or name, content
    if isinstance(source, bytes | bytearray | memoryview):
        return UNNAMED, bytes(source)
    if isinstance(source, str | Path):
        path = Path(source)
        try:
            return path.name, path.read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputProblem(f"{path}: cannot be read ({reason}); name an image file") from error
    if isinstance(source, PilImage):
        return _name_of(source, "filename"), _encoded(source)
    if isinstance(source, BinaryFile):
        read = source.read()
        if isinstance(read, bytes):
            return _name_of(source, "name"), read
        raise TypeError(f"an open file reads {type(read).__name__}, not bytes; {KINDS}")
    raise TypeError(f"{type(source).__name__} is no image; {KINDS}")


def _encoded(image: PilImage) -> bytes:
    writable = image if image.mode in PNG_MODES else image.convert("RGB")
    content = io.BytesIO()
    # With its EXIF data, so that the service turns it as it would have turned the file.
    writable.save(content, format="PNG", exif=image.getexif())
    return content.getvalue()


def _name_of(source: object, attribute: str) -> str:
    name = getattr(source, attribute, None)
    return Path(name).name or UNNAMED if isinstance(name, str) else UNNAMED
