"""A release: wheels that a stranger installs and calls, and what is in the environments."""

import csv
import email
import hashlib
import json
import re
import sys
import tarfile
import zipfile

import pytest
from markdown_it import MarkdownIt

from bench.packages import (
    CLIENT,
    ENVIRONMENTS,
    PROJECT,
    ROOT,
    bill_of_materials,
    list_packages,
    packages_of,
    read_pins,
)
from bench.release import SUMS, build_wheel, make_release, with_absolute_links
from bench.repeated import Facts, read_facts
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
    # The program that checks descriptions has an environment of its own, and npm asks a registry.
    make_release(folder, twine=None, typescript=False)
    return folder


@pytest.mark.slow
def test_a_release_has_wheels_that_were_called_and_the_sum_of_each_file(released):
    sums = dict(reversed(line.split("  ")) for line in (released / SUMS).read_text().splitlines())
    files = {file.name for file in released.iterdir()} - {SUMS}
    assert sums.keys() == files
    for kind in (".whl", ".tar.gz"):
        packed = {name.partition("-")[0] for name in files if name.endswith(kind)}
        assert packed == {"gmn_reid", "gmn_client"}
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
@pytest.mark.parametrize("name", ["gmn_reid", "gmn_client"])
def test_the_wheel_of_a_source_distribution_is_that_of_the_release(name, released, tmp_path):
    (sdist,) = released.glob(f"{name}-*.tar.gz")
    with tarfile.open(sdist) as packed:
        packed.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    pip = (sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index")
    built = run_command(*pip, "--wheel-dir", tmp_path, source)
    assert built.returncode == 0, built.stderr
    contents = []
    for folder in (tmp_path, released):
        (wheel,) = folder.glob(f"{name}-*.whl")
        with zipfile.ZipFile(wheel) as packed:
            contents.append({entry.filename: entry.CRC for entry in packed.infolist()})
    assert contents[0] == contents[1]


@pytest.mark.parametrize("source", [ROOT, ROOT / "gmn_client"], ids=lambda source: source.name)
def test_the_page_of_an_index_has_no_relative_link_and_says_where_it_runs(source, tmp_path):
    with zipfile.ZipFile(build_wheel(source, tmp_path)) as packed:
        (name,) = (path for path in packed.namelist() if path.endswith("/METADATA"))
        metadata = email.message_from_bytes(packed.read(name))
    page = MarkdownIt("commonmark").enable("table").render(metadata.get_payload())
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert links
    assert [link for link in links if not link.startswith("https://")] == []
    repository = read_facts().repository
    urls = dict(text.split(", ") for text in metadata.get_all("Project-URL"))
    assert urls["Repository"] == repository
    assert [url for url in urls.values() if not url.startswith(repository)] == []
    classifiers = metadata.get_all("Classifier")
    for minor in range(11, 15):
        assert f"Programming Language :: Python :: 3.{minor}" in classifiers
    assert any(line.startswith("Operating System :: ") for line in classifiers)
    assert metadata["Author"]


@pytest.mark.parametrize("folder", ["gmn_client", "clients/typescript"])
def test_a_package_of_its_own_has_the_license_of_the_project(folder):
    assert (ROOT / folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_links_and_pictures_of_a_page_become_those_of_the_version():
    facts = Facts("1.2.0", "https://forge.example/us/it")
    page = "![A picture](a.png) [b](../docs/b.md#c) [out](https://d.example/)"
    assert with_absolute_links(page, "client", facts) == (
        "![A picture](https://forge.example/us/it/raw/v1.2.0/client/a.png) "
        "[b](https://forge.example/us/it/blob/v1.2.0/docs/b.md#c) [out](https://d.example/)"
    )


@pytest.mark.slow
def test_no_file_is_in_both_wheels_and_the_application_depends_on_its_client(released):
    files = {}
    for name in ("gmn_reid", "gmn_client"):
        (wheel,) = released.glob(f"{name}-*.whl")
        with zipfile.ZipFile(wheel) as packed:
            (record,) = (path for path in packed.namelist() if path.endswith("/RECORD"))
            lines = csv.reader(packed.read(record).decode().splitlines())
        files[name] = {path for path, _, _ in lines}
    assert "gmn_client/client.py" in files["gmn_client"]
    assert files["gmn_reid"].isdisjoint(files["gmn_client"])
    assert PROJECT["dependencies"] == [f"{CLIENT['name']}[cli]=={CLIENT['version']}"]


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
