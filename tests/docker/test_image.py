"""docker/Dockerfile: packages and user of the image, its health check and its stop."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bench.packages import packages_of, read_pins, requirements_of
from tests.docker.conftest import ROOT, text_of

# Addresses outside the deployment.
ELSEWHERE = re.compile(r"index-url|https?://(?!localhost|etcd|service:|0\.0\.0\.0)|trusted-host")


def stage(dockerfile, name):
    found = re.search(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM |\Z)", dockerfile, re.M | re.S)
    assert found, name
    return found[1]


def test_the_image_for_buckets_is_made_from_the_service_as_it_is_made():
    (block,) = re.findall(r"^```dockerfile\n(.*?)^```", text_of("docs/single.md"), re.M | re.S)
    first, root, install, user = block.splitlines()
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    assert f"-t {first.removeprefix('FROM ')} .\n" in text_of("docs/single.md")
    assert f"`{first}:{project['version']}`" in text_of("docs/single.md")
    assert root == "USER root"
    (extra,) = project["optional-dependencies"]["s3"]
    common = "RUN pip --python /opt/gmn/bin/python install --only-binary :all: "
    assert install == f"{common}{extra} -c /src/requirements.txt"
    made = stage(text_of("docker/Dockerfile"), "service")
    assert common in made
    assert "-c /src/requirements.txt" in made
    assert f"\n{user}\n" in made
    assert extra in read_pins("requirements.txt")


def applies(line):
    marker = Requirement(line).marker
    return marker is None or marker.evaluate()


@pytest.mark.parametrize("target", ["service", "gpu", "camera", "train"])
def test_it_runs_as_nobody_in_particular(dockerfile, target):
    assert re.findall(r"^USER (\S+)$", stage(dockerfile, target), re.M)[-1] == "10001:10001"
    assert "--uid 10001" in dockerfile


def test_it_is_stopped_and_asked_as_the_service_expects(dockerfile):
    service = stage(dockerfile, "runtime")
    assert "STOPSIGNAL SIGTERM" in service
    assert json.loads(re.findall(r"^ENTRYPOINT (.*)$", service, re.M)[0]) == ["gmn"]
    assert json.loads(re.findall(r"^CMD (.*)$", service, re.M)[-1]) == ["serve"]
    health = json.loads(re.findall(r"^HEALTHCHECK .*?CMD (\[.*\])$", service, re.M)[0])
    assert health[0] == "python"
    assert "/readyz" in health[2]
    compile(health[2], "healthcheck", "exec")


def test_no_registry_is_named():
    for name in ("docker/Dockerfile", "docker-compose.yml", "docker-compose.cpu.yml"):
        assert not re.search(ELSEWHERE, text_of(name)), name


@pytest.mark.parametrize("extra", ["gpu", "milvus", "postgres", "train", "export"])
def test_everything_that_an_extra_brings_has_its_version_in_the_requirements(extra):
    assert packages_of(extra) <= read_pins("requirements.txt").keys()


@pytest.mark.promise("pinned-packages")
@pytest.mark.parametrize(
    ("target", "files"),
    [
        ("service", ["requirements-serve.txt", "milvus.txt", "postgres.txt"]),
        ("gpu", ["gpu.txt", "milvus.txt", "postgres.txt"]),
        ("camera", ["requirements-camera.txt"]),
        ("train", ["train.txt"]),
    ],
)
def test_a_target_installs_its_extras_in_the_pinned_versions(dockerfile, target, files):
    (install,) = re.findall(r"^RUN pip .* install (.*)$", stage(dockerfile, target), re.M)
    assert re.findall(r"-r /src/(\S+)", install) == files
    assert "-c /src/requirements.txt" in install


@pytest.mark.parametrize("target", ["service", "camera"])
def test_openvino_keeps_what_computes_on_a_cpu_and_reads_its_graphs_and_onnx(
    dockerfile, target, tmp_path
):
    package = Path(importlib.util.find_spec("openvino").origin).parent
    place = tmp_path / "openvino"
    for file in package.rglob("*"):
        if file.is_file() and file.parent.name != "__pycache__":
            copy = place / file.relative_to(package)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.touch()
    written = {file.relative_to(place) for file in place.rglob("*") if file.is_file()}
    (clean_up,) = re.findall(r"find /opt/gmn -path .*? -delete", stage(dockerfile, target))
    subprocess.run(["sh", "-c", clean_up.replace("/opt/gmn", str(tmp_path))], check=True)
    removed = written - {file.relative_to(place) for file in place.rglob("*") if file.is_file()}
    kinds = {re.sub(r"\.\d+$", "", file.name) for file in removed if file.parts[0] == "libs"}
    assert kinds == {
        "cache.json",
        "libopenvino_intel_gpu_plugin.so",
        "libopenvino_intel_npu_plugin.so",
        *(
            f"libopenvino_{kind}_frontend.so"
            for kind in ("gguf", "jax", "paddle", "pytorch", "tensorflow", "tensorflow_lite")
        ),
    }
    assert {file.parts[0] for file in removed} == {"libs", "include"}


@pytest.mark.parametrize("extra", ["gpu", "milvus", "postgres", "train"])
def test_the_image_reads_the_requirements_of_an_extra_from_the_project(dockerfile, extra, tmp_path):
    (loop,) = re.findall(r"^RUN (for extra in .*)$", stage(dockerfile, "requirements"), re.M)
    (tmp_path / "gmn_client").mkdir()
    for name in ("pyproject.toml", "gmn_client/pyproject.toml"):
        (tmp_path / name).write_text(text_of(name))
    (tmp_path / "python").symlink_to(sys.executable)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["sh", "-c", loop], cwd=tmp_path, env={"PATH": path}, check=True)
    lines = (tmp_path / f"{extra}.txt").read_text().splitlines()
    brought = {str(Requirement(line)) for line in lines if applies(line)}
    assert brought == {str(requirement) for requirement in requirements_of(extra)}


def test_every_package_of_the_project_is_copied():
    setuptools = tomllib.loads(text_of("pyproject.toml"))["tool"]["setuptools"]
    packages = [name.removesuffix("*") for name in setuptools["packages"]["find"]["include"]]
    modules = [f"{name}.py" for name in setuptools["py-modules"]]
    allowed = text_of(".dockerignore")
    for name in (*packages, *modules, "gmn_client"):
        assert f"!{name}\n" in allowed
        assert (ROOT / name).exists()
