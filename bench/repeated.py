"""Writes what pyproject.toml says into the files that repeat it: `python -m bench.repeated`.

These are the version, and the address of the repository. `python -m bench.repeated 1.2.0` sets the
version first, there and in the heading of the change log.
"""

from __future__ import annotations

import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from packaging.version import InvalidVersion, Version

from model.problems import InputProblem

ROOT = Path(__file__).parents[1]
UNRELEASED = "Not released yet.\n\n"


@dataclass(frozen=True)
class Facts:
    """The version and the address of a project.

    Attributes:
        version: as Python writes it, such as `1.2.0.dev3`.
        repository: address of the repository, whose path is an owner and a name.
    """

    version: str
    repository: str

    @property
    def npm_version(self) -> str:
        """The version as npm writes it, such as `1.2.0-dev.3`."""
        return re.sub(r"\.dev(\d+)$", r"-dev.\1", self.version)

    @property
    def images(self) -> str:
        """Where the images are: the registry, and the owner of the repository."""
        _, owner, _ = urlsplit(self.repository).path.split("/")
        return f"ghcr.io/{owner.lower()}"


def read_facts(root: Path = ROOT) -> Facts:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return Facts(project["version"], project["urls"]["Repository"])


def _places(facts: Facts) -> dict[str, dict[str, str]]:
    """Return by file the patterns of what it repeats, the only group of each, and the value."""
    version = facts.version
    tag = {r"\$\{IMAGE_TAG:-(.*?)\}": version}
    return {
        "pyproject.toml": {
            r'"gmn-client\[cli\]==(.*?)"': version,
            r'^\w+ = "(https?://[^/]+/[^/]+/[^/"]+)': facts.repository,
        },
        "gmn_client/pyproject.toml": {
            r'^version = "(.*?)"$': version,
            r'^\w+ = "(https?://[^/]+/[^/]+/[^/"]+)': facts.repository,
        },
        "gmn_client/__init__.py": {r'^__version__ = "(.*?)"$': version},
        "service/app.py": {r'^VERSION = "(.*?)"$': version},
        "clients/typescript/package.json": {
            r'^  "version": "(.*?)"': facts.npm_version,
            r'"git\+(.*?)\.git"': facts.repository,
        },
        "CITATION.cff": {
            r"^version: (.*)$": version,
            r"^repository-code: (.*)$": facts.repository,
        },
        "docker-compose.yml": tag,
        "docker-compose.cpu.yml": tag,
        "docs/api.txt": {r"^version (.*)$": version},
        "docs/operations.md": {
            r"^\| `IMAGE_TAG` \| `(.*?)` \|": version,
            r"`(ghcr\.io/[\w.-]+)/`": facts.images,
        },
        "docs/single.md": {r"`FROM gmn-reid(?:-gpu)?:(.*?)`": version},
        "docs/architecture.md": {r"(ghcr\.io/[\w.-]+)/gmn-reid\b": facts.images},
        "README.md": {
            r"(ghcr\.io/[\w.-]+)/gmn-reid\b": facts.images,
            r"^git clone (\S+)": facts.repository,
        },
    }


def repeat(text: str, pattern: str, value: str) -> str:
    """Return a text in which the group of each place of a pattern has this value.

    Raises:
        ValueError: the text has no such place.
    """
    found = list(re.finditer(pattern, text, re.MULTILINE))
    if not found:
        raise ValueError(f"no place of {pattern}")
    for place in reversed(found):
        text = text[: place.start(1)] + value + text[place.end(1) :]
    return text


def write_repeated(root: Path = ROOT) -> None:
    """Write the version and the address of a clone's pyproject.toml into its other files."""
    for name, values in _places(read_facts(root)).items():
        file = root / name
        text = file.read_text(encoding="utf-8")
        for pattern, value in values.items():
            text = repeat(text, pattern, value)
        file.write_text(text, encoding="utf-8")


def set_version(version: str, root: Path = ROOT) -> None:
    """Set the version of a clone: in pyproject.toml, in what repeats it and in the change log.

    The newest section of the change log gets the version as its heading, unless that version was
    released: then a new section begins.

    Raises:
        InputProblem: it is no version as Python writes them.
    """
    try:
        is_written_so = str(Version(version)) == version
    except InvalidVersion:
        is_written_so = False
    if not is_written_so:
        raise InputProblem(f"{version!r} is no version; write it like 1.2.0 or 1.2.0.dev0")
    project = root / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    project.write_text(repeat(text, r'^version = "(.*?)"$', version), encoding="utf-8")
    changes = root / "CHANGELOG.md"
    text = changes.read_text(encoding="utf-8")
    changes.write_text(with_heading(text, version), encoding="utf-8")
    write_repeated(root)


def with_heading(changes: str, version: str) -> str:
    """Return a change log whose newest section is that of a version."""
    before, mark, sections = changes.partition("\n## ")
    heading, _, entries = sections.partition("\n\n")
    if Version(heading).is_devrelease:
        entries = entries.removeprefix(UNRELEASED)
    else:
        entries = f"## {heading}\n\n{entries}"
    if Version(version).is_devrelease:
        entries = f"{UNRELEASED}{entries}"
    return f"{before}{mark}{version}\n\n{entries}"


if __name__ == "__main__":
    if sys.argv[1:]:
        set_version(sys.argv[1])
    write_repeated()
