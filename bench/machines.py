"""`gmn bench machines`: the load of `gmn bench writers` on a record in PostgreSQL.

Two of the four processes have a data directory, as on one machine, and the others another one. The
other side has the record in SQLite. A third load waits half a millisecond longer for each answer of
PostgreSQL, as of a server that is not near.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

from bench.result import ROUNDS, BenchResult, compare
from bench.writers import PROCESSES, ROUND_SECONDS, Load, enroll, summarize, writer_processes
from model.problems import InputProblem

MACHINES = 2
DISTANCE_SECONDS = 0.0005
AIM = 0.3
FAR_AIM = 0.7


def bench_machines(url: str | None) -> list[BenchResult]:
    """Divide the pace of PostgreSQL by that of SQLite, and of a far server by that of a near one.

    Args:
        url: of a database, in which schemas are made and dropped.

    Raises:
        InputProblem: no database is given.
    """
    if url is None:
        raise InputProblem("machines: name a database of PostgreSQL, with --database")
    load_average = round(os.getloadavg()[0], 2)
    rounds = []
    with writer_processes() as processes:
        for _ in range(ROUNDS + 1):
            rounds.append(
                {
                    "postgresql": _press(processes, url, 0.0),
                    "sqlite": _press(processes, None, 0.0),
                    "far": _press(processes, url, DISTANCE_SECONDS),
                }
            )
    # The first round warms up.
    rounds = rounds[1:]
    details: dict[str, Any] = {"load_average_before": load_average}
    for side in rounds[0]:
        for name in rounds[0][side]:
            median = statistics.median(figures[side][name] for figures in rounds)
            details[f"{side}_{name}"] = round(median, 2)

    def ratio(name: str, ours: str, theirs: str, aim: float) -> BenchResult:
        pace = "requests_per_second"
        paces = [(figures[ours][pace], figures[theirs][pace]) for figures in rounds]
        return compare(name, paces, aim, details)

    return [
        ratio("machines", "postgresql", "sqlite", AIM),
        ratio("machines far from PostgreSQL", "far", "postgresql", FAR_AIM),
    ]


def _press(processes: ProcessPoolExecutor, url: str | None, distance: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="gmn-bench-") as folder, _schema(url) as own_url:
        folders = [Path(folder) / f"machine-{number % MACHINES}" for number in range(PROCESSES)]
        if own_url is None:
            folders = [Path(folder)] * PROCESSES
        running = [processes.submit(_enroll, place, own_url, distance) for place in folders]
        return summarize([load.result() for load in running])


@contextlib.contextmanager
def _schema(url: str | None) -> Iterator[str | None]:
    """Yield the URL of a schema that is dropped after the block; None for SQLite."""
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
    """Wait longer for each answer of PostgreSQL while the block runs."""
    from psycopg import Cursor

    from service.record.postgres_connection import PostgresConnection

    def delayed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            time.sleep(seconds)
            return call(*args, **kwargs)

        return run

    fetch = Cursor._fetch_pipeline

    def fetch_later(cursor: Any) -> None:
        # Statements that are sent together are answered together.
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
