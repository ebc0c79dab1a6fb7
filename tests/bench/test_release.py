"""A release: wheels that a stranger installs and calls, and what is in the environments."""

import hashlib
import json
import sys
import zipfile

import pytest

from bench.packages import (
    ENVIRONMENTS,
    PROJECT,
    ROOT,
    bill_of_materials,
    list_packages,
    packages_of,
    read_pins,
)
from bench.release import SUMS, make_release
from tests.outside import run_command

TYPED = """from gmn_client import Client, Image

with Client("http://127.0.0.1:8000") as client:
    answer = client.query("photo.jpg", top_k=5)
    reveal_type(answer.verdict)
    client.enroll([Image("ann.jpg", identity="Ann")])
    client.query("photo.jpg", top_k="5")
"""


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    # Its program that checks descriptions has an environment of its own.
    make_release(folder, twine=None)
    return folder


@pytest.mark.slow
def test_a_release_has_wheels_that_were_called_and_the_sum_of_each_file(released):
    sums = dict(reversed(line.split("  ")) for line in (released / SUMS).read_text().splitlines())
    files = {file.name for file in released.iterdir()} - {SUMS}
    assert sums.keys() == files
    assert {name.partition("-")[0] for name in files if name.endswith(".whl")} == {
        "gmn_reid",
        "gmn_client",
    }
    for name, expected in sums.items():
        assert hashlib.sha256((released / name).read_bytes()).hexdigest() == expected


@pytest.mark.slow
def test_a_wheel_holds_what_the_service_serves(released):
    (wheel,) = released.glob("gmn_reid-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    for part in ("service/web/index.html", "service/record/schema.sql", "gmn.py"):
        assert part in names
    assert [name for name in names if name.startswith("model/artefacts/")]
    assert not [name for name in names if name.startswith("tests/")]


@pytest.mark.slow
def test_a_program_that_calls_the_client_of_a_release_is_typed(released, tmp_path):
    (wheel,) = released.glob("gmn_client-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "installed")
    program = tmp_path / "program.py"
    program.write_text(TYPED)
    checked = run_command(
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--cache-dir",
        str(tmp_path / "cache"),
        str(program),
        cwd=tmp_path,
        env={"MYPYPATH": str(tmp_path / "installed"), "PATH": "/usr/bin:/bin"},
    )
    said = [line for line in checked.stdout.splitlines() if line.startswith("program.py:")]
    (revealed,) = (line for line in said if ": note: Revealed" in line)
    assert "'nothing_searched'" in revealed
    # The last line calls with a text in place of a number.
    assert [line[:19] for line in said if ": error: " in line] == ["program.py:7: error"]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_list_of_an_environment_is_that_of_its_requirements(name):
    assert list_packages()[name] == read_pins(ENVIRONMENTS[name])


def test_the_list_of_an_image_has_what_its_requirements_bring():
    listed = list_packages()
    docker = (ROOT / "docker" / "Dockerfile").read_text()
    assert "requirements-serve.txt -r /src/milvus.txt" in docker
    for extra in ("serve", "milvus"):
        assert packages_of(extra) <= listed["image-service"].keys()
    assert "torch" in listed["image-gpu"]
    assert "torch" not in listed["image-service"]


def test_a_list_of_packages_names_versions_and_no_address():
    packages = list_packages()["venv-serve"]
    document = json.loads(bill_of_materials("venv-serve", packages))
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["component"]["version"] == PROJECT["version"]
    assert {part["name"]: part["version"] for part in document["components"]} == packages
    del document["$schema"]
    assert "://" not in json.dumps(document)
