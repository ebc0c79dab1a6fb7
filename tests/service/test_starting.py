"""The service does not start with wrong settings or data, and says why."""

import contextlib
import errno
import json
import os
import resource
import socket
import sqlite3
from importlib import import_module

import pytest

from model.problems import NO_THREAD, InputProblem
from service.commands.processes import ServiceConfig
from service.commands.serve import serve
from service.errors import MachineFull
from service.opening import open_folder
from service.ops import data_directory
from service.ops.data_directory import require_local_disk
from service.settings import Settings, read_settings
from tests.outside import run_command
from tests.service.small_disk import small_disk


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GMN_DEVICE", "cpu")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("GMN_MAX_BATCH", "many", "GMN_MAX_BATCH"),
        ("GMN_MAX_BATCH", "0", "GMN_MAX_BATCH"),
        ("GMN_DEVICE", "tpu", "GMN_DEVICE"),
        ("GMN_MAX_BACTH", "8", "did you mean GMN_MAX_BATCH"),
        ("GMN_MAX_COST", "0", "GMN_MAX_COST"),
        ("GMN_QUALITY", "strict", "GMN_QUALITY"),
        ("GMN_BACKUP_EVERY", "inf", "GMN_BACKUP_EVERY"),
        ("GMN_BACKUP_EVERY", "1e12", "GMN_BACKUP_EVERY"),
        ("GMN_STALL_SECONDS", "inf", "GMN_STALL_SECONDS"),
        ("GMN_MIN_CROP_ASPECT", "7", r"min_crop_aspect \(7\) is above max_crop_aspect \(6\)"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    with pytest.raises(InputProblem, match=said):
        read_settings()


def test_an_option_comes_before_the_environment(monkeypatch):
    monkeypatch.setenv("GMN_PORT", "9000")
    assert read_settings(port=9001, host=None).port == 9001


def test_an_empty_setting_is_as_one_that_is_not_set(monkeypatch):
    expected = read_settings()
    for name in ("REDIS_URL", "PREVIOUS", "DATA_DIR", "IMPORT_DIR", "API_KEYS_FILE", "PORT"):
        monkeypatch.setenv(f"GMN_{name}", "")
    assert read_settings() == expected


def test_each_of_many_processes_has_a_connection_and_receives_a_full_body():
    share = read_settings(processes=64, max_connections=10).of_one_process
    assert share.max_queued_bytes == share.max_body_bytes
    assert share.max_connections == 1


def test_a_taken_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputProblem, match=f"127.0.0.1:{port}: cannot listen"):
            serve(port=port)


def test_too_few_open_files_are_named_before_a_port_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(InputProblem, match=r"may open 100 files.*256.*ulimit -n"),
    ):
        serve(port=taken.getsockname()[1], data_dir=tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_missing_artefact_is_named(tmp_path):
    with pytest.raises(InputProblem, match="no such file"):
        serve(artefact=str(tmp_path / "none.safetensors"), port=0)


@pytest.mark.promise("new-data-directory")
def test_a_new_data_directory_is_announced_and_one_that_is_there_is_not(start, tmp_path):
    said = f"made a new data directory {tmp_path / 'typo'}; nothing is enrolled"
    made = start(data_dir=tmp_path / "typo")
    assert made.stop() == 0
    (line,) = [line for line in made.log.read_text().splitlines() if said in line]
    assert json.loads(line)["level"] == "warning"
    # It says how to find the former one.
    assert "name their directory with --data-dir or GMN_DATA_DIR" in line
    assert "find / -name record.sqlite3" in line
    again = start(data_dir=tmp_path / "typo")
    assert again.stop() == 0
    assert "a new data directory" not in again.log.read_text()


def test_a_service_that_joins_another_on_its_data_directory_says_so(start, tmp_path):
    first = start(data_dir=tmp_path / "data")
    second = start(data_dir=tmp_path / "data")
    said = f"another service runs on {tmp_path / 'data'}; this one joins it"
    assert second.log.read_text().count(said) == 1
    assert first.stop() == 0
    assert second.stop() == 0
    assert "another service" not in first.log.read_text()
    alone = start(data_dir=tmp_path / "data")
    assert alone.stop() == 0
    assert "another service" not in alone.log.read_text()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), r"has too little memory left for this; give the service more memory"),
        (RuntimeError(NO_THREAD), r"has too little memory left for this; give the service more"),
        (MachineFull("the machine has no memory", "add some"), "has no memory; add some"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
    ],
)
def test_a_machine_on_which_no_service_starts_is_told_from_a_request(monkeypatch, error, said):
    def fail(_):
        raise error

    # Other modules, which a start imports, keep the runtime that they name.
    import_module("service.app")
    monkeypatch.setattr("service.runtime.Runtime", fail)
    with pytest.raises(InputProblem, match=f"cannot start, because the .*{said}") as refused:
        ServiceConfig(Settings()).build()
    assert str(refused.value).endswith(", and start it again")
    assert "request" not in str(refused.value)


def a_file(path):
    path.write_text("in the way")


def no_database(folder):
    folder.mkdir()
    (folder / "record.sqlite3").write_text("this is no database" * 100)


