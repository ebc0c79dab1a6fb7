"""What the set-up of the bridge to Frigate finds missing, and the units that it prints."""

import json
import os
import shlex
from dataclasses import replace

import pytest

from gmn_camera import frigate_units
from gmn_camera.broker import read_broker
from gmn_camera.frigate_setup import (
    FrigateConfig,
    FrigateProfile,
    find_broker_problem,
    find_problems,
)
from gmn_camera.frigate_units import UnitSettings, write_unit
from tests.camera.stand_in_frigate import camera_settings
from tests.outside import free_port, installed, run_command

ADMIN = FrigateProfile(username="bridge", role="admin")
VIEWER = FrigateProfile(username="bridge", role="viewer")


def problems(version="0.16.4", profile=ADMIN, mqtt=None, **cameras):
    cameras = cameras or {"gate": camera_settings()}
    config = FrigateConfig.model_validate(
        {"mqtt": mqtt or {"enabled": True, "host": "mqtt"}, "cameras": cameras}
    )
    return "\n".join(find_problems(version, profile, config))


@pytest.mark.parametrize(
    "version", ["0.14.1", "0.15.2", "0.16.4-2c5a5d5", "0.17.2", "0.18.0-beta1"]
)
def test_nothing_is_missing_in_a_frigate_that_is_set_up(version):
    assert problems(version) == ""


def test_an_old_frigate_is_named():
    assert problems("0.13.2") == "Frigate 0.13.2 is older than 0.14; update it"


def test_a_user_who_may_name_no_event_is_named_where_frigate_has_roles():
    assert "'bridge' has the role 'viewer'" in problems(profile=VIEWER)
    assert problems("0.15.2", profile=FrigateProfile(username="bridge")) == ""


def test_mqtt_that_is_off_is_named():
    assert "MQTT is off" in problems(mqtt={"enabled": False})


def test_snapshots_that_are_off_are_named_with_their_cameras():
    found = problems(
        gate=camera_settings(enabled=False),
        yard=camera_settings(),
        hall=camera_settings(enabled=False),
    )
    assert found == "gate, hall: snapshots are off; write enabled: true below snapshots:"


def test_clean_pictures_that_are_not_kept_are_named():
    assert problems(gate=camera_settings(clean_copy=False)).startswith("gate: ")
    without_setting = camera_settings()
    del without_setting["snapshots"]["clean_copy"]
    assert problems("0.18.0", gate=without_setting) == ""


def test_cameras_without_people_are_named():
    found = problems(gate={**camera_settings(), "objects": {"track": ["car"]}})
    assert found.startswith("gate: Frigate follows no people")


def test_cameras_that_are_off_do_not_count():
    off = {**camera_settings(enabled=False), "enabled": False}
    assert problems(gate=off, yard=camera_settings()) == ""
    assert problems(gate=off) == "Frigate has no camera that is on"


def test_of_many_cameras_some_are_named():
    found = problems(**{f"camera{number}": camera_settings(enabled=False) for number in range(9)})
    assert found.startswith("camera0, camera1, camera2, camera3, camera4 and 4 more: ")


def test_a_broker_that_is_not_there_is_named():
    broker = read_broker(f"127.0.0.1:{free_port()}", None, None, tls=False)
    assert "no broker answers there" in find_broker_problem(broker, "frigate")


def settings(**changed):
    return UnitSettings(
        **{
            "frigate": "http://frigate.example:5000",
            "frigate_user": None,
            "frigate_password_file": None,
            "frigate_certificate": None,
            "broker": read_broker("mqtt.example", None, None, tls=False),
            "password_file": None,
            "prefix": "frigate",
            "min_height": 96,
            "url": "http://127.0.0.1:8000",
            "secrets": None,
            **changed,
        }
    )


OPTIONS = [
    "camera",
    "frigate",
    "--frigate=http://frigate.example:5000",
    "--broker=mqtt.example:1883",
    "--prefix=frigate",
    "--min-height=96",
    "--url=http://127.0.0.1:8000",
]


