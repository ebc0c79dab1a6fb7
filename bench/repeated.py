"""Writes what pyproject.toml says into the files that repeat it: `python -m bench.repeated`.

These are the version, and the address of the repository.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[1]


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
        "mkdocs.yml": {r"^repo_url: (.*)$": facts.repository},
        "docker-compose.yml": tag,
        "docker-compose.cpu.yml": tag,
        "docs/api.txt": {r"^version (.*)$": version},
        "docs/operations.md": {
            r"^\| `IMAGE_TAG` \| `(.*?)` \|": version,
            r"`(ghcr\.io/[\w.-]+)/`": facts.images,
        },
        "docs/single.md": {r"`FROM gmn-reid(?:-gpu)?:(.*?)`": version},
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


if __name__ == "__main__":
    write_repeated()
