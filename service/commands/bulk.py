"""Enrols any number of crops: grouped into requests, several in flight, one outcome per crop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import httpx

from gmn_client import Client, Image, RequestRefused
from gmn_client.models import EnrolledImage, RefusedImage
from model.problems import InputProblem
from service.commands.sources import SourceCrop

CROPS_IN_ONE = 32
BYTES_IN_ONE = 8 * 1024 * 1024
AT_ONCE = 4

Question = TypeVar("Question")
Reply = TypeVar("Reply")
ReadCrop = tuple[SourceCrop, bytes | Exception]


@dataclass(frozen=True)
class Outcome:
    """What became of one crop.

    Attributes:
        name: what its source calls it.
        crop_id: the stored crop; None where `problem` says why there is none.
        duplicate: the gallery had the same bytes already.
        problem: why it was not enrolled.
    """

    name: str
    crop_id: str | None = None
    duplicate: bool = False
    problem: str | None = None


def enroll_crops(
    client: Client,
    crops: Iterable[SourceCrop],
    gallery: str | None = None,
    crops_in_one: int = CROPS_IN_ONE,
    at_once: int = AT_ONCE,
) -> Iterator[Outcome]:
    """Enrols crops and yields one outcome for each, in order.

    A crop that cannot be read or is refused is an outcome; the others are enrolled all the same.

    Raises:
        RequestRefused, ServiceFailed, ServiceUnreachable: where the gallery or the service, not an
            image, is what is wrong.
    """
    groups = _groups(crops, crops_in_one, BYTES_IN_ONE)
    for outcomes in in_flight(_sender(client, gallery), groups, at_once):
        yield from outcomes


def _sender(client: Client, gallery: str | None) -> Callable[[Sequence[ReadCrop]], list[Outcome]]:
    def send(group: Sequence[ReadCrop]) -> list[Outcome]:
        images = [
            Image(data, crop.name, crop.identity, crop.camera, crop.captured_at)
            for crop, data in group
            if isinstance(data, bytes)
        ]
        answers = iter(_enroll(client, images, gallery) if images else [])
        return [
            _outcome(crop.name, next(answers))
            if isinstance(data, bytes)
            else Outcome(crop.name, problem=_reason(data))
            for crop, data in group
        ]

    return send


def _enroll(
    client: Client, images: list[Image], gallery: str | None
) -> list[EnrolledImage | RefusedImage]:
    try:
        return list(client.enroll(images, gallery).results)
    except RequestRefused as refusal:
        too_large = refusal.problem.status == httpx.codes.REQUEST_ENTITY_TOO_LARGE
        if not too_large:
            raise
        if len(images) == 1:
            return [RefusedImage(problem=refusal.problem)]
        # The body's limit is the service's own; halves find it whatever it is.
        middle = len(images) // 2
        first = _enroll(client, images[:middle], gallery)
        return first + _enroll(client, images[middle:], gallery)


def _outcome(name: str, answer: EnrolledImage | RefusedImage) -> Outcome:
    if answer.problem is not None:
        return Outcome(name, problem=answer.problem.detail or answer.problem.title)
    return Outcome(name, answer.crop_id, answer.duplicate)


def _reason(error: Exception) -> str:
    if isinstance(error, InputProblem):
        return str(error)
    return f"cannot be read ({getattr(error, 'strerror', None) or error})"


def _groups(
    crops: Iterable[SourceCrop], largest: int, bytes_in_one: int
) -> Iterator[list[ReadCrop]]:
    """Reads crops and groups them for one request each.

    Args:
        crops: in order.
        largest: crops in one group at most.
        bytes_in_one: bytes in one group at most, unless a single file has more.

    Yields:
        Groups of crop and its bytes, or the error that kept it from being read.
    """
    group: list[ReadCrop] = []
    size = 0
    for crop in crops:
        try:
            data: bytes | Exception = crop.read()
        except (InputProblem, OSError) as error:
            data = error
        length = len(data) if isinstance(data, bytes) else 0
        if group and (len(group) >= largest or size + length > bytes_in_one):
            yield group
            group, size = [], 0
        group.append((crop, data))
        size += length
    if group:
        yield group


def in_flight(
    ask: Callable[[Question], Reply], questions: Iterable[Question], at_once: int
) -> Iterator[Reply]:
    """Calls `ask` in threads, at most `at_once` at a time; `questions` are drawn as they go out.

    Raises:
        Exception: the first that `ask` raised; questions not yet asked are dropped.
    """
    waiting: deque[Future[Reply]] = deque()
    with ThreadPoolExecutor(at_once) as threads:
        try:
            for question in questions:
                if len(waiting) >= at_once:
                    yield waiting.popleft().result()
                waiting.append(threads.submit(ask, question))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
