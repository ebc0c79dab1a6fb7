"""`gmn camera frigate --setup`, with a real service, a real broker and a stand-in of Frigate."""

import contextlib
import getpass
import os
import pty
import select
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paho.mqtt.publish import single

from gmn_camera import frigate_setup
from gmn_camera.broker import read_broker
from gmn_camera.frigate_setup import find_broker_problem
from tests.broker import running_broker
from tests.camera.stand_in_frigate import StandInFrigate, camera_settings, serving_frigate
from tests.outside import free_port, installed, run_command
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "gmn", "camera", "frigate")
PASSWORD = "drawn people"
BROKER_USER = {"username": "gmn", "password": "drawn broker"}


@contextlib.contextmanager
def configured_broker(folder, *lines):
    """Yield the port of a broker with lines of configuration."""
    port = free_port()
    settings = folder / f"{port}.conf"
    settings.write_text("\n".join([f"listener {port} 127.0.0.1", *lines, ""]))
    with running_broker(port, "-c", settings):
        yield port


def announce_frigate(port, **options):
    """Publish what Frigate tells about itself."""
    single("frigate/available", "online", qos=1, retain=True, port=port, **options)


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    """Yield the port of a broker to which Frigate publishes."""
    with configured_broker(tmp_path_factory.mktemp("broker"), "allow_anonymous true") as port:
        announce_frigate(port)
        yield port


@pytest.fixture(scope="module")
def guarded_broker(tmp_path_factory):
    """Yield the port of a broker that asks for a user."""
    folder = tmp_path_factory.mktemp("guarded")
    passwords = folder / "passwords"
    user, password = BROKER_USER.values()
    run_command(installed("mosquitto_passwd"), "-b", "-c", passwords, user, password, check=True)
    # Where root starts the broker, it would go on as a user who cannot read the file.
    lines = ("allow_anonymous false", f"password_file {passwords}", f"user {getpass.getuser()}")
    with configured_broker(folder, *lines) as port:
        announce_frigate(port, auth=BROKER_USER)
        yield port


@pytest.fixture(scope="module")
def served(start):
    """Return a service that asks for no key."""
    return start()


@pytest.fixture(scope="module")
def guarded(start):
    """Return a service that asks for a key, and an administrator's key."""
    served = start()
    key = served.http.post("/v1/keys", data={"scopes": "admin"}).json()["key"]
    return served, key


@pytest.fixture
def frigate(broker):
    """Yield a stand-in of Frigate, and its address."""
    stand_in = StandInFrigate()
    stand_in.mqtt["port"] = broker
    with serving_frigate(stand_in) as address:
        yield stand_in, address


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GMN_")}
    return kept | {"PYTHONPATH": str(ROOT)} | more


def url_of(served):
    return str(served.http.base_url).rstrip("/")


def set_up(address, served, *options, **more):
    """Run the set-up without a terminal."""
    return run_command(
        *(*COMMAND, "--setup", "--frigate", address, "--url", url_of(served), *map(str, options)),
        env=environment(**more),
        stdin=subprocess.DEVNULL,
    )


def keys_of(served, key):
    with served.connect(key) as client:
        listed = client.keys()
        return {key.key_id: key for key in listed}


def read_secrets(file):
    """Return the variables of a file as a shell reads them."""
    words = shlex.split(file.read_text())
    return dict(word.split("=", 1) for word in words)


def test_everything_is_tested_and_the_unit_is_all_that_is_printed(served, frigate, broker):
    _, address = frigate
    ended = set_up(address, served)
    assert ended.returncode == 0, ended.stderr
    assert [line[:3] for line in ended.stderr.splitlines()] == ["ok:"] * 3
    assert ended.stdout.startswith("# Write this to /etc/systemd/system/gmn-frigate.service")
    assert f"--broker=127.0.0.1:{broker}" in ended.stdout
    assert "EnvironmentFile" not in ended.stdout


def test_the_printed_unit_starts_a_bridge_that_the_service_lets_in(
    guarded, frigate, broker, tmp_path
):
    served, admin = guarded
    stand_in, address = frigate
    stand_in.user = "bridge"
    file = tmp_path / "secrets.env"
    password = {"GMN_CAMERA_FRIGATE_PASSWORD": PASSWORD}
    before = keys_of(served, admin)
    options = ("--frigate-user", "bridge", "--secrets", file)
    ended = set_up(address, served, *options, GMN_API_KEY=admin, **password)
    assert ended.returncode == 0, ended.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    secrets = read_secrets(file)
    assert secrets == {"GMN_API_KEY": secrets["GMN_API_KEY"], **password}
    (made,) = keys_of(served, admin).keys() - before.keys()
    assert sorted(keys_of(served, admin)[made].scopes) == ["query", "sight"]
    for secret in (admin, *secrets.values()):
        assert secret not in ended.stdout + ended.stderr
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("ExecStart=")]
    log = tmp_path / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            shlex.split(line.removeprefix("ExecStart=")), env=environment(**secrets), stderr=errors
        )
    try:
        eventually(lambda: "the broker is connected" in log.read_text())
    finally:
        process.terminate()
        assert process.wait(60) == 0
    assert "fails" not in log.read_text()


