"""`gmn doctor`: what would keep a service from starting or working is named, with its remedy."""

import contextlib
import json
import os
import re
import resource
import shutil
import sqlite3
from collections import defaultdict

import pytest
import torch

import gmn
from model import precision
from model.artefact import load_artefact
from service.api_keys import create_key
from service.engine.runtimes import RuntimeChoice
from service.opening import open_folder
from service.record.sqlite import PRAGMAS
from service.record.transaction import FILE
from service.record.values import GallerySettings
from tests.service.gallery.new_crops import EMBEDDER, new_crop
from tests.service.locks import holder_of
from tests.waiting import eventually


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
        "runtime",
    ]
    assert list(found) == parts
    assert "every program on this machine may do everything" in said(found, "keys")
    assert "every client of a proxy" in said(found, "keys")
    assert str(tiny_artefact) in said(found, "artefact", "ok")
    assert "the next start chooses it" in said(found, "runtime", "ok")


def test_a_record_that_another_start_creates_or_was_killed_creating_is_new(examine, tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as creating:
        for pragma in PRAGMAS:
            creating.execute(f"PRAGMA {pragma}")
        assert (tmp_path / FILE).stat().st_size
        assert "there is none yet" in said(examine()[1], "record", "ok")
    assert "there is none yet" in said(examine()[1], "record", "ok")
    with contextlib.closing(open_folder(tmp_path)) as record:
        assert record.galleries.all() == []
    assert "0 galleries" in said(examine()[1], "record", "ok")


@pytest.mark.parametrize(("options", "expected"), [([], 0), (["--strict"], 1)])
def test_a_warning_fails_where_the_command_is_strict(examine, options, expected):
    status, found = examine(*options)
    assert status == expected
    assert said(found, "backups")


CHOSEN = {"openvino float32": 74.0, "torch float32": 27.0}
NOW = r"\d+(\.\d+)? crops a second of processor time now"


def test_the_runtime_of_the_features_is_named_with_its_speeds(
    examine, start, ask, tmp_path, tiny_artefact
):
    embedder = load_artefact(tiny_artefact).description.embedding_fingerprint
    choice = RuntimeChoice(
        runtime="openvino", dtype="float32", device="cpu", crops_per_cpu_second=CHOSEN
    )
    with contextlib.closing(open_folder(tmp_path)) as record:
        record.runtimes.keep_first(embedder, choice.model_dump_json())
    named = "openvino in float32 on cpu computes the features"
    measured = "when it was chosen: openvino float32 74, torch float32 27"
    status, found = examine(artefact=tiny_artefact, device="cpu")
    assert status == 0
    assert re.fullmatch(f"{named}; {NOW}; {measured}", said(found, "runtime", "ok"))
    served = start(data_dir=tmp_path, runtime="auto")
    _, found, _ = ask(served)
    assert re.fullmatch(f"{named}; {NOW}; {measured}", said(found, "runtime", "ok"))
    # Beside a service, the command leaves the processor to it.
    _, found = examine()
    assert said(found, "runtime", "ok") == f"{named}; {measured}"


def test_a_stored_runtime_that_cannot_be_used_is_an_error_with_the_remedy(
    examine, tmp_path, tiny_artefact
):
    embedder = load_artefact(tiny_artefact).description.embedding_fingerprint
    with contextlib.closing(open_folder(tmp_path)) as record:
        record.runtimes.keep_first(
            embedder, '{"runtime": "openvino", "dtype": "float32", "device": "cpu"}'
        )
    status, found = examine(runtime="torch")
    assert status == 1
    assert "GMN_RUNTIME=torch" in said(found, "runtime", "error")
    assert "gmn store forget-runtime" in said(found, "runtime", "error")


def test_pytorch_on_a_cpu_that_was_never_compared_with_openvino_is_warned_of(
    examine, tmp_path, tiny_artefact
):
    embedder = load_artefact(tiny_artefact).description.embedding_fingerprint
    with contextlib.closing(open_folder(tmp_path)) as record:
        record.runtimes.keep_first(
            embedder, '{"runtime": "torch", "dtype": "float32", "device": "cpu"}'
        )
    status, found = examine()
    assert status == 0
    assert "gmn store forget-runtime" in said(found, "runtime")
    # Whoever asks for PyTorch has it.
    _, found = examine(runtime="torch")
    assert "torch in float32 on cpu" in said(found, "runtime", "ok")


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
    with contextlib.closing(open_folder(tmp_path)) as record:
        number = record.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
        record.crops.enroll(number, EMBEDDER, [new_crop(1)])
        soon, _ = create_key(scopes=["query"], expires_days=3)
        record.keys.add(soon)
    file = tmp_path / FILE
    before = file.read_bytes()
    backups = tmp_path / "backups"
    backups.mkdir()
    status, found = examine(backup_dir=backups)
    assert status == 1
    assert f"{EMBEDDER} filled lobby" in said(found, "artefact", "error")
    assert "gmn serve starts with --accept-unserved alone" in said(found, "artefact", "error")
    status, found = examine(accept_unserved=True)
    assert status == 0
    assert f"{EMBEDDER} filled lobby" in said(found, "artefact")
    assert "1 gallery with 1 crop, " in found["record"][0][1]
    assert f"gmn keys rotate {soon.key_id}" in said(found, "keys")
    assert "no key has the scope admin" in said(found, "keys")
    assert "on the disk of the data" in said(found, "backups")
    assert "there is none yet" in said(found, "backups")
    assert file.read_bytes() == before
    assert not list(tmp_path.glob(f"{FILE}-*"))
    file.write_bytes(b"damage" * 1000)
    status, found = examine()
    assert (status, found["record"][0][0]) == (1, "error")


@pytest.mark.parametrize(
    ("left", "named"),
    [
        ("deletions.log", "gmn restore"),
        ("new.part", "start over"),
    ],
)
def test_a_directory_whose_record_is_elsewhere_or_lost_is_not_called_new(
    examine, tmp_path, left, named
):
    with contextlib.closing(open_folder(tmp_path)) as record:
        record.keys.add(create_key(scopes=["admin"])[0])
    (tmp_path / FILE).unlink()
    if left != "deletions.log":
        (tmp_path / "deletions.log").rename(tmp_path / left)
    status, found = examine()
    assert status == 1
    assert named in said(found, "record", "error")
    assert not said(found, "record", "ok")
    # Nor does any command make another record there.
    assert gmn.run(["keys", "create", "--scope", "admin", "--data-dir", str(tmp_path)]) == 2


@pytest.mark.promise("older-copies")
def test_an_older_copy_of_the_record_is_warned_of_before_and_by_the_service(
    ask, examine, start, tmp_path
):
    with contextlib.closing(open_folder(tmp_path)) as record:
        number = record.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
    older = shutil.copy(tmp_path / FILE, tmp_path / "older")
    with contextlib.closing(open_folder(tmp_path)) as record:
        record.galleries.delete(number)
    assert not said(examine()[1], "record")
    shutil.copy(older, tmp_path / FILE)
    warning = said(examine()[1], "record")
    assert "an older copy of the record: it lacks deletions" in warning
    served = start(data_dir=tmp_path)
    assert said(ask(served)[1], "record") == warning
    assert served.log.read_text().count("older copy") == 1
    assert served.stop() == 0
    assert not said(examine()[1], "record")


def test_a_folder_of_backups_that_cannot_be_written_is_an_error(examine, tmp_path):
    file = tmp_path / "backups"
    file.touch()
    status, found = examine(backup_dir=file)
    assert status == 1
    assert "GMN_BACKUP_DIR" in said(found, "backups", "error")


@pytest.fixture
def ask(capsys, monkeypatch, tmp_path):
    """Return a function that asks a running service, from another directory and without settings.

    It returns the status, the findings by part, and what was said on standard error.
    """
    for name in [name for name in os.environ if name.startswith("GMN_")]:
        monkeypatch.delenv(name)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)

    def run(served, *options):
        url = str(served.http.base_url).rstrip("/")
        status = gmn.run(["doctor", "--url", url, "--json", *options])
        printed, errors = capsys.readouterr()
        found = defaultdict(list)
        for finding in json.loads(printed)["findings"] if printed else ():
            found[finding["part"]].append((finding["state"], finding["text"]))
        assert not list(elsewhere.iterdir())
        return status, found, errors

    return run


