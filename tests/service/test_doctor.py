"""`gmn doctor`: what would keep a service from starting or working is named, with its remedy."""

import contextlib
import json
import resource
from collections import defaultdict

import pytest

import gmn
from service.http.keys import create_key
from service.record.record import Record
from service.record.transaction import FILE
from service.record.values import GallerySettings
from tests.service.gallery.new_crops import EMBEDDER, new_crop


@pytest.fixture
def examine(tmp_path, tiny_artefact, monkeypatch, capsys):
    """Return a function that runs the command; it returns the status and the findings by part."""
    for name in ("GMN_REDIS_URL", "GMN_API_KEYS_FILE", "GMN_BACKUP_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GMN_ARTEFACT", str(tiny_artefact))
    monkeypatch.setenv("GMN_DEVICE", "cpu")

    def run(*options, **settings):
        for name, value in settings.items():
            monkeypatch.setenv(f"GMN_{name.upper()}", str(value))
        status = gmn.run(["doctor", "--data-dir", str(tmp_path), "--json", *options])
        answer = json.loads(capsys.readouterr().out)
        assert answer["ok"] is (status == 0)
        found = defaultdict(list)
        for finding in answer["findings"]:
            found[finding["part"]].append((finding["state"], finding["text"]))
        return status, found

    return run


def said(found, part, state="warning"):
    return " ".join(text for of_state, text in found[part] if of_state == state)


def test_a_new_directory_is_well(examine, tiny_artefact):
    status, found = examine()
    assert status == 0
    parts = [
        "settings",
        "disk",
        "files",
        "clock",
        "record",
        "keys",
        "backups",
        "device",
        "artefact",
    ]
    assert list(found) == parts
    assert "every program on this machine may do everything" in said(found, "keys")
    assert "every client of a proxy" in said(found, "keys")
    assert str(tiny_artefact) in said(found, "artefact", "ok")


@pytest.mark.parametrize(("options", "expected"), [([], 0), (["--strict"], 1)])
def test_a_warning_fails_where_the_command_is_strict(examine, options, expected):
    status, found = examine(*options)
    assert status == expected
    assert said(found, "backups")


@pytest.mark.parametrize(
    ("part", "settings", "named"),
    [
        ("settings", {"backup_keep": 0}, "GMN_BACKUP_KEEP"),
        ("disk", {"reserved_disk_bytes": 10**18}, "less than GMN_RESERVED_DISK_BYTES"),
        ("keys", {"host": "0.0.0.0"}, "gmn keys create"),
        (
            "keys",
            {"api_keys_file": "no-such-file"},  # pragma: allowlist secret
            "the API keys cannot be read",
        ),
        ("device", {"device": "cuda"}, "no GPU is usable"),
        ("artefact", {"artefact": "no-such.safetensors"}, "no-such.safetensors"),
    ],
)
def test_what_keeps_a_service_from_starting_is_an_error(examine, part, settings, named):
    status, found = examine(**settings)
    assert status == 1
    assert named in said(found, part, "error")


def test_a_limit_under_which_no_service_starts_is_an_error(examine, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))
    status, found = examine()
    assert status == 1
    assert "may open 100 files" in said(found, "files", "error")
    assert "ulimit -n" in said(found, "files", "error")


def test_keys_backups_and_artefacts_of_others_are_looked_at(examine, tmp_path):
    with contextlib.closing(Record(tmp_path)) as record:
        number = record.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
        record.crops.enroll(number, EMBEDDER, [new_crop(1)])
        soon, _ = create_key(scopes=["query"], expires_days=3)
        record.keys.add(soon)
    file = tmp_path / FILE
    before = file.read_bytes()
    backups = tmp_path / "backups"
    backups.mkdir()
    status, found = examine(backup_dir=backups)
    assert status == 0
    assert "1 galleries with 1 crops" in found["record"][0][1]
    assert f"gmn keys rotate {soon.key_id}" in said(found, "keys")
    assert "no key has the scope admin" in said(found, "keys")
    assert "on the disk of the data" in said(found, "backups")
    assert "there is none yet" in said(found, "backups")
    assert "not named: lobby" in said(found, "artefact")
    assert file.read_bytes() == before
    file.write_bytes(b"damage" * 1000)
    status, found = examine()
    assert (status, found["record"][0][0]) == (1, "error")


@pytest.mark.parametrize(
    ("left", "named"),
    [
        ("record.acknowledged", "gmn store recover"),
        ("new.part", "start over"),
        ("galleries.sqlite3", "gmn store upgrade"),
    ],
)
def test_a_directory_whose_record_is_elsewhere_or_lost_is_not_called_new(
    examine, tmp_path, left, named
):
    with contextlib.closing(Record(tmp_path)) as record:
        record.keys.add(create_key(scopes=["admin"])[0])
    (tmp_path / FILE).unlink()
    if left != "record.acknowledged":
        (tmp_path / "record.acknowledged").rename(tmp_path / left)
    status, found = examine()
    assert status == 1
    assert named in said(found, "record", "error")
    assert not said(found, "record", "ok")
    # Nor does any command make another record there.
    assert gmn.run(["keys", "create", "--scope", "admin", "--data-dir", str(tmp_path)]) == 2


def test_a_folder_of_backups_that_cannot_be_written_is_an_error(examine, tmp_path):
    file = tmp_path / "backups"
    file.touch()
    status, found = examine(backup_dir=file)
    assert status == 1
    assert "GMN_BACKUP_DIR" in said(found, "backups", "error")
