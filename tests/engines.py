"""The engine of the record under test: SQLite, or a PostgreSQL server of the worker."""

import functools
import hashlib
import os
from contextlib import contextmanager
from pathlib import Path

import pytest

SERVICE = Path(__file__).parent / "service"
ENGINES = ("sqlite", "postgres")
# A change of the record's rules is seen on both engines within `make test`. It runs the tests of
# the record on both, and these files, which try the most rules in a second: they take about a
# minute in all on PostgreSQL. All other tests of the API run on PostgreSQL by `make test-all`.
QUICK = (
    "http/test_key_calls.py",
    "test_bulk_changes.py",
    "test_crop_lists.py",
    "test_desk.py",
    "test_enrolment.py",
    "test_groups.py",
    "test_import_removals.py",
    "test_labels.py",
    "test_processes.py",
    "test_set_aside.py",
    "test_track_queries.py",
    "test_tracks.py",
    "test_trials.py",
    "test_unicode_labels.py",
)
SLOW = (
    "http/test_guard.py",
    "http/test_guard_table.py",
    "http/test_keys.py",
    "http/test_limits.py",
    "http/test_several_galleries_keys.py",
    "test_audit.py",
    "test_camera_thresholds.py",
    "test_cameras.py",
    "test_case_exports.py",
    "test_doubtful.py",
    "test_event_streams.py",
    "test_exports.py",
    "test_gone_meanwhile.py",
    "test_hostile_exports.py",
    "test_hostile_imports.py",
    "test_import_turns.py",
    "test_kept_searches.py",
    "test_lifecycle.py",
    "test_pictures.py",
    "test_promises.py",
    "test_quality.py",
    "test_queries.py",
    "test_reindex.py",
    "test_scorings.py",
    "test_search_calibration.py",
    "test_several_galleries.py",
    "test_sightings.py",
    "test_silent_people.py",
    "test_similar.py",
    "test_times.py",
    "test_two_runtimes.py",
    "test_vector_imports.py",
    "test_vectors.py",
    "test_watch.py",
    "test_webhooks.py",
)

_servers = []


@contextmanager
def records_in(server):
    """Keep the records that are opened in the block in a server; None stands for SQLite."""
    _servers.append(server)
    try:
        yield
    finally:
        _servers.pop()


def database_url(folder):
    """Return where the record of a data directory is: an URL, or None for SQLite."""
    if not _servers or _servers[-1] is None:
        return None
    name = hashlib.sha256(str(Path(folder).resolve()).encode()).hexdigest()[:16]
    return _servers[-1].url(f"record_{name}")


def record_environment(folder):
    """Return the variables by which a command finds the record of a data directory."""
    url = database_url(folder)
    return {} if url is None else {"GMN_DATABASE_URL": url}


def parametrize_engine(metafunc):
    """Run a test on both engines if it is about the record, and otherwise on SQLite alone."""
    test = metafunc.definition
    engines = ENGINES if _is_about_the_record(metafunc) else ENGINES[:1]
    for engine in ENGINES:
        if test.get_closest_marker(f"{engine}_alone"):
            engines = (engine,)
    is_slow = _name(test.path) in SLOW
    parameters = [
        pytest.param(
            engine,
            # A test that runs once keeps its name.
            id=engine if len(engines) > 1 else pytest.HIDDEN_PARAM,
            marks=[pytest.mark.slow] if is_slow and engine == "postgres" else [],
        )
        for engine in engines
    ]
    metafunc.parametrize("chosen_engine", parameters, indirect=True)


def _is_about_the_record(metafunc):
    name = _name(metafunc.definition.path)
    is_of_the_api = name in (*QUICK, *SLOW) and "engine" in metafunc.fixturenames
    return name.startswith("record/") or is_of_the_api


@functools.cache
def _name(path):
    return os.path.relpath(path, SERVICE)