def test_what_is_missing_is_told_and_the_status_is_1(served, frigate, tmp_path):
    stand_in, address = frigate
    stand_in.version = "0.13.2"
    stand_in.cameras["gate"] = camera_settings(enabled=False)
    ended = set_up(address, served, "--broker", f"127.0.0.1:{free_port()}")
    assert ended.returncode == 1
    told = [line for line in ended.stderr.splitlines() if line.startswith("missing: ")]
    assert len(told) == 3
    for part in ("older than 0.14", "gate: snapshots are off", "no broker answers there"):
        assert part in ended.stderr
    assert "[Service]" in ended.stdout


def test_control_characters_of_frigate_reach_neither_the_unit_nor_the_terminal(served, frigate):
    stand_in, address = frigate
    stand_in.cameras["\x1b[2Jgate"] = camera_settings(enabled=False)
    ended = set_up(address, served)
    assert "\\x1b[2Jgate: snapshots are off" in ended.stderr
    stand_in.mqtt["user"] = "gmn\nExecStartPre=/bin/false"
    refused = set_up(address, served)
    assert refused.returncode == 2
    assert "mqtt.user: Value error, has control characters" in refused.stderr
    assert "ExecStartPre" not in refused.stdout
    assert "\x1b" not in ended.stderr + refused.stderr


def test_without_a_file_for_it_no_key_is_made(guarded, frigate):
    served, admin = guarded
    before = keys_of(served, admin)
    ended = set_up(frigate[1], served, GMN_API_KEY=admin)
    assert ended.returncode == 1
    assert "name one with --secrets, or" in ended.stderr
    assert "no key was made" in ended.stderr
    assert keys_of(served, admin).keys() == before.keys()
    assert "EnvironmentFile=/etc/gmn-frigate.env" in ended.stdout


def test_a_file_that_exists_is_kept_and_no_key_is_made(guarded, frigate, tmp_path):
    served, admin = guarded
    before = keys_of(served, admin)
    file = tmp_path / "secrets.env"
    file.write_text("mine")
    ended = set_up(frigate[1], served, "--secrets", file, GMN_API_KEY=admin)
    assert ended.returncode == 2
    assert f"--secrets: {file} cannot be created (File exists)" in ended.stderr
    assert file.read_text() == "mine"
    assert keys_of(served, admin).keys() == before.keys()


def test_a_service_that_asks_for_a_key_needs_an_administrators(guarded, frigate, tmp_path):
    served, admin = guarded
    ended = set_up(frigate[1], served)
    assert ended.returncode == 2
    assert "--api-key-file: the service" in ended.stderr
    with served.connect(admin) as client:
        lesser = client.create_key("sight", "query").key
    file = tmp_path / "secrets.env"
    ended = set_up(frigate[1], served, "--secrets", file, GMN_API_KEY=lesser)
    assert ended.returncode == 2
    assert "admin" in ended.stderr
    assert not file.exists()


def test_a_broker_with_users_is_tried_with_the_password(served, frigate, guarded_broker, tmp_path):
    stand_in, address = frigate
    stand_in.mqtt |= {"port": guarded_broker, "user": BROKER_USER["username"]}
    file = tmp_path / "secrets.env"
    password = BROKER_USER["password"]
    ended = set_up(address, served, "--secrets", file, GMN_CAMERA_MQTT_PASSWORD=password)
    assert ended.returncode == 0, ended.stderr
    assert read_secrets(file) == {"GMN_CAMERA_MQTT_PASSWORD": password}
    assert "--username=gmn" in ended.stdout
    assert password not in ended.stdout + ended.stderr
    refused = set_up(address, served, GMN_CAMERA_MQTT_PASSWORD="another")
    assert refused.returncode == 1
    assert "the broker refuses the connection" in refused.stderr
    assert "--password-file" in refused.stderr


