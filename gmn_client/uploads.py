"""The content of requests: images in all accepted forms, archives and form fields."""

from __future__ import annotations

import functools
import io
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import quote
from uuid import uuid4

from typing_extensions import TypedDict

from gmn_client.errors import InvalidInput
from gmn_client.models import BoxOfPerson, RetentionFrom

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage
else:
    # Pillow is only needed for PIL images.
    PilImage = Any

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_GALLERY = "default"
UNNAMED = "image"
# Limit on the characters of an Idempotency-Key.
LONGEST_KEY = 255
PRINTABLE = re.compile(r"[!-~]+")
# Modes of PIL images that PNG supports and the service reads.
PNG_MODES = frozenset({"1", "I;16", "I;16B", "L", "LA", "P", "RGB", "RGBA"})
ACCEPTED = (
    "give a path, the bytes of an image file, a file opened with open(path, 'rb'), a PIL image, or "
    "gmn_client.Image; for an array PIL.Image.fromarray(array)"
)

ImageData: TypeAlias = bytes | str | os.PathLike[str] | IO[bytes] | PilImage


@dataclass(frozen=True)
class Image:
    """An image to send, with its labels.

    A call that cannot use one of the labels raises `InvalidInput`, which names it.

    Attributes:
        data: a path, the content of an image file, a file opened in binary mode, or a PIL image.
        name: name of the image in messages; the name of the file if None.
        identity, camera: None if unknown.
        captured_at: with time zone; None if unknown.
        external_id: your own id of the crop, or None.
        metadata: any JSON object to store with it.
        track: the tracker's id of the track within the camera, or None.
    """

    data: ImageData
    name: str | None = None
    identity: str | None = None
    camera: str | None = None
    captured_at: datetime | None = None
    external_id: str | None = None
    metadata: Mapping[str, Any] | None = None
    track: str | None = None


ImageSource: TypeAlias = ImageData | Image
Images: TypeAlias = ImageSource | Iterable[ImageSource]
"""An image, or a list or an iterator of images."""

# Types of an image that could be iterated over.
ONE_IMAGE = (str, bytes, bytearray, memoryview, os.PathLike, Image)


class CropFields(TypedDict, total=False):
    """Labels of a crop to change; omitted ones stay, None means unknown.

    Attributes:
        captured_at: with time zone.
        external_id, metadata: your own id, and your own JSON object.
        track: the tracker's id of the track within the camera.
    """

    identity: str | None
    camera: str | None
    captured_at: datetime | str | None
    external_id: str | None
    metadata: Mapping[str, object] | None
    track: str | None


class ChangedFields(CropFields, total=False):
    """Fields of a crop to change; omitted ones stay, None means unknown.

    Attributes:
        set_aside: whether to keep the crop out of searches, groupings, thresholds and watch lists.
    """

    set_aside: bool


class LabelledBox(BoxOfPerson, CropFields):
    """A box with the labels of its crop."""


class PlacedBox(LabelledBox, total=False):
    """A box of a sighting, whose person may stay at the same place, or stand in a zone."""

    still: bool
    zone: str | None


SightedBox: TypeAlias = LabelledBox | PlacedBox


class CropsChosen(TypedDict, total=False):
    """Filter of crops that have to pass every given option; at least one is required.

    Attributes:
        unnamed: only crops without an identity.
        set_aside: only crops that are set aside, or only the others.
        captured_after, captured_before: limits of the time of capture, with time zone.
        dry_run: return the number of crops without changing any.
    """

    crop_ids: Sequence[str]
    identity: str
    unnamed: bool
    camera: str
    track: str
    external_id: str
    set_aside: bool
    captured_after: datetime
    captured_before: datetime
    dry_run: bool


class CropsChanges(CropsChosen, total=False):
    """Filter of crops, and their new labels; None means unknown."""

    new_identity: str | None
    new_camera: str | None
    new_metadata: Mapping[str, object] | None
    new_track: str | None


class GalleryOptions(TypedDict, total=False):
    """Settings of a gallery; omitted ones stay as they are.

    Attributes:
        retention_days: older crops are deleted; 0 keeps all.
        retention_hours: the same in hours, in place of days.
        retention_from: whether a crop's age counts from its capture (if known), or always from its
            enrollment.
        calibration: whether thresholds are fitted to the gallery's named crops or searches (`on`),
            stay as they are (`frozen`), or are the artefact's (`off`); `reset` drops the fit and
            the searches and fits again.
        time_evidence: whether results also follow how long people take between the cameras.
        centring: whether searches may subtract what the vectors of a camera have in common
            (`auto`), or never do (`off`).
    """

    retention_days: int
    retention_hours: int
    retention_from: RetentionFrom
    calibration: Literal["on", "frozen", "off", "reset"]
    time_evidence: bool
    centring: Literal["auto", "off"]


