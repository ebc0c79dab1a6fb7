"""The client's own distribution, `gmn-client`."""

import os
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import gmn_client
from bench.release import build_wheel
from service.app import VERSION
from tests.outside import run_command

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys
import model, service
from gmn_client import AsyncClient, Client, Image

with Client("http://127.0.0.1:9") as client:
    assert not client.ready()
loaded = {name.partition(".")[0] for name in sys.modules}
print(loaded & {"torch", "numpy", "PIL", "training", "typer", "rich"}, model.OWN, service.OWN)
print(Client.__module__, sys.modules["gmn_client"].__file__)

# Their packages come with the extra `cli`.
import gmn_client.commands.browse, gmn_client.commands.enroll, gmn_client.commands.query

loaded = {name.partition(".")[0] for name in sys.modules}
print(sorted(loaded & {"torch", "numpy", "PIL", "training", "typer", "rich"}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the wheel that a release has; the build leaves nothing in the source tree."""
    return build_wheel(ROOT / "gmn_client", tmp_path_factory.mktemp("build"))


def test_the_wheel_holds_the_client_alone(wheel):
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        (metadata,) = (name for name in names if name.endswith("/METADATA"))
        described = packed.read(metadata).decode()
    own = {name for name in names if not name.partition("/")[0].endswith(".dist-info")}
    # A build in the clone leaves copies of the modules below gmn_client/build.
    listed = run_command("git", "ls-files", "gmn_client/*.py", cwd=ROOT, check=True)
    assert own == {*listed.stdout.split(), "gmn_client/py.typed"}
    needed = [line for line in described.splitlines() if line.startswith("Requires-Dist")]
    assert not any("torch" in line or "numpy" in line for line in needed)
    printing = [line for line in needed if "typer" in line or "rich" in line]
    assert len(printing) == 2
    assert all(line.endswith('; extra == "cli"') for line in printing)


def test_all_parts_have_one_version(wheel):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert gmn_client.__version__ == VERSION == project["version"]
    assert wheel.name.startswith(f"gmn_client-{gmn_client.__version__}-")


def test_the_wheel_works_beside_a_project_with_a_service_and_a_model(wheel, tmp_path):
    installed = tmp_path / "installed"
    project = tmp_path / "project"
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(installed)
    for name in ("service", "model"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text(f"OWN = {name!r}")
    ran = run_command(
        sys.executable, "-c", PROGRAM, cwd=project, env=os.environ | {"PYTHONPATH": str(installed)}
    )
    assert ran.returncode == 0, ran.stderr
    first, second, third = ran.stdout.splitlines()
    assert first == "set() model service"
    assert second == f"gmn_client.client {installed}/gmn_client/__init__.py"
    assert third == "['rich', 'typer']"