def test_a_password_in_a_file_of_its_own_stays_there(served, frigate, guarded_broker, tmp_path):
    stand_in, address = frigate
    stand_in.mqtt |= {"port": guarded_broker, "user": BROKER_USER["username"]}
    file = tmp_path / "broker password"
    file.write_text(BROKER_USER["password"])
    ended = set_up(address, served, "--password-file", file, "--unit", "compose")
    assert ended.returncode == 0, ended.stderr
    assert f'"--password-file={file}"' in ended.stdout
    assert "env_file" not in ended.stdout


def test_a_broker_to_which_frigate_does_not_publish_is_named(broker, monkeypatch):
    monkeypatch.setattr(frigate_setup, "BROKER_SECONDS", 2.0)
    at = read_broker(f"127.0.0.1:{broker}", None, None, tls=False)
    assert find_broker_problem(at, "frigate") is None
    assert "no elsewhere/available" in find_broker_problem(at, "elsewhere")


def test_addresses_in_the_wrong_order_are_named(served, frigate):
    _, address = frigate
    swapped = set_up(url_of(served), served)
    assert swapped.returncode == 2
    assert f"{url_of(served)}/api/version: HTTP 404; check the address" in swapped.stderr
    both = set_up(address, served, "--url", address)
    assert both.returncode == 2
    assert f"--url: {address} answers, but not as this service" in both.stderr


@pytest.mark.parametrize("option", ["--frigate", "--url"])
def test_an_address_with_a_password_is_refused_as_the_unit_would_show_it(served, frigate, option):
    ended = set_up(frigate[1], served, option, "http://me:secret@127.0.0.1:9")
    assert ended.returncode == 2
    assert f"{option}: leave user and password out" in ended.stderr
    assert "secret" not in ended.stdout + ended.stderr


def test_options_of_one_kind_of_run_are_refused_in_another(frigate):
    _, address = frigate
    for options, named in (
        (("--setup", "--since", "7d", "--enroll", "sightings"), "--setup and --since"),
        (("--since", "7d"), "--enroll"),
        (("--enroll", "sightings"), "--since"),
        (("--unit", "compose"), "--setup"),
    ):
        ended = run_command(*COMMAND, "--frigate", address, *options, env=environment())
        assert ended.returncode == 2
        assert named in ended.stderr


class Terminal:
    """A program at a terminal, which is answered as a person answers.

    Attributes:
        shown: all that the terminal has shown.
    """

    def __init__(self, *command, **more):
        self.shown = ""
        self._screen, end = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=end, stderr=end, stdout=subprocess.PIPE, env=environment(**more)
        )
        os.close(end)

    def read_until(self, text):
        until = time.monotonic() + 90
        while text not in self.shown:
            assert time.monotonic() < until, self.shown
            ready, _, _ = select.select([self._screen], [], [], 1)
            if ready:
                self.shown += os.read(self._screen, 4096).decode()

    def answer(self, question, text=""):
        self.read_until(question)
        # Typing while a question switches the echo off would be seen.
        time.sleep(0.2)
        os.write(self._screen, f"{text}\n".encode())

    def end(self):
        """Return the exit status and standard output."""
        output, _ = self.process.communicate(timeout=60)
        os.close(self._screen)
        return self.process.returncode, output.decode()


def test_a_person_at_a_terminal_is_asked_for_what_no_option_answers(
    guarded, frigate, guarded_broker, tmp_path
):
    served, admin = guarded
    stand_in, address = frigate
    stand_in.user = "bridge"
    stand_in.mqtt |= {"port": guarded_broker, "user": BROKER_USER["username"]}
    file = tmp_path / "secrets.env"
    terminal = Terminal(*COMMAND, "--setup")
    terminal.answer("Address of Frigate [http://127.0.0.1:5000]", address)
    terminal.answer("User in Frigate [admin]", "bridge")
    terminal.answer("Password of bridge in Frigate", PASSWORD)
    terminal.answer("Address of the service [http://127.0.0.1:8000]", url_of(served))
    terminal.answer("Key of the service with the scope admin", admin)
    terminal.answer(f"Address of the MQTT broker [127.0.0.1:{guarded_broker}]")
    terminal.answer("User at the broker [gmn]")
    terminal.answer("Password of gmn at the broker", BROKER_USER["password"])
    terminal.answer("empty for none", str(file))
    terminal.answer("Started by systemd or compose [systemd]", "compose")
    status, unit = terminal.end()
    assert status == 0, terminal.shown
    assert unit.startswith("# Write this to a file, then: docker compose")
    secrets = read_secrets(file)
    assert secrets.keys() == {
        "GMN_CAMERA_FRIGATE_PASSWORD",
        "GMN_CAMERA_MQTT_PASSWORD",
        "GMN_API_KEY",
    }
    for secret in (admin, *secrets.values()):
        assert secret not in terminal.shown + unit
