"""`make release`: builds the packages of a version, and checks the wheels in new environments.

It writes the wheels and source distributions of `gmn-reid` and `gmn-client`, the package for
TypeScript, the bills of materials and the SHA-256 of each file into a folder. The wheels are
installed into empty environments, whose other packages are those of the environment that runs this.
There a service starts, and the calls of the README are made.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.packages import write_bills
from bench.repeated import Facts, read_facts
from demo.service import own_service
from demo.story import draw_cast
from model.problems import InputProblem
from service.app import create_app
from service.settings import Settings

ROOT = Path(__file__).parents[1]
# Checks the descriptions of wheels.
TWINE = ROOT / ".venv-release" / "bin" / "twine"
# A link or a picture whose address begins with no scheme.
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)")
SECONDS = 600
SUMS = "SHA256SUMS"


def make_release(folder: Path, twine: Path | None = TWINE, typescript: bool = True) -> list[Path]:
    """Write and check the files of a release.

    Args:
        folder: folder for the files; an existing one is replaced.
        twine: program that checks the wheels' descriptions; None skips the check.
        typescript: whether to pack the package for TypeScript, for which npm asks its registry.

    Raises:
        InputProblem: a step fails; the message ends with its output.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sources = (ROOT, ROOT / "gmn_client")
    wheels = [build_wheel(source, folder) for source in sources]
    sdists = [build_sdist(source, folder) for source in sources]
    if twine is not None:
        _run([twine, "check", "--strict", *wheels, *sdists])
    with tempfile.TemporaryDirectory(prefix="gmn-release-") as place:
        service = _install(wheels, Path(place) / "service", ("service", "gmn_client"))
        client = _install(wheels[1:], Path(place) / "client", ("gmn_client",))
        _make_first_calls(service, client, Path(place))
    tarballs = [pack_typescript(folder)] if typescript else []
    files = [*wheels, *sdists, *tarballs, *write_bills(folder)]
    sums = "".join(f"{_sha256(file)}  {file.name}\n" for file in files)
    (folder / SUMS).write_text(sums, encoding="utf-8")
    return [*files, folder / SUMS]


def build_wheel(source: Path, folder: Path) -> Path:
    """Build the wheel of the tracked files below a folder."""
    with _copy_to_release(source) as copy, tempfile.TemporaryDirectory(prefix="gmn-") as built:
        build = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
        _run([*build, "--no-index", "--wheel-dir", built, copy])
        (wheel,) = Path(built).glob("*.whl")
        return Path(shutil.copy2(wheel, folder))


def build_sdist(source: Path, folder: Path) -> Path:
    """Build the source distribution of the tracked files below a folder."""
    with _copy_to_release(source) as copy:
        build = "import sys; from setuptools.build_meta import build_sdist as b; b(sys.argv[1])"
        _run([sys.executable, "-c", build, copy / "built"], copy)
        (sdist,) = (copy / "built").glob("*.tar.gz")
        return Path(shutil.copy2(sdist, folder))


def pack_typescript(folder: Path) -> Path:
    """Build and pack the package for TypeScript of the tracked files, with this version's calls.

    npm installs what builds it from its registry.
    """
    with _copy_to_release(ROOT / "clients" / "typescript") as copy:
        document = json.dumps(create_app(Settings()).openapi())
        (copy / "openapi.json").write_text(document, encoding="utf-8")
        _run(["npm", "install", "--no-audit", "--no-fund"], copy)
        _run(["npm", "pack", "--pack-destination", folder], copy)
        (tarball,) = folder.glob("*.tgz")
        return tarball


@contextmanager
def _copy_to_release(source: Path) -> Iterator[Path]:
    """Yield a copy of the tracked files below a folder, as an index shows their README."""
    listed = _run(["git", "ls-files", "-z"], source).split("\0")
    with tempfile.TemporaryDirectory(prefix="gmn-build-") as place:
        copy = Path(place) / source.name
        for name in filter(None, listed):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, copy / name)
        readme = copy / "README.md"
        folder = source.relative_to(ROOT).as_posix()
        page = with_absolute_links(readme.read_text(encoding="utf-8"), folder, read_facts())
        readme.write_text(page, encoding="utf-8")
        yield copy


def with_absolute_links(page: str, folder: str, facts: Facts) -> str:
    """Return a page of a folder of the repository with links to the files of the version."""

    def absolute(link: re.Match[str]) -> str:
        is_picture, label, target = link.groups()
        kind = "raw" if is_picture else "blob"
        path = posixpath.normpath(posixpath.join(folder, target))
        return f"{is_picture}[{label}]({facts.repository}/{kind}/v{facts.version}/{path})"

    return LINK.sub(absolute, page)


def _install(wheels: Sequence[Path], place: Path, packages: Sequence[str]) -> Path:
    """Install wheels into a new environment, and return its Python.

    Raises:
        InputProblem: a package of the wheels is found somewhere else.
    """
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    _run([*install, "--no-index", "--no-deps", *wheels])
    (installed,) = place.glob("lib/python*/site-packages")
    (installed / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    for package in packages:
        found = _run([python, "-I", "-c", f"import {package}; print({package}.__file__)"]).strip()
        if not Path(found).is_relative_to(installed):
            raise InputProblem(f"{place}: its package {package} was found at {found}")
    return python


def _make_first_calls(service: Path, client: Path, folder: Path) -> None:
    """Run the README's program for the client against a service of the other wheel."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    programs = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    program = next(program for program in programs if "gmn_client" in program)
    cast = draw_cast("synthetic", 1, 1, 0, 2)
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
    for made in make_release(Path(sys.argv[1]).resolve()):
        sys.stdout.write(f"{made}\n")
