"""`gmn doctor` beside a record in PostgreSQL, and of the service that serves it."""

import contextlib
import json
from collections import defaultdict

import psycopg
import pytest

import gmn
from service import checks
from service.api_keys import create_key
from service.opening import open_folder
from service.record.values import GallerySettings
from tests.service.gallery.new_crops import new_crop

OWN_EMBEDDER = "c" * 64


@pytest.fixture
def url(postgres_server, tmp_path):
    return postgres_server.url(f"doctor_{abs(hash(tmp_path))}")


@pytest.fixture
def examine(tmp_path, url, tiny_artefact, monkeypatch, capsys):
    """Return a function that runs the command; it returns the status and the findings by part."""
    for name in ("GMN_REDIS_URL", "GMN_API_KEYS_FILE", "GMN_BACKUP_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GMN_ARTEFACT", str(tiny_artefact))
    monkeypatch.setenv("GMN_DEVICE", "cpu")
    monkeypatch.setenv("GMN_DATABASE_URL", url)

    def run(*options):
        status = gmn.run(["doctor", "--json", *options])
        found = defaultdict(list)
        for finding in json.loads(capsys.readouterr().out)["findings"]:
            found[finding["part"]].append((finding["state"], finding["text"]))
        return status, found

    monkeypatch.setenv("GMN_DATA_DIR", str(tmp_path / "data"))
    return run


def said(found, part, state="warning"):
    return " ".join(text for of_state, text in found[part] if of_state == state)


@pytest.fixture
def record(tmp_path, url):
    with contextlib.closing(open_folder(tmp_path / "data", url)) as opened:
        yield opened


def test_keys_and_galleries_of_a_record_in_postgresql_are_read_and_nothing_is_changed(
    examine, record, tmp_path
):
    number = record.galleries.create("lobby", OWN_EMBEDDER, GallerySettings()).gallery_id
    record.crops.enroll(number, OWN_EMBEDDER, [new_crop(1)])
    record.keys.add(create_key(scopes=["admin"])[0])
    before = sorted((tmp_path / "data").iterdir())
    status, found = examine()
    assert status == 1
    assert "1 gallery with 1 crop" in said(found, "record", "ok")
    assert said(found, "keys", "ok") == "valid: 1"
    assert "filled lobby" in said(found, "artefact", "error")
    assert "pg_dump" in said(found, "backups", "ok")
    assert not said(found, "backups")
    assert sorted((tmp_path / "data").iterdir()) == before


def test_before_the_first_start_there_is_no_record_and_no_key(examine, url, tmp_path):
    status, found = examine()
    assert status == 0
    assert "the first start makes one" in said(found, "record", "ok")
    assert "there is no API key" in said(found, "keys")
    assert not (tmp_path / "data").exists()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT to_regclass('record')").fetchone() == (None,)


def test_a_well_kept_machine_has_no_warning(examine, record, url, monkeypatch):
    # The clock and the disk are those of the machine on which this runs.
    monkeypatch.setattr(checks, "TIME_ERROR", -1)
    monkeypatch.setattr(checks, "SMALL_DISK_SHARE", 0.0)
    with psycopg.connect(url) as connection:
        if connection.execute("SHOW data_checksums").fetchone() == ("off",):
            pytest.skip("this server has no checksums of its pages")
    record.keys.add(create_key(scopes=["admin"])[0])
    status, found = examine("--strict")
    assert {state for findings in found.values() for state, _ in findings} == {"ok"}
    assert status == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            "UPDATE record SET value = '99' WHERE name = 'format'",
            "its tables are not those of format 2",
        ),
        ("ALTER ROLE gmn SET session_replication_role = replica", "session_replication_role"),
    ],
)
def test_of_a_record_that_cannot_be_read_no_key_is_said_to_be_missing(
    examine, record, url, change, named
):
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(change)
    try:
        status, found = examine()
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("ALTER ROLE gmn RESET session_replication_role")
    assert status == 1
    assert named in said(found, "record", "error")
    assert "keys" not in found


def test_a_new_key_is_said_to_be_kept_in_postgres(url, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GMN_DATABASE_URL", url)
    create = ["keys", "create", "--scope", "admin", "--data-dir", str(tmp_path / "data")]
    assert gmn.run(create) == 0
    said = capsys.readouterr().out
    assert "kept as a hash in PostgreSQL (GMN_DATABASE_URL)" in said
    assert str(tmp_path) not in said


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_running_service_names_the_settings_that_were_given_as_they_were(
    start, url, tmp_path, processes
):
    served = start(
        data_dir=tmp_path / "data",
        database_url=url,
        processes=processes,
        max_cost=80,
        forked=processes == 1,
    )
    answer = served.read("/v1/doctor")
    (settings,) = [one for one in answer["findings"] if one["text"].startswith("other than")]
    named = [part.partition("=")[0] for part in settings["text"].partition(": ")[2].split(", ")]
    given = ["ARTEFACT", "DATABASE_URL", "DATA_DIR", "DEVICE", "MAX_COST", "PORT", "PROCESSES"]
    given += ["RESERVED_DISK_BYTES", "RUNTIME"]
    assert sorted(named) == [f"GMN_{name}" for name in given]
    assert "GMN_MAX_COST=80.0" in settings["text"]
    assert answer["settings"]["GMN_MAX_CONNECTIONS"] == 900
    keys = [one["text"] for one in answer["findings"] if one["part"] == "keys"]
    backups = [one for one in answer["findings"] if one["part"] == "backups"]
    assert [one["state"] for one in backups] == ["ok"]
    assert "no API key" in keys[0]
