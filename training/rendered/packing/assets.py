"""The files of MakeHuman's assets, read at fixed commits from clones of its repositories."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

from training.rendered.packing.formats import AssetProblem

LICENCE = "CC0-1.0"


@dataclass(frozen=True)
class Repository:
    """A repository of assets.

    Attributes:
        folder: the name of its clone.
        address: where it can be cloned from.
        commit: the commit that is read, whatever is checked out.
        content: the folder that has the assets.
        licence_file: the file that puts them under `LICENCE`.
    """

    folder: str
    address: str
    commit: str
    content: str
    licence_file: str


REPOSITORIES = (
    Repository(
        "makehuman",
        "https://github.com/makehumancommunity/makehuman",
        "a8bc2d54ff0ac92e78ff71431b1023eda42bf482",
        "makehuman/data",
        "LICENSE.md",
    ),
    Repository(
        "makehuman-assets",
        "https://github.com/makehumancommunity/makehuman-assets",
        "8cf9645b975a98eea056b140df11a1d278da0d10",
        "base",
        "LICENSE.txt",
    ),
)


class Assets:
    """A folder with clones of `REPOSITORIES`, bare or not.

    Attributes:
        sha256: the SHA-256 of each file that was read, by repository and path.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.sha256: dict[str, str] = {}
        for repository in REPOSITORIES:
            self._content(repository, repository.licence_file)

    def read(self, path: str) -> str:
        """Return the text of a file, such as `makehuman/data/3dobjs/base.obj`.

        Raises:
            AssetProblem: the clone, its commit or the file is missing, or is no text.
        """
        repository = next(
            repository for repository in REPOSITORIES if path.startswith(f"{repository.content}/")
        )
        content = self._content(repository, path)
        self.sha256[f"{repository.folder}/{path}"] = hashlib.sha256(content).hexdigest()
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise AssetProblem(f"{repository.folder}/{path}: is no text in UTF-8") from error

    def provenance(self) -> list[dict[str, str]]:
        """Return the repositories and every file that was read, with hash and licence."""
        commits = {repository.folder: repository for repository in REPOSITORIES}
        return [
            {
                "repository": commits[name.split("/", 1)[0]].address,
                "commit": commits[name.split("/", 1)[0]].commit,
                "file": name.split("/", 1)[1],
                "sha256": sha256,
                "licence": LICENCE,
                "licence_file": commits[name.split("/", 1)[0]].licence_file,
            }
            for name, sha256 in sorted(self.sha256.items())
        ]

    def _content(self, repository: Repository, path: str) -> bytes:
        clone = self._folder / repository.folder
        # A file that is named by its commit has the contents that this commit's hash covers.
        command = ["git", "-C", str(clone), "cat-file", "blob", f"{repository.commit}:{path}"]
        try:
            return subprocess.run(command, check=True, capture_output=True).stdout
        except FileNotFoundError as error:
            raise AssetProblem("git is not installed; it reads the assets") from error
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip()
            raise AssetProblem(
                f"{clone}: cannot read {path} of commit {repository.commit} ({said}); clone it by "
                f"`git clone --bare {repository.address} {clone}`"
            ) from error
