"""docker-compose.yml: what may do what, with which settings and secrets, and that versions stay."""

import re
import shutil
import signal
import subprocess
import sys
import tomllib

import pytest

from gmn_camera.processes import STOP_SECONDS
from service.api_keys import find_key, read_key_file
from service.commands.processes import DRAIN_SECONDS
from service.settings import PREFIX, read_settings
from tests.docker.conftest import ROOT, VARIABLE, read_compose, text_of
from tests.outside import free_port, run_command
from tests.waiting import eventually

OF_MONITOR = ("prometheus", "alertmanager", "grafana")
OF_POSTGRES = ("service-b", "postgres", "postgres-b")
OWN = ("service", "redis", "proxy", "camera", "trainer", *OF_MONITOR, *OF_POSTGRES)
# It is not known which files they write outside their volumes.
OF_MILVUS = ("milvus", "etcd", "minio")
SERVICES = (*OWN, *OF_MILVUS)
VERSIONED = re.compile(r"^[a-z./-]+:(v?\d|RELEASE\.)[\w.-]*$")


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_runs_without_privileges_and_ours_on_a_file_system_they_cannot_write(
    compose, name
):
    assert set(compose["services"]) == set(SERVICES)
    container = compose["services"][name]
    assert VERSIONED.match(container["image"])
    assert container["read_only"] is (name in OWN)
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in container


def test_each_image_is_built_from_its_target_and_tagged_with_the_version_of_the_package(
    compose,
):
    version = tomllib.loads(text_of("pyproject.toml"))["project"]["version"]
    on_a_cpu = read_compose("docker-compose.cpu.yml")["services"]
    images = {
        "gpu": compose["services"]["service"],
        "camera": compose["services"]["camera"],
        "train": compose["services"]["trainer"],
        "service": on_a_cpu["service"],
    }
    names = {
        "gpu": "gmn-reid-gpu",
        "camera": "gmn-reid-camera",
        "train": "gmn-reid-train",
        "service": "gmn-reid",
    }
    for target, container in images.items():
        assert container["build"]["target"] == target
        assert container["image"] == f"{names[target]}:{version}"


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_service_can_be_started_with_these_settings(compose, dockerfile, device, monkeypatch):
    given = dict(re.findall(rf"({PREFIX}[A-Z_]+)=(\S+)", dockerfile))
    given |= compose["services"]["service"]["environment"]
    if device == "cpu":
        given |= read_compose("docker-compose.cpu.yml")["services"]["service"]["environment"]
    for name, value in given.items():
        monkeypatch.setenv(name, str(value or ""))
    settings = read_settings()
    assert settings.device == device
    assert settings.processes == {"cuda": 1, "cpu": 2}[device]
    assert settings.host == "0.0.0.0"
    assert settings.api_keys_file is not None


def test_two_machines_share_a_database_and_differ_in_their_data_alone(compose, monkeypatch):
    for file in (compose, read_compose("docker-compose.cpu.yml")):
        service, other = (file["services"][name] for name in ("service", "service-b"))
        own = {"volumes": service.get("volumes"), "profiles": ["postgres"]}
        assert {**own, **service} == {**own, **other, "volumes": own["volumes"]}
    data = [compose["services"][name]["volumes"][0] for name in ("service", "service-b")]
    assert data == ["record:/data", "record-b:/data"]
    given = dict(VARIABLE.findall(text_of("docker-compose.yml")))
    assert (given["DATABASE_URL"], given["BACKUP_DIR"]) == ("", "/backups")
    # Without a backup folder, which is for SQLite, a database can be named.
    monkeypatch.setenv("GMN_DATABASE_URL", "postgresql://gmn@postgres,postgres-b/gmn")
    monkeypatch.setenv("GMN_BACKUP_DIR", "")
    assert read_settings().database_url


def test_no_secret_is_in_an_environment_or_on_a_command_line(compose):
    for container in compose["services"].values():
        for name, value in container.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|KEY|TOKEN", name):
                assert name.endswith("_FILE")
                assert value.startswith("/run/secrets/")
            assert not re.search(r"://[^/@]*:[^/@]*@", str(value or ""))
        assert not re.search(r"requirepass (?!\"\$\$\(cat )", str(container.get("command")))


