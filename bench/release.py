"""`make release`: builds the wheels of a version, and checks them in new environments, offline.

It writes the wheels of `gmn-reid` and `gmn-client`, the bills of materials and the SHA-256 of each
file into a folder. The wheels are installed into empty environments, whose other packages are those
of the environment that runs this. There a service starts, and the calls of the README are made.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

from bench.packages import write_bills
from demo.service import own_service
from demo.story import draw_cast
from model.problems import InputProblem

ROOT = Path(__file__).parents[1]
# Checks the descriptions of wheels.
TWINE = ROOT / ".venv-release" / "bin" / "twine"
SECONDS = 600
SUMS = "SHA256SUMS"


def make_release(folder: Path, twine: Path | None = TWINE) -> list[Path]:
    """Write and check the files of a release.

    Args:
        folder: folder for the files; an existing one is replaced.
        twine: program that checks the wheels' descriptions; None skips the check.

    Raises:
        InputProblem: a step fails; the message ends with its output.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    wheels = [_build_wheel(ROOT, folder), _build_wheel(ROOT / "gmn_client", folder)]
    if twine is not None:
        _run([twine, "check", "--strict", *wheels])
    with tempfile.TemporaryDirectory(prefix="gmn-release-") as place:
        service = _install(wheels[0], Path(place) / "service", "service")
        client = _install(wheels[1], Path(place) / "client", "gmn_client")
        _make_first_calls(service, client, Path(place))
    files = [*wheels, *write_bills(folder)]
    sums = "".join(f"{_sha256(file)}  {file.name}\n" for file in files)
    (folder / SUMS).write_text(sums, encoding="utf-8")
    return [*files, folder / SUMS]


def _build_wheel(source: Path, folder: Path) -> Path:
    """Build the wheel of the tracked files below a folder, in a copy of them."""
    listed = _run(["git", "ls-files", "-z"], source).split("\0")
    with tempfile.TemporaryDirectory(prefix="gmn-build-") as place:
        copy = Path(place) / source.name
        built = Path(place) / "built"
        for name in filter(None, listed):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, copy / name)
        build = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
        _run([*build, "--no-index", "--wheel-dir", built, copy])
        (wheel,) = built.glob("*.whl")
        return Path(shutil.copy2(wheel, folder))


def _install(wheel: Path, place: Path, package: str) -> Path:
    """Install a wheel into a new environment, and return its Python.

    Raises:
        InputProblem: a package of the wheel is found somewhere else.
    """
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    _run([*install, "--no-index", "--no-deps", wheel])
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    found = _run([python, "-I", "-c", f"import {package}; print({package}.__file__)"]).strip()
    if not Path(found).is_relative_to(packages):
        raise InputProblem(f"{wheel}: its package {package} was found at {found}")
    return python


def _make_first_calls(service: Path, client: Path, folder: Path) -> None:
    """Run the README's program for the client against a service of the other wheel."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    programs = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    program = next(program for program in programs if "gmn_client" in program)
    cast = draw_cast(1, 1, 0, 2)
    for name, crop in zip(("ann.jpg", "photo.jpg"), cast.gallery, strict=False):
        (folder / name).write_bytes(crop.read())
    with own_service("small", program=[str(service), "-I", "-m", "gmn"]) as running:
        (folder / "first.py").write_text(
            program.replace("http://127.0.0.1:8000", running.url), encoding="utf-8"
        )
        answered = _run([client, "-I", folder / "first.py"], folder)
    if "'Ann'" not in answered:
        raise InputProblem(f"the README's program did not find Ann: {answered}")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _run(command: Sequence[str | Path], folder: Path = ROOT) -> str:
    ran = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    if ran.returncode:
        raise InputProblem(
            f"{' '.join(map(str, command))}: {ran.stdout[-2000:]}{ran.stderr[-2000:]}"
        )
    return ran.stdout


if __name__ == "__main__":
    for made in make_release(Path(sys.argv[1])):
        sys.stdout.write(f"{made}\n")
