"""Images on this machine, and bulk enrollment with several requests in flight."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from gmn_client import Client, Image
from gmn_client.commands.common import progress_bar
from gmn_client.models import EnrolledImage, Problem, RefusedImage

Sent = EnrolledImage | RefusedImage


@dataclass(frozen=True)
class SourceCrop:
    """An image to send, not read yet.

    Attributes:
        name: name of the image, for messages.
        read: returns the content of the file; raises `ValueError` or `OSError` if it cannot.
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
    """The files that a SOURCE on the command line names.

    Attributes:
        crops: the images, in a stable order.
        ignored: `name` and `reason` of each other file, which is not sent.
        archives: files that the service imports as they are, in place of images.
        is_image: whether it is one image file.
    """

    crops: Sequence[SourceCrop] = ()
    ignored: Sequence[Mapping[str, str]] = ()
    archives: Sequence[Path] = ()
    is_image: bool = False


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
            except (ValueError, OSError) as error:
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