class ImportOptions(TypedDict, total=False):
    """Labels of an import's images.

    Attributes:
        identity, camera: labels of every image, where no manifest names them.
        manifest: the CSV file with labels in the archive or folder; `manifest.csv` unless named.
        keep_best: number of crops that each track keeps, 1 to 32.
        accept_undeleted: import an export that is older than the known deletions.
    """

    identity: str | None
    camera: str | None
    manifest: str | None
    keep_best: int | None
    accept_undeleted: bool


def path_to(*segments: str) -> str:
    """Return the path of a resource from its segments, which may contain any character.

    Raises:
        InvalidInput: a segment is empty, `.` or `..`, which would lead to another resource.
    """
    for segment in segments:
        if segment in ("", ".", ".."):
            raise InvalidInput(
                f"{'/'.join(segments)}: {segment!r} can stand in no address; give the whole name "
                "or id"
            )
    return "/".join(["/v1", *(quote(segment, safe="") for segment in segments)])


def form_fields(values: Mapping[str, object]) -> dict[str, Any]:
    """Return the fields that have a value, for httpx2; several values repeat the field."""
    return {name: _encode_field(name, value) for name, value in values.items() if value is not None}


def whole_fields(values: Mapping[str, object]) -> dict[str, object]:
    """Return the fields, with empty text for None and empty lists instead of omitting them."""
    sent = {name: _encode_field(name, value) for name, value in values.items()}
    return {name: "" if value in (None, []) else value for name, value in sent.items()}


def _time_text(name: str, moment: datetime) -> str:
    offset = moment.utcoffset()
    if offset is None:
        raise InvalidInput(
            f"{name}: {moment} has no time zone; give it one, such as timezone.utc, or by "
            "astimezone() that of this machine"
        )
    # RFC 3339 has no seconds in an offset, which local mean times have.
    if offset % timedelta(minutes=1):
        moment = moment.astimezone(timezone.utc)
    return moment.isoformat()


def _encode_field(name: str, value: object) -> object:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, datetime):
        return _time_text(name, value)
    if isinstance(value, Mapping):
        encode = functools.partial(_encode_in_json, name)
        try:
            return json.dumps(dict(value), allow_nan=False, default=encode)
        except InvalidInput:
            raise
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"{name}: is not what JSON can hold ({error})") from error
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [_encode_field(name, item) for item in value]
    return str(value)


def _encode_in_json(name: str, value: object) -> str:
    if isinstance(value, datetime):
        return _time_text(name, value)
    raise TypeError(f"{value!r:.40} is a {type(value).__name__}; give plain numbers and texts")


def vector_text(vector: Sequence[float] | str) -> str:
    """Return a vector as a form field: its numbers as JSON, or base64 as it is."""
    return vector if isinstance(vector, str) else json.dumps([float(value) for value in vector])


def enrollment_fields(images: Sequence[Image]) -> dict[str, list[object]]:
    """Return the labels of images: a field per label that any image has, repeated per image."""
    names = CropFields.__annotations__
    labels = {name: [getattr(image, name) for image in images] for name in names}
    return {name: values for name, values in labels.items() if values != [None] * len(values)}


def label_fields(
    call: str,
    sources: Sequence[ImageSource],
    usable: Collection[str] = (),
    options: Mapping[str, object] | None = None,
) -> dict[str, list[object]]:
    """Return the labels of a call's images: a field per label, with a value per image.

    Args:
        call: name of the method, for messages.
        usable: labels that the call can send.
        options: form fields of the call, for images without a label of their own.

    Raises:
        InvalidInput: an image has another label.
    """
    images = [source if isinstance(source, Image) else Image(source) for source in sources]
    labels = enrollment_fields(images)
    useless = [name for name in labels if name not in usable]
    if useless:
        raise InvalidInput(
            f"{', '.join(useless)}: {call} cannot use this label of an Image; leave it out, or see "
            f"the options of {call}"
        )
    for name, values in labels.items():
        default = (options or {}).get(name)
        labels[name] = [default if value is None else value for value in values]
    return labels


