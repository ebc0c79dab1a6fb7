"""The bench of several machines: PostgreSQL, SQLite and a far server, in every round."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from bench import machines, writers
from bench.figures import table
from model.problems import InputProblem
from tests.postgres import postgres


@pytest.mark.slow
def test_each_side_enrolls_and_one_machine_shows_what_the_other_enrolled(tmp_path, monkeypatch):
    def start_threads(count, _context, initializer, arguments):
        return ThreadPoolExecutor(count, initializer=initializer, initargs=arguments)

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(machines, "ROUNDS", 1)
    monkeypatch.setattr(machines, "ROUND_SECONDS", 0.2)
    monkeypatch.setattr(machines, "PROCESSES", 2)
    monkeypatch.setattr(machines, "FOLLOWED", 4)
    monkeypatch.setattr(writers, "PROCESSES", 2)
    monkeypatch.setattr(writers, "ProcessPoolExecutor", start_threads)
    with postgres() as server:
        near, far = machines.bench_machines(server.url("public"), 1000)
        with psycopg.connect(server.url("public")) as connection:
            schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'gmn%'"
            assert connection.execute(schemas).fetchone() == (0,)
    assert near.ratio > 0
    assert far.ratio > 0
    assert near.details["bytes_per_crop"] > 4 * 256
    assert near.details["start_s"] > 0
    assert near.details["start_with_copy_s"] > 0
    assert near.details["followed_p50_ms"] <= near.details["followed_p99_ms"]
    shown = table("machines", [near._asdict(), far._asdict()])
    assert "| PostgreSQL | SQLite |" in shown
    assert not list(tmp_path.glob("gmn-bench-*"))


def test_without_a_database_it_says_what_to_name():
    with pytest.raises(InputProblem, match="--database"):
        machines.bench_machines(None, 1000)
