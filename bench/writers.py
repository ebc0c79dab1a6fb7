"""`gmn bench writers`: many requests of one crop each, in several processes on one record.

Eight requests wait at a time in each of four processes, without HTTP and embedding. Requests that
wait for the gallery are committed together; in the compared load each is a commit of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.result import BenchResult, alternate, compare
from service.engine.device import DeviceThread
from service.gallery.registry import DEFAULT_GALLERY, GalleryRegistry
from service.opening import open_folder
from service.record.values import ArchivedCrop, CommittedEnrollment, StoredCrop, new_crop_id

PROCESSES = 4
REQUESTS_AT_ONCE = 8
ROUND_SECONDS = 2.0
READY_SECONDS = 120.0
EMBEDDER = "0" * 64
DIMENSION = 512
PICTURE_BYTES = 5000
PEOPLE = 5000
AIM = 1.4


class Load(NamedTuple):
    """The load of one process in one round."""

    requests: int
    seconds: float
    cpu_seconds: float
    latencies_ms: list[float]


# Each process of the load sets this variable.
_barrier: Barrier | None = None


def bench_writers() -> BenchResult:
    """Divide the requests per second that are committed together by those committed one by one."""
    load_average = round(os.getloadavg()[0], 2)
    with writer_processes() as processes:

        def press(is_together: bool) -> dict[str, float]:
            with tempfile.TemporaryDirectory(prefix="gmn-bench-") as folder:
                running = [
                    processes.submit(enroll, Path(folder), is_together, ROUND_SECONDS)
                    for _ in range(PROCESSES)
                ]
                return summarize([load.result() for load in running])

        rounds = alternate(lambda: press(True), lambda: press(False))
    details: dict[str, Any] = {"load_average_before": load_average}
    together, alone = zip(*rounds, strict=True)
    for side, measured in {"together": together, "alone": alone}.items():
        for name in measured[0]:
            median = statistics.median(figures[name] for figures in measured)
            details[f"{side}_{name}"] = round(median, 2)
    paces = [
        (ours["requests_per_second"], theirs["requests_per_second"]) for ours, theirs in rounds
    ]
    return compare("writers", paces, AIM, details)


def writer_processes() -> ProcessPoolExecutor:
    """Return processes whose calls of `enroll` begin together."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    return ProcessPoolExecutor(PROCESSES, context, _set_barrier, (barrier,))


def _set_barrier(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def summarize(loads: list[Load]) -> dict[str, float]:
    requests = sum(load.requests for load in loads)
    latencies = list(itertools.chain.from_iterable(load.latencies_ms for load in loads))
    return {
        "requests_per_second": sum(load.requests / load.seconds for load in loads),
        "cpu_ms_per_request": 1e3 * sum(load.cpu_seconds for load in loads) / requests,
        "p50_ms": statistics.median(latencies),
        "p99_ms": statistics.quantiles(latencies, n=100)[-1],
    }


@contextmanager
def opened_galleries(
    folder: Path, url: str | None, dimension: int = DIMENSION
) -> Iterator[GalleryRegistry]:
    with (
        DeviceThread() as device,
        closing(open_folder(folder, url)) as record,
        closing(GalleryRegistry(record, device, {EMBEDDER: dimension}, lambda _: None)) as registry,
    ):
        registry.load()
        yield registry


def enroll(folder: Path, is_together: bool, seconds: float, url: str | None = None) -> Load:
    """Enroll crops for one round, which begins at the same moment in all processes."""
    with opened_galleries(folder, url) as registry:
        gallery = registry.get(DEFAULT_GALLERY)
        crops = registry.record.crops

        def enroll_together(crop: ArchivedCrop) -> Awaitable[CommittedEnrollment]:
            return registry.enroll(gallery, EMBEDDER, [crop])

        def enroll_alone(crop: ArchivedCrop) -> Awaitable[CommittedEnrollment]:
            return registry.change(
                "enroll",
                gallery,
                lambda gallery_id: crops.enroll(gallery_id, EMBEDDER, [crop]),
            )

        assert _barrier is not None
        _barrier.wait(READY_SECONDS)
        enroll_one = enroll_together if is_together else enroll_alone
        return asyncio.run(_enroll_all(enroll_one, seconds))


async def _enroll_all(
    enroll: Callable[[ArchivedCrop], Awaitable[CommittedEnrollment]], round_seconds: float
) -> Load:
    random = np.random.default_rng()
    latencies_ms: list[float] = []
    began_cpu = time.process_time()
    began = time.perf_counter()

    async def send_requests() -> None:
        while time.perf_counter() - began < round_seconds:
            crop = draw_crop(random)
            sent = time.perf_counter()
            await enroll(crop)
            latencies_ms.append(1e3 * (time.perf_counter() - sent))

    await asyncio.gather(*(send_requests() for _ in range(REQUESTS_AT_ONCE)))
    seconds = time.perf_counter() - began
    return Load(len(latencies_ms), seconds, time.process_time() - began_cpu, latencies_ms)


def draw_crop(random: np.random.Generator) -> ArchivedCrop:
    sha256 = random.bytes(32).hex()
    record = StoredCrop(
        slot=0,
        crop_id=new_crop_id(),
        identity=f"person-{random.integers(PEOPLE)}",
        camera=f"camera-{random.integers(20)}",
        sent_sha256=sha256,
        sha256=sha256,
        content_type="image/jpeg",
        image_bytes=PICTURE_BYTES,
        created_at=datetime.now(UTC),
    )
    vector = random.standard_normal(DIMENSION, np.float32)
    return ArchivedCrop(record, vector, random.bytes(PICTURE_BYTES))
