"""Any number of crops to a service: grouped into requests, several in flight, answers in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import httpx

from gmn_client import Client, Image, QueryOptions, RequestRefused
from gmn_client.models import EnrolledImage, Problem, QueryAnswer, RefusedImage
from model.problems import InputProblem
from service.commands.sources import SourceCrop, read_crop

CROPS_PER_REQUEST = 32
BYTES_PER_REQUEST = 8 * 1024 * 1024
CONCURRENT_REQUESTS = 4

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Sent = EnrolledImage | RefusedImage
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