def idempotency_header(key: str | None) -> dict[str, str]:
    """Return the Idempotency-Key header; raises `InvalidInput` if it has invalid characters.

    None stands for a random key.
    """
    if key is None:
        key = uuid4().hex
    if not (PRINTABLE.fullmatch(key) and len(key) <= LONGEST_KEY):
        raise InvalidInput(
            f"idempotency_key: {key[:40]!r} can be none; give 1 to {LONGEST_KEY} printable ASCII "
            "characters without a space"
        )
    return {"Idempotency-Key": key}


def key_header(api_key: str | None) -> dict[str, str]:
    """Return the header of every request.

    Raises:
        InvalidInput: the key has invalid characters; the message does not repeat it.
    """
    key = (api_key or "").strip()
    if key and not PRINTABLE.fullmatch(key):
        raise InvalidInput(
            "the API key holds a character that no key has, such as a space or the end of a line; "
            "give the whole key and nothing else (gmn reads GMN_API_KEY, gmn camera also "
            "--api-key-file)"
        )
    return {"Authorization": f"Bearer {key}"} if key else {}


def each_image(sources: Iterable[Images]) -> Iterator[ImageSource]:
    """Yield the images that a call was given one by one, or in lists and iterators."""
    for source in sources:
        yield from _images_in(source)


def _images_in(source: Any) -> Iterable[ImageSource]:
    is_one = isinstance(source, ONE_IMAGE) or hasattr(source, "read")
    return [source] if is_one or not isinstance(source, Iterable) else source


def read_images(
    unread: Iterator[ImageSource], images: list[tuple[Image, int]], count: int
) -> list[tuple[Image, int]]:
    """Append the next images with their sizes in bytes, reading files, up to `count` in all."""
    for source in islice(unread, max(0, count - len(images))):
        name, content = _read_file(source)
        image = source if isinstance(source, Image) else Image(source)
        images.append((replace(image, data=content, name=name), len(content)))
    return images


def image_files(sources: Sequence[ImageSource]) -> list[tuple[str, tuple[str, bytes]]]:
    """Return the form's files with their names, reading or encoding images as necessary.

    Raises:
        InvalidInput: an object is not an image, or a file cannot be read.
    """
    read = [_read_file(source) for source in sources]
    # Names of files may contain bytes that are not UTF-8.
    return [("images", (name.encode(errors="replace").decode(), data)) for name, data in read]


def open_archive(path: str | os.PathLike[str] | None) -> AbstractContextManager[IO[bytes] | None]:
    """Open a file to send, if there is one; raises `InvalidInput` if it cannot be read."""
    try:
        return nullcontext() if path is None else Path(path).open("rb")
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror}); name a zip file") from error


def _read_file(source: Any) -> tuple[str, bytes]:
    if isinstance(source, Image):
        name, content = _read_file(source.data)
        return source.name or name, content
    if isinstance(source, (bytes, bytearray, memoryview)):
        return UNNAMED, bytes(source)
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        try:
            return path.name, path.read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InvalidInput(f"{path}: cannot be read ({reason}); name an image file") from error
    if isinstance(source, io.TextIOBase):
        raise InvalidInput(f"a file that is opened as text is no image; {ACCEPTED}")
    if hasattr(source, "read"):
        read = source.read()
        if isinstance(read, bytes):
            return _find_name(source), read
        raise InvalidInput(f"an open file reads {type(read).__name__}, not bytes; {ACCEPTED}")
    if hasattr(source, "getexif"):
        # Converting to RGB would clip 16-bit grey instead of scaling it.
        mode = "I;16" if source.mode == "I" else "RGB"
        name = _find_name(source)
        encoded = io.BytesIO()
        try:
            writable = source if source.mode in PNG_MODES else source.convert(mode)
            # Keep EXIF data, so that the service rotates the image as it would rotate the file.
            writable.save(encoded, format="PNG", exif=source.getexif())
        except (OSError, ValueError) as error:
            raise InvalidInput(f"{name}: cannot be read ({error}); open another image") from error
        return name, encoded.getvalue()
    raise InvalidInput(f"{type(source).__name__} is no image; {ACCEPTED}")


def _find_name(source: object) -> str:
    # PIL images that were read from a file have a `filename`.
    name = getattr(source, "name", getattr(source, "filename", None))
    return (Path(name).name if isinstance(name, str) else "") or UNNAMED
