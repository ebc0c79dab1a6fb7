"""docker/Dockerfile: what the image is made of, as whom it runs, how it is asked and stopped."""

from __future__ import annotations

import importlib.metadata
import json
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.docker.conftest import ROOT, text_of

# Addresses outside the deployment.
ELSEWHERE = re.compile(r"index-url|https?://(?!localhost|etcd|0\.0\.0\.0)|trusted-host")


def stage(dockerfile: str, name: str) -> str:
    found = re.search(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM |\Z)", dockerfile, re.M | re.S)
    assert found, name
    return found[1]


def test_the_base_is_the_python_that_the_requirements_are_for(dockerfile) -> None:
    bases = re.findall(r"^FROM (\S+) AS (\w+)$", dockerfile, re.MULTILINE)
    names = {name for _, name in bases}
    assert {base for base, _ in bases if base not in names} == {"python:3.11-slim-bookworm"}
    assert text_of("requirements.txt").startswith(
        "# Everything make installs, to the exact version: Python 3.11"
    )


@pytest.mark.parametrize("target", ["service", "train"])
def test_it_runs_as_nobody_in_particular(dockerfile, target) -> None:
    assert re.findall(r"^USER (\S+)$", stage(dockerfile, target), re.M)[-1] == "10001:10001"
    assert "--uid 10001" in dockerfile


def test_it_is_stopped_and_asked_as_the_service_expects(dockerfile) -> None:
    service = stage(dockerfile, "service")
    assert "STOPSIGNAL SIGTERM" in service
    assert json.loads(re.findall(r"^ENTRYPOINT (.*)$", service, re.M)[0]) == ["gmn"]
    assert json.loads(re.findall(r"^CMD (.*)$", service, re.M)[-1]) == ["serve"]
    health = json.loads(re.findall(r"^HEALTHCHECK .*?CMD (\[.*\])$", service, re.M)[0])
    assert health[0] == "python"
    assert "/readyz" in health[2]
    compile(health[2], "healthcheck", "exec")


def test_nothing_is_compiled_and_no_cache_is_kept(dockerfile) -> None:
    assert not re.search(r"apt-get|gcc|build-essential|curl", dockerfile)
    assert "PIP_NO_CACHE_DIR=1" in dockerfile
    installs = re.findall(r"pip --python \S+ install (.*)$", dockerfile, re.M)
    assert len(installs) == 3
    assert all("--only-binary :all:" in one or "--no-deps --no-index" in one for one in installs)


def test_no_registry_is_named(dockerfile) -> None:
    for name in ("docker/Dockerfile", "docker-compose.yml", "docker-compose.cpu.yml"):
        assert not re.search(ELSEWHERE, text_of(name)), name


@pytest.mark.parametrize("extra", ["serve", "milvus", "train", "export"])
def test_everything_that_an_extra_brings_has_its_version_in_the_requirements(extra) -> None:
    pinned = {
        canonicalize_name(line.split("==")[0])
        for line in text_of("requirements.txt").splitlines()
        if "==" in line
    }
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    wanted = [Requirement(one) for one in project["dependencies"]]
    wanted += [Requirement(one) for one in project["optional-dependencies"][extra]]
    seen: set[tuple[str, frozenset[str]]] = set()
    while wanted:
        one = wanted.pop()
        name = canonicalize_name(one.name)
        if (name, frozenset(one.extras)) in seen:
            continue
        seen.add((name, frozenset(one.extras)))
        marker = one.marker
        if marker and not marker.evaluate({"extra": ""}):
            continue
        assert name in pinned, f"{one} is not pinned"
        for needed in importlib.metadata.requires(name) or ():
            requirement = Requirement(needed)
            named = requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in ("", *one.extras)
            )
            if named:
                wanted.append(Requirement(needed.split(";")[0]))


def test_every_package_of_the_project_is_copied() -> None:
    packages = tomllib.loads(text_of("pyproject.toml"))["tool"]["setuptools"]["packages"]["find"]
    allowed = text_of(".dockerignore")
    for pattern in packages["include"]:
        name = pattern.removesuffix("*")
        assert f"!{name}\n" in allowed
        assert (ROOT / name).is_dir()
