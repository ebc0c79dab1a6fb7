"""Settings of cameras, and what a wrong one is answered with."""

import re
import unicodedata
from datetime import datetime
from pathlib import Path

import pytest

from gmn_camera.broker import read_broker
from gmn_camera.service import read_service
from gmn_camera.settings import CameraSettings, read_config, read_options
from gmn_client import InvalidInput
from gmn_client.zones import Zone

GATE = {"camera": "gate", "source": "rtsp://camera.example/1"}


@pytest.mark.parametrize(
    ("hours", "on", "off"),
    [
        ("08:00-18:00", ["08:00", "17:59"], ["07:59", "18:00"]),
        ("22:00-06:00", ["22:00", "05:59"], ["06:00", "21:59"]),
        ("18:00-24:00", ["18:00", "23:59"], ["00:00", "17:59"]),
        ("00:00-00:00", ["00:00", "12:00", "23:59"], []),
        ("08:00-08:00", ["07:59", "08:00"], []),
        ("", ["00:00", "12:00"], []),
    ],
)
def test_a_camera_is_on_within_its_hours(hours, on, off):
    settings = read_options({**GATE, "hours": hours})
    for clock, expected in [*((clock, True) for clock in on), *((clock, False) for clock in off)]:
        now = datetime.fromisoformat(f"2026-03-01T{clock}:30")
        assert settings.is_on(now) is expected, clock


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("zone", ["0,0 1,1"], "--zone: '0,0 1,1' is no zone; write 3 to 64 corners"),
        ("zone", ["0,0 1,1 2,0"], "--zone: '0,0 1,1 2,0' is no zone"),
        ("zone", ["..: 0,0 1,1 1,0"], "--zone: '..' is no name of a zone; write 1 to 64 printable"),
        ("zone", [f"{65 * 'a'}: 0,0 1,1 1,0"], f"--zone: '{65 * 'a'}' is no name of a zone"),
        ("zone", [": 0,0 1,1 1,0"], "--zone: '' is no name of a zone"),
        ("zone", ["a\tb: 0,0 1,1 1,0"], r"--zone: 'a\tb' is no name of a zone"),
        ("zone", ["door: 0,0 1,1"], "--zone: 'door: 0,0 1,1' is no zone; write 3 to 64 corners"),
        ("zone", ["0,0 1,1 a,0"], "--zone: '0,0 1,1 a,0' is no zone"),
        ("zone", ["0.5,0.5 0.5,0.5 0.5,0.5"], "--zone: '0.5,0.5 0.5,0.5 0.5,0.5' is no zone, as"),
        (
            "zone",
            ["0,1 0.5,1 1,1"],
            "--zone: '0,1 0.5,1 1,1' is no zone, as its corners enclose no",
        ),
        ("zone", ["a: 0,0 0.3,0.3 0.9,0.9"], "--zone: 'a: 0,0 0.3,0.3 0.9,0.9' is no zone, as its"),
        ("zone", ["0,0 1,0 1,1 1,0"], "--zone: '0,0 1,0 1,1 1,0' is no zone, as its corners"),
        ("hours", "8-18", "--hours: '8-18' are no hours; write them like 22:00-06:00"),
        ("fps", 0.5, "--fps: Input should be greater than or equal to 2"),
        ("min_height", 5000, "--min-height: Input should be less than or equal to 2000"),
        ("started", "2026-03-01T08:00:00", "--started: Input should have timezone info"),
        ("queue", 1, "--queue: Input should be greater than or equal to 16"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_right(option, value, said):
    with pytest.raises(InvalidInput) as refused:
        read_options({**GATE, option: value})
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    "corners", ["0,0 1,1 1,0 0,1", "0,0 1,0 0,1 1,1", "0,0 0.01,0 0.01,1 0,1", "0,0.99 1,0.99 1,1"]
)
def test_a_zone_may_be_narrow_and_its_edges_may_cross(corners):
    (zone,) = read_options({**GATE, "zone": [corners]}).zone
    assert len(zone.corners) == len(corners.split())