def test_secrets_are_files_that_neither_git_nor_an_image_has(compose):
    made = text_of("docker/make_secrets.sh")
    for name, secret in compose["secrets"].items():
        assert secret == {"file": f"./docker/secrets/{name}"}
        assert name in made
    assert "/docker/secrets/" in text_of(".gitignore").splitlines()
    assert not any("docker" in line for line in allowed_into_the_image())


def test_only_what_the_package_is_made_of_goes_into_the_image():
    assert text_of(".dockerignore").splitlines()[1] == "*"
    for name in allowed_into_the_image():
        assert (ROOT / name).exists()
        assert name.split("/")[0] not in ("tests", "docs", "runs", "gmn-data", "docker")


def test_compose_waits_for_longer_than_the_service_drains_and_than_cameras_need(compose):
    for name, seconds in (("service", DRAIN_SECONDS), ("camera", STOP_SECONDS)):
        period = compose["services"][name]["stop_grace_period"].removesuffix("s")
        assert int(period) > seconds + 10


def make_secrets(folder):
    """Make the files of secrets as the guide says, and return their folder."""
    (folder / "docker").mkdir(exist_ok=True)
    script = shutil.copy(ROOT / "docker" / "make_secrets.sh", folder / "docker")
    run_command("sh", script, check=True)
    return folder / "docker" / "secrets"


def test_the_key_of_the_cameras_is_known_may_only_send_and_can_be_made_anew(tmp_path):
    former = (make_secrets(tmp_path) / "camera_key").read_text()
    (tmp_path / "docker/secrets/camera_key").unlink()
    secrets = make_secrets(tmp_path)
    keys, problems = read_key_file(secrets / "api_keys")
    known = {key.key_id: key for key in keys}
    assert (list(known), problems) == (["operator", "metrics", "camera"], [])
    assert find_key((secrets / "camera_key").read_text(), known) is known["camera"]
    assert find_key(former, known) is None
    assert known["camera"].scopes == ("sight",)


def test_the_cameras_are_watched_by_the_command_and_found_healthy(compose, tmp_path):
    container = compose["services"]["camera"]
    secrets = make_secrets(tmp_path)
    port = str(free_port())

    def on_this_machine(word):
        word = word.replace("/run/secrets", str(secrets)).replace("0.0.0.0", "127.0.0.1")
        return word.replace("9100", port)

    # Nothing sends there: a camera that is away does not make the container unhealthy.
    with (secrets / "cameras").open("a") as file:
        file.write(f'[camera.gate]\nsource = "tcp://127.0.0.1:{free_port()}"\n')
    command = [sys.executable, "-m", "gmn", *map(on_this_machine, container["command"])]
    _, _, *check = map(on_this_machine, container["healthcheck"]["test"])
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        eventually(lambda: run_command(sys.executable, *check).returncode == 0)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, log


def test_the_service_reaches_nothing_but_its_peers(compose):
    assert compose["networks"]["inside"] == {"internal": True}
    assert compose["networks"]["index"] == {"internal": True}
    networks = {
        "service": ["inside", "index"],
        "service-b": ["inside", "index"],
        "redis": ["inside"],
        "postgres": ["inside"],
        "postgres-b": ["inside"],
    }
    for name, reached in (networks | {service: ["index"] for service in OF_MILVUS}).items():
        assert compose["services"][name]["networks"] == reached
        assert "ports" not in compose["services"][name]


def test_whoever_says_nothing_publishes_to_this_machine_alone(compose):
    for container in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in container.get("ports", ()))


def test_the_guide_lists_every_variable_with_its_default(guide):
    used = dict(VARIABLE.findall(text_of("docker-compose.yml")))
    rows = re.findall(r"^\| (`[A-Z_]+`(?:, `[A-Z_]+`)*) \| ([^|]+) \|", guide, re.MULTILINE)
    listed = {}
    for names, defaults in rows:
        values = [value.strip().strip("`") for value in defaults.split(",")]
        listed |= dict(zip(re.findall("[A-Z_]+", names), values, strict=True))
    assert listed.pop("COMPOSE_FILE") == "docker-compose.yml"
    assert listed == {name: default or "none" for name, default in used.items()}


def allowed_into_the_image():
    lines = text_of(".dockerignore").splitlines()
    return [line.removeprefix("!") for line in lines if line.startswith("!")]