def test_a_running_service_is_asked_for_its_own_settings_and_state(ask, start, tmp_path):
    backups = tmp_path / "backups"
    backups.mkdir()
    served = start(backup_dir=backups, kept_days=3, redis_url="redis://reader:hidden@127.0.0.1:1/0")
    eventually(lambda: list(backups.glob("2*")), 60)
    status, found, _ = ask(served)
    assert status == 0
    parts = ["settings", "service", "runtime", "disk", "files", "clock", "record", "keys"]
    assert list(found) == [*parts, "backups", "device", "artefact"]
    settings = said(found, "settings", "ok")
    assert "GMN_KEPT_DAYS=3" in settings
    assert "GMN_REDIS_URL=redis://***@127.0.0.1:1/0" in settings
    assert "Redis does not respond" in said(found, "service")
    assert "the record responds (in_step)" in said(found, "service", "ok")
    assert "0 writes wait" in said(found, "service", "ok")
    assert "1 gallery with 0 crops, " in said(found, "record", "ok")
    assert "every program on this machine may do everything" in said(found, "keys")
    assert f"1 in {backups}" in said(found, "backups", "ok")
    assert "tiny.safetensors" in said(found, "artefact", "ok")
    assert ask(served, "--strict")[0] == 1
    answer = served.read("/v1/doctor")
    assert answer["settings"]["GMN_PORT"] == served.http.base_url.port
    assert "hidden" not in json.dumps(answer)


