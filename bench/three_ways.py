"""`make try-release`: runs the README's three ways to a first result, each from nothing.

What `make release` wrote stands in for the index, an archive of the image that is built here for
the registry, and this clone for the repository. Everything else comes from where pip and the
image's base come from. A line of JSON for each way has its minutes, the bytes that it installed and
what it printed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.packages import ROOT
from bench.repeated import read_facts
from model.problems import InputProblem

TOOLS = ROOT / ".venv-release" / "bin"
README = (ROOT / "README.md").read_text(encoding="utf-8")
# The lines of the block that has one way in each.
BY_PIP, BY_IMAGE, BY_CLONE = re.findall(
    r"^((?:pipx|docker|git) .*gmn.* demo)$", README, re.MULTILINE
)
SECONDS = 3600
# Steps that `gmn demo` tells while it works, and its result.
TOLD = ("Drawing ", "Starting a service", "It serves on ", "people ranked first")


def main(
    released: Annotated[Path, typer.Argument(help="Folder that `make release` wrote.")],
    engine: Annotated[
        str, typer.Option(help="docker, podman or a program like them; empty for no image.")
    ] = "docker",
    pythons: Annotated[
        str, typer.Option(help="Versions to try where they are installed; empty for none.")
    ] = "3.11,3.12,3.13",
) -> None:
    """Run the README's three ways, and print a line of JSON for each."""
    for version in filter(None, pythons.split(",")):
        program = shutil.which(f"python{version}")
        # A shim of pyenv stands for versions that are not in use, too.
        if program is None or subprocess.run([program, "--version"], check=False).returncode:
            sys.stderr.write(f"There is no python{version} here.\n")
            continue
        _show("pip", version, _try_pip(released.resolve(), program))
        _show("clone", version, _try_clone(program))
    if engine:
        _show("image", "", _try_image(engine))


def _show(way: str, version: str, figures: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps({"way": way, "python": version, **figures}) + "\n")
    sys.stdout.flush()


def _try_pip(released: Path, program: str) -> dict[str, Any]:
    with _new_home() as home:
        variables = {
            "PIPX_HOME": str(home / "pipx"),
            "PIPX_BIN_DIR": str(home / "bin"),
            "PIPX_DEFAULT_PYTHON": program,
            "PIP_FIND_LINKS": str(released),
            "PATH": os.pathsep.join([str(home / "bin"), str(TOOLS), os.environ["PATH"]]),
        }
        return _run(BY_PIP, home, variables) | {"bytes": _size(home / "pipx" / "venvs")}


def _try_clone(program: str) -> dict[str, Any]:
    with _new_home() as home:
        variables = {
            "PYTHON": program,
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{ROOT}.insteadOf",
            "GIT_CONFIG_VALUE_0": read_facts().repository,
        }
        return _run(BY_CLONE, home, variables) | {"bytes": _size(home)}


def _try_image(engine: str) -> dict[str, Any]:
    (name,) = re.findall(r"ghcr\.io/\S+", BY_IMAGE)
    # A terminal would keep the service up until Ctrl-C.
    line = BY_IMAGE.replace("docker ", f"{engine} ", 1).replace(" -it ", " ")
    with _new_home() as home:
        archive = home / "image.tar"
        for command in (
            [engine, "build", "-f", "docker/Dockerfile", "--target", "service", "-t", name, "."],
            [engine, "save", "-o", str(archive), name],
            [engine, "rmi", name],
            [engine, "load", "-i", str(archive)],
        ):
            ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            if ran.returncode:
                raise InputProblem(f"{' '.join(command)}: {ran.stdout[-1000:]}{ran.stderr[-2000:]}")
        return _run(line, home, {}) | {"bytes": archive.stat().st_size}


@contextmanager
def _new_home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gmn-first-") as place:
        yield Path(place)


def _run(line: str, folder: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """Run a line of the README in a folder; return its minutes and what the demonstration told.

    Raises:
        InputProblem: it fails, or leaves out a step.
    """
    # A newcomer has none of the variables that a developer's shell sets.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GMN_")}
    kept = {name: value for name, value in kept.items() if name not in ("PYTHONPATH", "MAKEFLAGS")}
    began = time.monotonic()
    ran = subprocess.run(
        ["sh", "-c", line],
        cwd=folder,
        env={**kept, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    minutes = (time.monotonic() - began) / 60
    missing = [step for step in TOLD if step not in ran.stdout]
    if ran.returncode or missing:
        raise InputProblem(f"{line}: status {ran.returncode}, without {missing}: {ran.stdout}")
    return {"line": line, "minutes": round(minutes, 1), "printed": ran.stdout.splitlines()}


def _size(folder: Path) -> int:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files)


if __name__ == "__main__":
    typer.run(main)
