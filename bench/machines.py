"""`gmn bench machines`: the load of `gmn bench writers` on a record in PostgreSQL.

Two of the four processes share a data directory, as on one machine, and the other two share another
one. The load is compared with the same load on a record in SQLite, and with one that waits half a
millisecond longer for each answer, as if the server were distant. Two more figures are the time
until one machine shows the crops that another one enrolled, and the start of a machine on a large
gallery.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

import numpy as np

from bench.result import ROUNDS, BenchResult, compare
from bench.writers import (
    EMBEDDER,
    PROCESSES,
    ROUND_SECONDS,
    Load,
    draw_crop,
    enroll,
    opened_galleries,
    summarize,
    writer_processes,
)
from model.problems import InputProblem
from service.gallery.registry import DEFAULT_GALLERY
from service.opening import open_folder
from service.record.transaction import Reader
from service.record.values import ArchivedCrop, CommittedEnrollment, GallerySettings

MACHINES = 2
# Number of enrollments that are followed to the other machine, and the interval of its polls.
FOLLOWED = 200
POLL_SECONDS = 0.001
DISTANCE_SECONDS = 0.0005
AIM = 0.3
FAR_AIM = 0.7
# Dimension of the vectors of the large gallery, and number of its crops in a commit.
LARGE_DIMENSION = 256
CROPS_AT_ONCE = 1000
BYTES_OF_SCHEMA = """
SELECT sum(pg_total_relation_size(pg_class.oid)) FROM pg_class
JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = current_schema() AND relkind = 'r'
"""
Figures = dict[str, float]


def bench_machines(url: str | None, crops: int) -> list[BenchResult]:
    """Divide the pace of PostgreSQL by that of SQLite, and of a far server by that of a near one.

    Args:
        url: URL of a database, in which schemas are created and dropped.
        crops: size of the gallery on which a machine starts.

    Raises:
        InputProblem: no database is given.
    """
    if url is None:
        raise InputProblem("machines: name a database of PostgreSQL, with --database")
    load_average = round(os.getloadavg()[0], 2)
    rounds = []
    with writer_processes() as processes:
        # The first round warms up.
        for _ in range(ROUNDS + 1):
            rounds.append([_press(processes, *side) for side in ((url, 0.0), (None, 0.0))])
            rounds[-1].append(_press(processes, url, DISTANCE_SECONDS))
    near, sqlite, far = zip(*rounds[1:], strict=True)
    more = {"load_average_before": load_average}
    once = _measure_following(url) | _measure_starts(url, crops)
    return [
        _compare("PostgreSQL", "SQLite", near, sqlite, AIM, more | once),
        _compare("PostgreSQL far away", "near PostgreSQL", far, near, FAR_AIM, more),
    ]


def _compare(
    name: str,
    other: str,
    ours: Sequence[Figures],
    theirs: Sequence[Figures],
    aim: float,
    more: Figures,
) -> BenchResult:
    details: dict[str, Any] = {"side": name, "other_side": other, **more}
    for figure in ours[0]:
        details[figure] = round(statistics.median(figures[figure] for figures in ours), 2)
    pace = "requests_per_second"
    details[f"others_{pace}"] = round(statistics.median(figures[pace] for figures in theirs), 2)
    rounds = zip(ours, theirs, strict=True)
    paces = [(our_round[pace], their_round[pace]) for our_round, their_round in rounds]
    return compare("machines", paces, aim, details)


def _measure_following(url: str) -> Figures:
    """Measure the time from the answer of one machine until another one shows the crop."""
    random = np.random.default_rng()
    waited_ms = []
    with (
        tempfile.TemporaryDirectory(prefix="gmn-bench-") as folder,
        _schema(url) as own_url,
        opened_galleries(Path(folder) / "one", own_url) as one,
        opened_galleries(Path(folder) / "other", own_url) as other,
    ):
        for number in range(FOLLOWED):
            enrolling, following = (one, other) if number % 2 else (other, one)
            gallery = enrolling.get(DEFAULT_GALLERY)
            sent = enrolling.enroll(gallery, EMBEDDER, [draw_crop(random)])
            version = asyncio.run(_await(sent)).version
            answered = time.perf_counter()
            while following.get(DEFAULT_GALLERY).version < version:
                time.sleep(POLL_SECONDS)
            waited_ms.append(1e3 * (time.perf_counter() - answered))
    return {
        "followed_p50_ms": round(statistics.median(waited_ms), 1),
        "followed_p99_ms": round(statistics.quantiles(waited_ms, n=100)[-1], 1),
    }


def _measure_starts(url: str, crops: int) -> Figures:
    """Measure the start of a machine without a copy of the vectors, and with one."""
    with tempfile.TemporaryDirectory(prefix="gmn-bench-") as folder, _schema(url) as own_url:
        filled = _run_in_new_process(_fill, Path(folder) / "one", own_url, crops)
        starts = [
            _run_in_new_process(_start, Path(folder) / "other", own_url, crops) for _ in range(2)
        ]
    return {
        "crops": crops,
        "bytes_per_crop": round(filled / crops),
        "start_s": round(starts[0], 2),
        "start_with_copy_s": round(starts[1], 2),
    }


def _fill(folder: Path, url: str, crops: int) -> int:
    """Enroll crops without pictures, and return the bytes of their tables and indexes."""
    random = np.random.default_rng(0)
    with closing(open_folder(folder, url)) as record:
        settings = GallerySettings()
        gallery_id = record.galleries.create("large", EMBEDDER, settings).gallery_id
        for _ in range(0, crops, CROPS_AT_ONCE):
            commit = [_draw_without_picture(random) for _ in range(CROPS_AT_ONCE)]
            record.crops.enroll(gallery_id, EMBEDDER, commit)
        # Without a vacuum, statistics and free space would still be those of an empty table.
        record.database.connection().execute("VACUUM ANALYZE crops, checksums")
        return int(Reader(record.database).value(BYTES_OF_SCHEMA))


def _draw_without_picture(random: np.random.Generator) -> ArchivedCrop:
    record = replace(draw_crop(random).record, content_type=None, image_bytes=0)
    return ArchivedCrop(record, random.standard_normal(LARGE_DIMENSION, np.float32), None)


def _start(folder: Path, url: str, crops: int) -> float:
    began = time.perf_counter()
    with opened_galleries(folder, url, LARGE_DIMENSION) as registry:
        seconds = time.perf_counter() - began
        assert registry.get("large").crops >= crops
    return seconds


def _run_in_new_process(work: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


async def _await(answer: Awaitable[CommittedEnrollment]) -> CommittedEnrollment:
    return await answer


def _press(processes: ProcessPoolExecutor, url: str | None, distance: float) -> Figures:
    with tempfile.TemporaryDirectory(prefix="gmn-bench-") as folder, _schema(url) as own_url:
        folders = [Path(folder) / f"machine-{number % MACHINES}" for number in range(PROCESSES)]
        if own_url is None:
            folders = [Path(folder)] * PROCESSES
        running = [processes.submit(_enroll, place, own_url, distance) for place in folders]
        return summarize([load.result() for load in running])


@contextlib.contextmanager
def _schema(url: str | None) -> Iterator[str | None]:
    """Create a schema, yield its URL, and drop it after the block; yield None for SQLite."""
    if url is None:
        yield None
        return
    import psycopg

    name = f"gmn_bench_{secrets.token_hex(4)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}".encode())
        try:
            path = quote(f"-c search_path={name}")
            yield f"{url}{'&' if '?' in url else '?'}options={path}"
        finally:
            connection.execute(f"DROP SCHEMA {name} CASCADE".encode())


def _enroll(folder: Path, url: str | None, distance: float) -> Load:
    with _further_away(distance) if distance else contextlib.nullcontext():
        return enroll(folder, True, ROUND_SECONDS, url)


@contextlib.contextmanager
def _further_away(seconds: float) -> Iterator[None]:
    """Delay each answer of PostgreSQL while the block runs."""
    from psycopg import Cursor

    from service.postgres.connection import PostgresConnection

    def delayed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            time.sleep(seconds)
            return call(*args, **kwargs)

        return run

    fetch = Cursor._fetch_pipeline

    def fetch_later(cursor: Any) -> None:
        # Statements of a pipeline are answered together, so only the first answer is delayed.
        if cursor._conn._pipeline and not cursor.pgresult:
            time.sleep(seconds)
        fetch(cursor)

    run = PostgresConnection._run

    def run_later(connection: Any, *args: Any) -> Any:
        if not connection._server._pipeline:
            time.sleep(seconds)
        return run(connection, *args)

    with contextlib.ExitStack() as patches:
        for owner, name, replacement in (
            (Cursor, "_fetch_pipeline", fetch_later),
            (PostgresConnection, "_run", run_later),
            (PostgresConnection, "begin", delayed(PostgresConnection.begin)),
            (PostgresConnection, "commit", delayed(PostgresConnection.commit)),
        ):
            patches.enter_context(mock.patch.object(owner, name, replacement))
        yield
