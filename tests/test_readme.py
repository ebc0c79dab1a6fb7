"""The commands of the README and of the training page run as they stand: blocks `sh` and `python`.

Blocks marked `sh figures`, on any page, take hours and real crops; of these the commands and
options are checked.
"""

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
import typer
from PIL import Image

import gmn
from tests.forked import run_gmn
from tests.outside import free_port, run_command

ROOT = Path(__file__).parents[1]
README, TRAINING = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/training.md")
)
PAGES = [page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```((?:sh|python)[^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SECONDS = 600
CHANCE = 0.10
"""Rank-1 of a random order among the people that the page's first training holds out."""


def blocks(page, mark):
    return [text for language, text in BLOCK.findall(page) if language == mark]


def commands(block):
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


@pytest.fixture
def environment():
    port = free_port()
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "GMN_PORT": str(port),
        "GMN_URL": f"http://127.0.0.1:{port}",
    }


def wait_until_ready(url, service):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and service.poll() is None:
        try:
            if httpx2.get(f"{url}/readyz").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.2)
    pytest.fail("the README's service did not become ready")


def run(block, shell, folder, environment):
    ran = run_command(*shell, "-c", block, cwd=folder, env=environment, timeout=SECONDS)
    assert ran.returncode == 0, f"{block}\n{ran.stdout[-2000:]}\n{ran.stderr[-2000:]}"


BASH = ["bash", "-euo", "pipefail"]


@pytest.mark.slow
def test_every_command_of_the_readme_runs_as_it_stands(tmp_path, environment, drawn_crops):
    for name, crop in zip(("ann.jpg", "photo.jpg"), drawn_crops, strict=False):
        Image.open(io.BytesIO(crop[2])).save(tmp_path / name)
    service = None
    try:
        for mark, block in BLOCK.findall(README):
            if mark not in ("sh", "python") or block.startswith("make "):
                continue
            if block.startswith("gmn serve"):
                service = subprocess.Popen(shlex.split(block), cwd=tmp_path, env=environment)
                wait_until_ready(environment["GMN_URL"], service)
                continue
            block = block.replace("http://127.0.0.1:8000", environment["GMN_URL"])
            run(block, BASH if mark == "sh" else [sys.executable], tmp_path, environment)
    finally:
        if service:
            service.send_signal(signal.SIGTERM)
            service.wait(60)
    assert service is not None


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_every_command_of_the_training_page_runs_and_its_first_training_learns(tmp_path):
    for block in blocks(TRAINING, "sh"):
        # Half of the recipe's epochs shows that it learns, on every processor.
        shorter = block.replace("gmn train quick", "gmn train quick --set optimisation.epochs=6")
        for program, *words in commands(shorter):
            assert program == "gmn"
            ran = run_gmn(*words, cwd=tmp_path, timeout=SECONDS)
            assert ran.returncode == 0, f"{words}\n{ran.stdout[-2000:]}\n{ran.stderr[-2000:]}"
    report = json.loads((tmp_path / "runs" / "first" / "report.json").read_text())
    (found,) = report["datasets"]
    for scoring in ("cosine", "mnet"):
        rank_1 = found["scorings"][scoring]["metrics"]["rank_1"]
        assert rank_1["mean"] > 2 * CHANCE, f"{scoring}: the page's first training learnt nothing"


def test_the_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (setup,) = [block for block in blocks(README, "sh") if block.startswith("make ")]
    for make, target in commands(setup):
        assert make == "make"
        assert f"\n{target}: " in makefile


@pytest.mark.parametrize("block", [block for page in PAGES for block in blocks(page, "sh figures")])
def test_the_figures_commands_exist_with_their_options(block):
    group = typer.main.get_command(gmn.make_app())
    for program, *words in commands(block):
        if program != "gmn":
            continue
        command = group.commands[words[0]]
        if hasattr(command, "commands"):
            command = command.commands[words[1]]
        known = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, words
        if words[0] == "train":
            assert (ROOT / "training" / "recipes" / f"{words[1]}.toml").is_file()
