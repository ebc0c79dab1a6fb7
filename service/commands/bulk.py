"""Sources of images, and sending any number of crops: several requests in flight, in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx

from gmn_client import Client, Image, QueryOptions, RequestRefused
from gmn_client.models import EnrolledImage, Problem, QueryAnswer, RefusedImage
from model.crops.manifest import MANIFEST, read_manifest
from model.crops.names import is_image_name
from model.problems import InputProblem

CROPS_PER_REQUEST = 32
BYTES_PER_REQUEST = 8 * 1024 * 1024
CONCURRENT_REQUESTS = 4

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Sent = EnrolledImage | RefusedImage


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
        name: an image, a CSV manifest, a folder with a `manifest.csv`, of images, or with a
            sub-folder of images for each person, or `KIND:PATH`.
        read_spec: reads the last.

    Raises:
        InputProblem: if it is none of them, cannot be read, or holds no image.
    """
    path = Path(name)
    if (path / MANIFEST).is_file():
        path = path / MANIFEST
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


Group = list[tuple[SourceCrop, bytes | str]]
"""The crops of one request, each with its bytes, or with the reason why it cannot be read."""


def enroll_crops(client: Client, crops: Iterable[SourceCrop]) -> Iterator[tuple[SourceCrop, Sent]]:
    """Enrolls crops and yields each with its outcome, in order.

    A crop that cannot be read or is refused has a problem; the others are enrolled all the same.

    Raises:
        RequestRefused, ServiceFailed, ServiceUnreachable: the request failed as a whole.
    """
    for outcomes in bounded_map(partial(_enroll_group, client), _groups(crops)):
        yield from outcomes


def query_crops(
    client: Client, crops: Iterable[SourceCrop], options: QueryOptions
) -> Iterator[tuple[SourceCrop, QueryAnswer, float]]:
    """Queries with each crop; yields crop, answer and milliseconds until the answer was read.

    Raises:
        InputProblem: naming the crop that cannot be read or that the service refused.
    """

    def query(crop: SourceCrop) -> tuple[SourceCrop, QueryAnswer, float]:
        data = read_crop(crop)
        if isinstance(data, str):
            raise InputProblem(f"{crop.name}: {data}")
        started = time.perf_counter()
        try:
            answer = client.query(data, **options)
        except RequestRefused as refusal:
            raise InputProblem(f"{crop.name}: {refusal}") from refusal
        return crop, answer, (time.perf_counter() - started) * 1e3

    return bounded_map(query, crops)


def bounded_map(
    ask: Callable[[Question], Answer],
    questions: Iterable[Question],
    limit: int = CONCURRENT_REQUESTS,
) -> Iterator[Answer]:
    """Calls `ask` in at most `limit` threads and yields the answers in order.

    Raises:
        Exception: the first error of `ask`; questions that wait are dropped.
    """
    waiting: deque[Future[Answer]] = deque()
    with ThreadPoolExecutor(limit) as threads:
        try:
            for question in questions:
                if len(waiting) >= limit:
                    yield waiting.popleft().result()
                waiting.append(threads.submit(ask, question))
            while waiting:
                yield waiting.popleft().result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def _groups(crops: Iterable[SourceCrop]) -> Iterator[Group]:
    """Reads crops and groups them for one request each."""
    group: Group = []
    size = 0
    for crop in crops:
        data = read_crop(crop)
        if group and (len(group) >= CROPS_PER_REQUEST or size + len(data) > BYTES_PER_REQUEST):
            yield group
            group, size = [], 0
        group.append((crop, data))
        size += len(data)
    if group:
        yield group


def _enroll_group(client: Client, group: Group) -> list[tuple[SourceCrop, Sent]]:
    images = [
        Image(data, crop.name, crop.identity, crop.camera, crop.captured_at)
        for crop, data in group
        if isinstance(data, bytes)
    ]
    sent = iter(_enroll(client, images) if images else [])
    return [
        (crop, _unreadable(data) if isinstance(data, str) else next(sent)) for crop, data in group
    ]


def _unreadable(reason: str) -> RefusedImage:
    return RefusedImage(problem=Problem(title="Unreadable", detail=reason))


def _enroll(client: Client, images: Sequence[Image]) -> list[Sent]:
    try:
        return list(client.enroll(images).results)
    except RequestRefused as refusal:
        if refusal.problem.status != httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            raise
        if len(images) == 1:
            return [RefusedImage(problem=refusal.problem)]
        # The service alone knows its limit: the body is halved until it fits.
        middle = len(images) // 2
        return _enroll(client, images[:middle]) + _enroll(client, images[middle:])