def test_a_backup_that_failed_is_told_by_the_service_and_beside_it(
    ask, examine, start, tmp_path, capsys
):
    backups = tmp_path / "backups"
    backups.mkdir()
    served = start(data_dir=tmp_path, backup_dir=backups, reserved_disk_bytes=10**18)
    eventually(lambda: (tmp_path / "backup.failed").is_file(), 60)
    status, found, _ = ask(served)
    assert status == 1
    assert "GMN_RESERVED_DISK_BYTES" in said(found, "backups", "error")
    status, found = examine(backup_dir=backups)
    assert status == 1
    assert "the last try failed at" in said(found, "backups", "error")
    # Once one was made, by whatever program, the failure is over.
    assert gmn.run(["backup", str(backups), "--data-dir", str(tmp_path)]) == 0
    capsys.readouterr()
    _, found, _ = ask(served)
    assert not said(found, "backups", "error")


def test_beside_a_running_service_the_command_says_that_it_sees_this_shell_alone(
    examine, open_service, tmp_path
):
    served = open_service(data_dir=tmp_path)
    _, found = examine()
    assert "the environment of this shell" in said(found, "service", "ok")
    assert "gmn doctor --url" in said(found, "service", "ok")
    assert served.stop() == 0
    _, found = examine()
    assert "service" not in found


def test_the_right_key_is_needed_and_the_missing_scope_named(ask, start, monkeypatch):
    served = start()
    _, admin = served.make_key("admin")
    _, reader = served.make_key("query", headers=admin)
    status, _, errors = ask(served)
    assert status == 2
    assert "this service asks for a key" in errors
    assert "needs a key with the scope admin for every gallery" in errors
    status, _, errors = ask(served, "--api-key", reader["Authorization"].removeprefix("Bearer "))
    assert status == 2
    assert "has the scope query, and this call needs admin" in errors
    monkeypatch.setenv("GMN_API_KEY", admin["Authorization"].removeprefix("Bearer "))
    status, found, _ = ask(served)
    assert status == 0
    assert "valid: 2" in said(found, "keys", "ok")


def test_an_address_without_a_service_is_named(capsys):
    assert gmn.run(["doctor", "--url", "http://127.0.0.1:1"]) == 2
    assert "http://127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.promise("stopped-holder")
@pytest.mark.parametrize("lock", ["record.lock", "audit.lock", "locks/exports-1"])
def test_a_process_that_stands_still_with_a_lock_is_named_and_one_that_goes_on_is_not(
    examine, tmp_path, lock
):
    with holder_of(tmp_path / lock) as holder:
        assert said(examine()[1], "locks", "error") == ""
        holder.stand_still()
        status, found = examine()
        assert status == 1
        assert f"process {holder.pid} holds {lock} and stands still" in said(
            found, "locks", "error"
        )


DRIVER = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (dvs)\nGCC\n"


@pytest.mark.parametrize(("version", "is_told"), [("570.86.15", True), ("580.65.06", False)])
def test_a_driver_that_is_too_old_for_pytorch_is_told(
    examine, monkeypatch, tmp_path, version, is_told
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    file = tmp_path / "version"
    file.write_text(DRIVER.format(version))
    monkeypatch.setattr(precision, "DRIVER_FILE", file)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    _, found = examine(device="auto")
    assert ("the driver is 570.86.15" in said(found, "device")) == is_told
    _, found = examine(device="cuda")
    needs = "PyTorch with CUDA 13.0 needs NVIDIA's driver 580 or newer"
    assert (needs in said(found, "device", "error")) == is_told


def test_without_a_driver_the_one_that_is_needed_is_named(examine, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "DRIVER_FILE", tmp_path / "none")
    _, found = examine(device="cuda")
    assert "no driver is loaded, and PyTorch with CUDA" in said(found, "device", "error")
