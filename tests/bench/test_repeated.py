"""The version and the address of the project: stated once, and repeated by a command."""

import re
import shutil
import subprocess

import pytest

from bench.repeated import (
    ROOT,
    Facts,
    read_facts,
    repeat,
    set_version,
    with_heading,
    write_repeated,
)
from model.problems import InputProblem


@pytest.fixture
def copy(tmp_path):
    """Return a copy of the tracked texts of the clone."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if name.endswith((".toml", ".md", ".txt", ".json", ".cff", ".yml", ".py")):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def texts(folder):
    return {
        str(file.relative_to(folder)): file.read_text(encoding="utf-8", errors="replace")
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_every_file_repeats_what_the_project_says(copy):
    before = texts(copy)
    write_repeated(copy)
    assert texts(copy) == before, "run python -m bench.repeated"


def test_another_address_and_version_arrive_in_every_file_that_names_them(copy):
    facts = read_facts()
    project = copy / "pyproject.toml"
    text = project.read_text().replace(facts.repository, "https://forge.example/Them/thing", 1)
    project.write_text(text)
    set_version("9.8.7.dev6", copy)
    assert read_facts(copy) == Facts("9.8.7.dev6", "https://forge.example/Them/thing")
    address = re.compile(rf"{re.escape(facts.repository)}|ghcr\.io/gmn")
    # Packages may have the same version, and logs and sections of changes are of older ones.
    version = re.compile(rf"(?<![=\w.-]){re.escape(facts.version)}(?![\w.-])")
    stale = {
        name
        for name, text in texts(copy).items()
        if not name.startswith(("docs/figures/", "tests/", "CHANGELOG.md"))
        and (address.search(text) or version.search(text))
    }
    assert stale == set()
    assert "9.8.7-dev.6" in (copy / "clients/typescript/package.json").read_text()
    assert "ghcr.io/them/gmn-reid demo" in (copy / "README.md").read_text()


def test_the_heading_of_the_changes_follows_the_version():
    sections = "## 1.2.0.dev0\n\nNot released yet.\n\n- New.\n\n## 1.1.0\n\n- Old.\n"
    text = f"# Changes\n\nRules.\n\n{sections}"
    released = with_heading(text, "1.2.0")
    assert released == text.replace(".dev0\n\nNot released yet.", "")
    begun = with_heading(released, "1.3.0.dev0")
    section = "## 1.3.0.dev0\n\nNot released yet.\n\n## 1.2.0\n"
    assert begun == released.replace("## 1.2.0\n", section)
    assert with_heading(begun, "1.3.0.dev1") == begun.replace("dev0", "dev1")


@pytest.mark.parametrize("version", ["v1.0.0", "1.0.0-dev.0", "next", ""])
def test_what_is_no_version_is_refused_before_anything_is_written(version, copy):
    before = texts(copy)
    with pytest.raises(InputProblem, match="write it like"):
        set_version(version, copy)
    assert texts(copy) == before


def test_a_place_that_is_gone_is_an_error():
    with pytest.raises(ValueError, match="no place of"):
        repeat("some text", "version (.*)", "1.0")