def a_record_of_another_format(folder):
    folder.mkdir()
    open_folder(folder).close()
    with contextlib.closing(sqlite3.connect(folder / "record.sqlite3")) as database:
        database.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (a_file, "data directory"),
        (no_database, r"record\.sqlite3 is damaged"),
        (a_record_of_another_format, "use the program version that wrote it"),
    ],
)
def test_a_data_directory_that_cannot_be_used_is_named(tmp_path, tiny_artefact, make, said):
    make(tmp_path / "data")
    with pytest.raises(InputProblem, match=said):
        serve(artefact=str(tiny_artefact), data_dir=tmp_path / "data", port=0)


def test_several_processes_name_a_data_directory_that_cannot_be_used(tmp_path):
    a_file(tmp_path / "data")
    with pytest.raises(InputProblem, match="data: cannot be used"):
        serve(port=0, processes=2, data_dir=tmp_path / "data")


def test_a_data_directory_on_a_network_file_system_is_refused(tmp_path, monkeypatch):
    here = run_command("stat", "-f", "-c", "%T", tmp_path, check=True)
    kind = here.stdout.strip().replace("ext2/ext3", "ext4")
    require_local_disk(tmp_path / "data")
    monkeypatch.setattr(data_directory, "NETWORK_FILE_SYSTEMS", {kind})
    with pytest.raises(InputProblem, match=f"network file system {kind}.*a disk of this machine"):
        require_local_disk(tmp_path / "data")


def test_a_network_file_system_is_recognised_by_any_name(tmp_path, monkeypatch):
    monkeypatch.setattr(data_directory, "NETWORK_FILE_SYSTEMS", {"tmpfs"})
    for name in ("Aufnahmen für\\München", os.fsdecode(b"caf\xe9 \x85")):
        path = tmp_path / name
        refused = pytest.raises(InputProblem, match="network file system tmpfs")
        with small_disk(path, 1), refused:
            require_local_disk(path / "data")


def test_of_two_mounts_at_one_place_the_later_one_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(data_directory, "NETWORK_FILE_SYSTEMS", {"tmpfs"})
    covered = tmp_path / "data"
    covered.mkdir()
    mounts = f"remote {covered} tmpfs rw 0 0\ndisk {covered} ext4 rw 0 0\n"
    monkeypatch.setattr(data_directory, "MOUNTS", tmp_path / "mounts")
    (tmp_path / "mounts").write_text(mounts)
    require_local_disk(covered)
    lines = mounts.splitlines(keepends=True)
    (tmp_path / "mounts").write_text("".join(reversed(lines)))
    with pytest.raises(InputProblem, match="network file system tmpfs"):
        require_local_disk(covered)


LINKS = {
    "GMN_SERVICE_HOST": "10.96.0.12",
    "GMN_SERVICE_PORT": "8000",
    "GMN_SERVICE_PORT_HTTP": "8000",
    "GMN_PORT": "tcp://10.96.0.12:8000",
    "GMN_PORT_8000_TCP": "tcp://10.96.0.12:8000",
    "GMN_PORT_8000_TCP_PROTO": "tcp",
    "GMN_PORT_8000_TCP_PORT": "8000",
    "GMN_PORT_8000_TCP_ADDR": "10.96.0.12",
    "GMN_REID_PORT": "udp://[fd00::12]:8000",
    "GMN_REID_SERVICE_HOST": "fd00::12",
    "GMN_REDIS_PORT_6379_TCP_ADDR": "10.96.0.13",
    "GMN_NAME": "/page/gmn",
    "GMN_DB_NAME": "/page/gmn_db",
    "GMN_ENV_PATH": "/usr/bin",
    "GMN_DB_ENV_PG_VERSION": "15",
}


def set_all(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_links_of_kubernetes_and_docker_are_no_settings(monkeypatch):
    expected = read_settings()
    set_all(monkeypatch, LINKS)
    assert read_settings() == expected
    assert read_settings(port=9000).port == 9000


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("GMN_REID_PORT", "9000", "GMN_REID_PORT: there is no such setting"),
        ("GMN_SERVICE_HOTS", "10.96.0.12", "GMN_SERVICE_HOTS: there is no such setting"),
        ("GMN_NAME", "gmn", "GMN_NAME: there is no such setting"),
        ("GMN_PORTS", "9000", "did you mean GMN_PORT"),
        ("GMN_PORT", "http", "GMN_PORT: .* but it is 'http'"),
        ("GMN_CAMERAS", "2", "GMN_CAMERAS: there is no such setting"),
    ],
)
def test_a_typo_beside_links_is_named(monkeypatch, name, value, said):
    set_all(monkeypatch, LINKS | {name: value})
    with pytest.raises(InputProblem, match=said):
        read_settings()


def test_settings_of_the_other_programs_do_not_stop_the_service(monkeypatch):
    expected = read_settings()
    others = ("GMN_URL", "GMN_API_KEY", "GMN_CAMERA_URL", "GMN_CAMERA_CONFIG")
    set_all(monkeypatch, dict.fromkeys(others, "of another program"))
    assert read_settings() == expected


def test_one_line_of_the_log_names_the_links_that_are_ignored(start):
    ours = {name.removeprefix("GMN_"): value for name, value in LINKS.items() if name != "GMN_PORT"}
    served = start(**ours)
    assert served.http.get("/readyz").status_code == 200
    lines = [line for line in served.log.read_text().splitlines() if "enableServiceLinks" in line]
    assert len(lines) == 1
    for name in ours:
        assert f"GMN_{name}" in lines[0]
