"""docker-compose.yml: what may do what, with which settings and secrets, and that versions stay."""

import re
import tomllib

import pytest

from service.commands.processes import DRAIN_SECONDS
from service.settings import PREFIX, read_settings
from tests.docker.conftest import ROOT, VARIABLE, read_compose, text_of

OF_MONITOR = ("prometheus", "alertmanager", "grafana")
OWN = ("service", "redis", "proxy", "trainer", *OF_MONITOR)
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
        "train": compose["services"]["trainer"],
        "service": on_a_cpu["service"],
    }
    names = {"gpu": "gmn-reid-gpu", "train": "gmn-reid-train", "service": "gmn-reid"}
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


def test_compose_waits_for_longer_than_the_service_drains(compose):
    assert int(compose["services"]["service"]["stop_grace_period"].removesuffix("s")) > (
        DRAIN_SECONDS + 10
    )


def test_the_service_reaches_nothing_but_its_peers(compose):
    assert compose["networks"]["inside"] == {"internal": True}
    assert compose["networks"]["index"] == {"internal": True}
    networks = {"service": ["inside", "index"], "redis": ["inside"]}
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