def test_a_file_has_a_table_for_each_camera_and_settings_of_all(tmp_path):
    file = tmp_path / "cameras.toml"
    file.write_text(
        'fps = 5\nenroll = "hall"\n\n'
        '[camera.gate]\nsource = "rtsp://one.example/1"\n\n'
        '[camera."back door"]\nsource = "rtsp://two.example/1"\nfps = 8\n'
        'zone = ["step: at the door: 0,0.5 1,0.5 1,1", "0,0 1,0 1,1"]\nhours = "22:00-06:00"\n'
    )
    gate, door = read_config(file)
    assert (gate.camera, gate.fps, gate.enroll) == ("gate", 5, "hall")
    assert (door.camera, door.fps, door.enroll) == ("back door", 8, "hall")
    assert door.zone == (
        Zone("step: at the door", ((0, 0.5), (1, 0.5), (1, 1))),
        Zone(None, ((0, 0), (1, 0), (1, 1))),
    )


def test_a_file_of_settings_may_name_files_in_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "cameras.toml"
    file.write_text('[camera.gate]\nsource = "~/clip.mp4"\ndetector = "~/people.xml"\n')
    (camera,) = read_config(file)
    assert (camera.source, camera.detector) == (
        str(tmp_path / "clip.mp4"),
        tmp_path / "people.xml",
    )


def test_the_name_of_a_zone_is_in_the_form_in_which_the_service_stores_it():
    decomposed = unicodedata.normalize("NFD", "Tür")
    (zone,) = read_options({**GATE, "zone": [f" {decomposed} : 0,0 1,0 1,1"]}).zone
    assert zone.name == "Tür"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fps = 5\n", "has to name 1 to 64 cameras"),
        ("[camera.gate]\nfps = 5\n", "camera.gate.source: Field required"),
        ('[camera.gate]\nsource = "a.mp4"\nspeed = 1\n', "camera.gate.speed: there is no such"),
        ('fps = 99\n[camera.gate]\nsource = "a.mp4"\n', "fps: Input should be less than"),
        ("camera = 7\n", "has to name 1 to 64 cameras"),
        ("[camera]\ngate = 7\n", "camera.gate is no table"),
        ("[camera.gate\n", "is no TOML"),
    ],
)
def test_a_wrong_file_is_named_with_the_setting(text, said, tmp_path):
    file = tmp_path / "cameras.toml"
    file.write_text(text)
    with pytest.raises(InvalidInput) as refused:
        read_config(file)
    assert str(refused.value).startswith(f"{file}: {said}")


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(InvalidInput, match=r"nowhere\.toml: cannot be read"):
        read_config(Path("nowhere.toml"))


def test_the_example_of_the_page_can_be_read(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "cameras.md").read_text(encoding="utf-8")
    file = tmp_path / "cameras.toml"
    file.write_text(page.partition("```toml\n")[2].partition("```")[0])
    assert [camera.camera for camera in read_config(file)] == ["gate", "yard"]


def test_the_page_has_every_setting():
    page = (Path(__file__).parents[2] / "docs" / "cameras.md").read_text(encoding="utf-8")
    table = page.partition("| setting, and option |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE))))
    assert named == set(CameraSettings.model_fields) - {"camera", "source"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read (No such file or directory); write the API key into it"),
        (b"", "has nothing; write the API key into it, in one line"),
        (b"\n", "has nothing; write the API key into it, in one line"),
        (b"one\ntwo\n", "has 2 lines; write the API key into it, in one line"),
        (b"\xff\xfe", "is no text; write the API key into it"),
    ],
)
def test_a_file_without_a_key_is_named_with_the_remedy(content, said, tmp_path):
    file = tmp_path / "camera_key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidInput) as refused:
        read_service("http://127.0.0.1:8000", "another", file)
    assert str(refused.value).startswith(f"--api-key-file: {file} {said}")


def test_a_broker_has_the_password_of_a_file(tmp_path):
    file = tmp_path / "mqtt_password"
    file.write_text("correct horse\n")
    broker = read_broker("mqtt.example", "gmn", None, file, tls=False)
    assert f"{broker.password}\n" == file.read_text()
