"""`gmn doctor`: what would keep a service from starting or working is named, with its remedy."""

from __future__ import annotations

import json

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

    def run(*options: str, **settings: object) -> tuple[int, dict[str, list[tuple[str, str]]]]:
        with monkeypatch.context() as given:
            for name, value in settings.items():
                given.setenv(f"GMN_{name.upper()}", str(value))
            status = gmn.run(["doctor", "--data-dir", str(tmp_path), "--json", *options])
        answer = json.loads(capsys.readouterr().out)
        assert answer["ok"] is (status == 0)
        found: dict[str, list[tuple[str, str]]] = {}
        for finding in answer["findings"]:
            found.setdefault(finding["part"], []).append((finding["state"], finding["text"]))
        return status, found

    return run


def test_a_new_directory_is_well(examine, tiny_artefact) -> None:
    status, found = examine()
    assert status == 0
    parts = ["settings", "disk", "clock", "record", "keys", "backups", "device", "artefact"]
    assert list(found) == parts
    ((state, text),) = found["keys"]
    assert state == "warning"
    assert "every program on this machine may do everything" in text
    assert "every client of a proxy" in text
    assert found["artefact"][0][0] == "ok"
    assert str(tiny_artefact) in found["artefact"][0][1]


def test_a_warning_fails_where_the_command_is_strict(examine) -> None:
    status, found = examine()
    assert status == 0
    assert found["backups"][0][0] == "warning"
    status, found = examine("--strict")
    assert status == 1
    assert found["backups"][0][0] == "warning"


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
def test_what_keeps_a_service_from_starting_is_an_error(examine, part, settings, named) -> None:
    status, found = examine(**settings)
    assert status == 1
    assert [text for state, text in found[part] if state == "error" and named in text]


def test_keys_backups_and_artefacts_of_others_are_looked_at(examine, tmp_path) -> None:
    record = Record(tmp_path)
    number = record.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
    record.crops.enroll(number, EMBEDDER, [new_crop(1)])
    soon, _ = create_key(scopes=["query"], expires_days=3)
    record.keys.add(soon)
    record.close()
    before = (tmp_path / FILE).read_bytes()
    backups = tmp_path / "backups"
    backups.mkdir()
    status, found = examine(backup_dir=backups)
    assert status == 0
    assert "1 galleries with 1 crops" in found["record"][0][1]
    warnings = {
        part: " ".join(t for s, t in some if s == "warning") for part, some in found.items()
    }
    assert f"gmn keys rotate {soon.key_id}" in warnings["keys"]
    assert "no key has the scope admin" in warnings["keys"]
    assert "on the disk of the data" in warnings["backups"]
    assert "there is none yet" in warnings["backups"]
    assert "not named: lobby" in warnings["artefact"]
    assert (tmp_path / FILE).read_bytes() == before
    (tmp_path / FILE).write_bytes(b"damage" * 1000)
    status, found = examine()
    assert status == 1
    assert found["record"][0][0] == "error"