def line_of(unit, name):
    (found,) = [line for line in unit.splitlines() if line.strip().startswith(name)]
    return found.strip().removeprefix(name).strip()


def test_a_unit_of_systemd_starts_the_bridge(tmp_path):
    unit = write_unit("systemd", settings(secrets=tmp_path / "secrets.env"))
    assert shlex.split(line_of(unit, "ExecStart="))[-len(OPTIONS) :] == OPTIONS
    assert line_of(unit, "EnvironmentFile=") == str(tmp_path / "secrets.env")
    assert "EnvironmentFile" not in write_unit("systemd", settings())


def test_a_service_of_compose_starts_the_bridge(tmp_path):
    unit = write_unit("compose", settings(secrets=tmp_path / "secrets.env"))
    assert json.loads(line_of(unit, "command:")) == OPTIONS
    assert json.loads(line_of(unit, "env_file:")) == str(tmp_path / "secrets.env")
    assert "volumes:" not in unit
    assert "env_file" not in write_unit("compose", settings())


@pytest.fixture
def with_files(tmp_path):
    """Return settings with files that the bridge reads itself, and their paths by option."""
    files = {
        "frigate_password_file": tmp_path / "frigate",
        "frigate_certificate": tmp_path / "certificate",
        "password_file": tmp_path / "broker",
    }
    broker = read_broker("mqtt.example", "gmn", "drawn secret", tls=True)
    given = settings(frigate_user="bridge", broker=broker, **files)
    return given, {f"--{name.replace('_', '-')}": file for name, file in files.items()}


def test_compose_mounts_files_with_passwords_for_the_user_who_may_read_them(with_files):
    given, files = with_files
    unit = write_unit("compose", given)
    command = json.loads(line_of(unit, "command:"))
    assert {f"{option}={file}" for option, file in files.items()} <= set(command)
    assert {"--frigate-user=bridge", "--username=gmn", "--tls"} <= set(command)
    assert json.loads(line_of(unit, "volumes:")) == [f"{file}:{file}:ro" for file in files.values()]
    assert json.loads(line_of(unit, "user:")) == f"{os.getuid()}:{os.getgid()}"
    assert "drawn secret" not in unit


def test_systemd_hands_files_with_passwords_over(with_files):
    given, files = with_files
    unit = write_unit("systemd", given)
    command = shlex.split(line_of(unit, "ExecStart="))
    for option, file in files.items():
        assert f"LoadCredential={option[2:]}:{file}" in unit
        assert f"{option}=${{CREDENTIALS_DIRECTORY}}/{option[2:]}" in command
    assert "drawn secret" not in unit


def test_what_systemd_and_compose_would_replace_is_escaped():
    given = settings(prefix="a $b %c")
    assert '"--prefix=a $$b %%c"' in write_unit("systemd", given)
    assert '"--prefix=a $$b %c"' in write_unit("compose", given)


def test_the_user_who_sets_it_up_runs_it_unless_it_is_root(monkeypatch):
    monkeypatch.setattr(frigate_units.getpass, "getuser", lambda: "ann")
    assert "\nUser=ann\n" in write_unit("systemd", settings())
    monkeypatch.setattr(frigate_units.getpass, "getuser", lambda: "root")
    assert "\nDynamicUser=yes\n" in write_unit("systemd", settings())


def test_systemd_finds_no_fault_in_the_unit(with_files, tmp_path):
    program = installed("systemd-analyze")
    file = tmp_path / "gmn-frigate.service"
    given, _ = with_files
    given = replace(given, prefix="a $b %c", secrets=tmp_path / "secrets.env")
    file.write_text(write_unit("systemd", given))
    checked = run_command(program, "verify", "--man=no", file)
    assert "gmn-frigate.service" not in checked.stderr, checked.stderr
