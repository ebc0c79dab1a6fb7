"""The environments that make creates: their packages, and the one that `make demo` uses."""

import importlib.metadata
import json
import os
import re

import pytest

from bench.packages import (
    CAMERA_REQUIREMENTS,
    EXTRAS,
    LIGHT_REQUIREMENTS,
    REQUIREMENTS,
    ROOT,
    packages_of,
    read_pins,
)
from tests.outside import run_command

pytestmark = pytest.mark.promise("pinned-packages")

MEGABYTE = 10**6
# The environment may take 450 MB: faiss-cpu, pip and compiled modules are not counted here.
LIGHT_MEGABYTES = 300
# The first release adds 0.9 MB: how its format writes a record (bench/frozen_format.py).
TRACKED_MEGABYTES = 50
HEAVY = ("torch", "torchvision", "triton", "faiss-gpu", "scikit-learn", "scipy", "pandas")


def test_the_light_environment_holds_exactly_what_the_extra_serve_brings():
    assert set(read_pins(LIGHT_REQUIREMENTS)) == packages_of("serve")


def test_the_light_environment_has_the_versions_of_the_full_one():
    light = read_pins(LIGHT_REQUIREMENTS)
    full = read_pins(REQUIREMENTS)
    assert light.pop("faiss-cpu") == full["faiss-gpu"]
    assert light == {name: full[name] for name in light}


def test_the_environment_of_cameras_holds_exactly_what_their_extras_bring():
    pins = read_pins(CAMERA_REQUIREMENTS)
    full = read_pins(REQUIREMENTS)
    assert set(pins) == packages_of("camera") | packages_of("mqtt")
    assert pins == {name: full[name] for name in pins}


def test_the_light_environment_is_without_the_packages_that_are_large():
    light = read_pins(LIGHT_REQUIREMENTS)
    assert light.keys().isdisjoint(HEAVY)
    assert not [name for name in light if name.startswith("nvidia-")]
    installed = [name for name in light if name != "faiss-cpu"]
    total = sum(
        file.size or 0 for name in installed for file in importlib.metadata.files(name) or ()
    )
    assert total / MEGABYTE < LIGHT_MEGABYTES


def test_the_tracked_files_are_small():
    listed = run_command("git", "ls-files", "-z", cwd=ROOT, check=True).stdout
    files = [ROOT / name for name in listed.split("\0") if name]
    total = sum(file.stat().st_size for file in files if file.is_file())
    assert total / MEGABYTE < TRACKED_MEGABYTES


@pytest.mark.parametrize(
    "name", [REQUIREMENTS, LIGHT_REQUIREMENTS, CAMERA_REQUIREMENTS, "requirements-docs.txt"]
)
def test_requirements_name_a_version_of_each_package_and_no_address(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    wrong = [
        line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.!]+(; python_\S+ < \S+)?", line)
    ]
    assert wrong == []
    names = [line.partition("==")[0] for line in pins]
    assert len(names) == len(set(names))


def test_the_typescript_client_names_a_version_of_each_package_and_no_address():
    files = run_command("git", "ls-files", "clients", cwd=ROOT, check=True).stdout.splitlines()
    assert not [name for name in files if name.endswith(("-lock.json", ".lock", "-lock.yaml"))]
    folder = ROOT / "clients" / "typescript"
    assert (folder / ".npmrc").read_text() == "package-lock=false\n"
    package = json.loads((folder / "package.json").read_text())
    pins = package["dependencies"] | package["devDependencies"]
    assert [pin for pin in pins.values() if not re.fullmatch(r"\d+\.\d+\.\d+", pin)] == []


@pytest.mark.parametrize("extra", EXTRAS)
def test_no_extra_brings_both_packages_that_install_faiss(extra):
    assert not {"faiss-cpu", "faiss-gpu"} <= packages_of(extra)


@pytest.mark.parametrize(
    ("listed", "environment"),
    [
        ("GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-0)", ".venv"),
        ("No devices found.", ".venv-serve"),
        ("NVIDIA-SMI has failed because it couldn't communicate", ".venv-serve"),
    ],
)
def test_make_demo_uses_the_full_environment_where_a_gpu_is_listed(listed, environment, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\necho "{listed}"\n')
    program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    commands = dry_run("demo", path)
    assert commands[-1] == f"{environment}/bin/gmn demo"


def test_make_demo_installs_the_light_requirements_where_there_is_no_gpu(tmp_path):
    for tool in ("make", "grep", "sh", "python3"):
        found = run_command("which", tool, check=True)
        (tmp_path / tool).symlink_to(found.stdout.strip())
    commands = dry_run("demo", str(tmp_path), "--always-make")
    assert [command for command in commands if f"-r {LIGHT_REQUIREMENTS}" in command]
    assert not [command for command in commands if f"-r {REQUIREMENTS}" in command]
    assert commands[-1] == ".venv-serve/bin/gmn demo"


def test_make_release_sets_a_version_and_keeps_its_format_before_it_builds():
    commands = dry_run("release", os.environ["PATH"], "VERSION=1.2.0")
    called = [re.findall(r"-m (bench\.\w+)(?: (\S+))?", command) for command in commands]
    assert [call for calls in called for call in calls] == [
        ("bench.repeated", "1.2.0"),
        ("bench.frozen_format", ""),
        ("bench.release", "dist"),
    ]
    plainly = "\n".join(dry_run("release", os.environ["PATH"]))
    assert "bench.repeated" not in plainly


def dry_run(target, path, *options):
    """Return the commands that make would run for a target, with this `PATH`.

    The tests run under `make test`, whose options and level would reach this make, too.
    """
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    ran = run_command(
        "make",
        "--dry-run",
        *options,
        target,
        cwd=ROOT,
        env=environment | {"PATH": path},
        check=True,
    )
    return ran.stdout.splitlines()
