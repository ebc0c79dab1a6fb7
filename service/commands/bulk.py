"""Sources of images, and bulk enrollment and queries with several requests in flight."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from gmn_client import Client, Image
from gmn_client.models import EnrolledImage, Problem, RefusedImage
from model.crops.folder import read_folder
from model.crops.manifest import find_manifest, read_manifest
from model.crops.names import Ignored, LeftOut, is_image_name
from model.crops.texts import nfc
from model.problems import InputProblem, legible
from service.commands.common import progress_bar

Sent = EnrolledImage | RefusedImage


@dataclass(frozen=True)
class SourceCrop:
    """An image to send, not read yet.

    Attributes:
        name: name of the image, for messages.
        read: returns the content of the file; raises `InputProblem` or `OSError` if it cannot.
        identity, camera, captured_at, external_id: labels; None if unknown.
        split: `train`, `query` or `gallery`; None if the source has no splits.
        metadata: a JSON object as text, or None.
        track: the tracker's id of the track, or None.
    """

    name: str
    read: Callable[[], bytes]
    identity: str | None = None
    camera: str | None = None
    captured_at: datetime | None = None
    split: str | None = None
    external_id: str | None = None
    metadata: str | None = None
    track: str | None = None


@dataclass(frozen=True)
class Source:
    """The images that a SOURCE on the command line names.

    Attributes:
        crops: the images, in a stable order.
        ignored: other files, which are not sent.
    """

    crops: Sequence[SourceCrop]
    ignored: Sequence[LeftOut] = ()

    def chosen(self, split: str | None, camera: str | None, identity: str | None = None) -> Source:
        """Return the crops of a split and camera, with labels added if the source has none.

        Raises:
            InputProblem: no crop is left, or the source already names people.
        """
        crops = _select("split", split, self.crops)
        if any(crop.camera for crop in crops):
            crops = _select("camera", camera, crops)
        elif camera is not None:
            crops = [replace(crop, camera=camera) for crop in crops]
        if identity is not None:
            if any(crop.identity for crop in crops):
                raise InputProblem(
                    f"--identity {identity}: the source names the people itself; leave it out, or "
                    "name the folder of one person"
                )
            crops = [replace(crop, identity=identity) for crop in crops]
        return replace(self, crops=crops)


def _select(label: str, value: str | None, crops: Sequence[SourceCrop]) -> Sequence[SourceCrop]:
    chosen = [crop for crop in crops if value is None or getattr(crop, label) == nfc(value)]
    if crops and not chosen:
        known = sorted({str(getattr(crop, label) or "unknown") for crop in crops})
        raise InputProblem(
            f"--{label} {legible(value)}: the source has no image with this {label}; it has "
            f"{', '.join(known[:20])}"
        )
    return chosen


def find_source(name: str, read_spec: Callable[[str], Source]) -> Source:
    """Find the images of a SOURCE.

    Args:
        name: an image, a CSV manifest, a folder (see `read_folder`), or `KIND:PATH`.
        read_spec: reads a `KIND:PATH`.

    Raises:
        InputProblem: it is none of these, cannot be read, or contains no image.
    """
    path = Path(name)
    ignored = Ignored()
    is_folder = path.is_dir()
    manifest = find_manifest(path) if is_folder else path
    labelled = manifest is not None and manifest.is_file()
    if is_folder:
        files = read_folder(path, ignored, manifest)
        if not files:
            raise InputProblem(
                f"{path}: holds no image; name the folder that holds the images{ignored.remark()}"
            )
    elif is_image_name(path.name) and labelled:
        return Source([SourceCrop(path.name, path.read_bytes)])
    elif labelled:
        files = read_manifest(path, required=("path",), ignored=ignored)
    elif ":" in name:
        return read_spec(name)
    else:
        raise InputProblem(
            f"{legible(name)}: is not there; name an image, a folder of images, a zip archive, a "
            "CSV manifest, or a data set KIND:PATH"
        )
    crops = [
        SourceCrop(
            str(file.path if labelled else file.path.relative_to(path)),
            file.path.read_bytes,
            # The labels are compared with options and with answers, which are in NFC.
            identity=file.identity and nfc(file.identity),
            camera=file.camera and nfc(file.camera),
            captured_at=file.captured_at,
            split=file.split,
            external_id=file.external_id,
            metadata=file.metadata,
            track=file.track,
        )
        for file in files
    ]
    return Source(crops, ignored.lines())


def enroll_crops(
    client: Client, crops: Sequence[SourceCrop], keep_best: int | None = None
) -> list[tuple[SourceCrop, Sent]]:
    """Enroll crops with a progress bar and return each with its outcome, in order.

    A crop that cannot be read or is refused gets a problem; the others are enrolled.

    Raises:
        GmnError: a request failed as a whole.
    """
    unreadable: dict[int, Sent] = {}

    def images() -> Iterator[Image]:
        for position, crop in enumerate(crops):
            try:
                data = crop.read()
            except (InputProblem, OSError) as error:
                problem = Problem(title="Unreadable", detail=f"cannot be read ({error})")
                unreadable[position] = RefusedImage(problem=problem)
                # Send an empty file instead, which the service refuses, so that every crop gets an
                # outcome.
                data = b""
            yield Image(
                data,
                crop.name,
                identity=crop.identity,
                camera=crop.camera,
                captured_at=crop.captured_at,
                external_id=crop.external_id,
                metadata=json.loads(crop.metadata) if crop.metadata else None,
                track=crop.track,
            )

    with progress_bar() as bar:
        task = bar.add_task("Enrolling", total=len(crops))
        sent = client.enroll(
            images(),
            keep_best=keep_best,
            progress=lambda done: bar.update(task, completed=done),
        )
    answers = enumerate(zip(crops, sent.results, strict=True))
    return [(crop, unreadable.get(position, answer)) for position, (crop, answer) in answers]
