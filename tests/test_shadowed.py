"""Where a package of another project comes first, `gmn` and programs name its file."""

import os
import re
import sys
from pathlib import Path

import pytest

import gmn_reid
from tests.outside import run_command

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "programs.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
OURS = [text for text in PROGRAMS if re.search(r"^from (model|training)\b", text, re.MULTILINE)]
# Finds packages behind those of `sys.path`, as an editable installation does.
EDITABLE = f"""
import importlib.machinery, importlib.util, sys
from pathlib import Path

class Finder:
    def find_spec(name, path=None, target=None):
        for place in (Path({str(ROOT)!r}, name, "__init__.py"), Path({str(ROOT)!r}, name + ".py")):
            if place.exists():
                return importlib.util.spec_from_file_location(name, place)

behind = sys.meta_path.index(importlib.machinery.PathFinder) + 1
sys.meta_path.insert(behind, Finder)
import gmn_reid
"""


def run_in(folder, *arguments, **environment):
    # The folder of a program or notebook comes first, and then what is installed.
    path = os.pathsep.join([str(folder), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": path} | environment
    return run_command(sys.executable, *arguments, cwd=folder, env=environment)


def test_every_package_of_the_wheel_is_looked_at():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert set(gmn_reid.PACKAGES) == packages - {"gmn_client"}


@pytest.mark.parametrize(
    ("package", "name"), [("model", "model.py"), ("training", "training/__init__.py")]
)
def test_gmn_names_the_file_that_shadows_a_package(package, name, tmp_path):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.touch()
    ran = run_in(tmp_path, "-m", "gmn", "--version")
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"gmn: {file} shadows the package {package} of gmn-reid in ")
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize("program", OURS)
def test_a_documented_program_names_the_file_that_shadows_a_package(program, tmp_path):
    file = tmp_path / "model.py"
    file.touch()
    (tmp_path / "program.py").write_text(program)
    ran = run_in(tmp_path, "program.py")
    assert ran.stderr.splitlines()[-1].startswith(f"ImportError: {file} shadows the package model")


def test_a_folder_without_an_init_shadows_a_package_of_a_clone(tmp_path):
    (tmp_path / "training").mkdir()
    ran = run_in(tmp_path, "-c", EDITABLE, PYTHONPATH=str(tmp_path))
    said = ran.stderr.splitlines()[-1]
    assert said.startswith(f"ImportError: {tmp_path / 'training'} shadows the package training")


def test_a_folder_with_other_names_is_no_matter(tmp_path):
    (tmp_path / "models.py").touch()
    (tmp_path / "training").mkdir()
    assert run_in(tmp_path, "-m", "gmn", "--version").stdout.startswith("gmn ")
