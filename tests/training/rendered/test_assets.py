"""Assets are read from a clone at a fixed commit, whatever is checked out there."""

import hashlib
import subprocess

import pytest

from training.rendered.packing import assets as module
from training.rendered.packing.assets import Assets, Repository
from training.rendered.packing.formats import AssetProblem


def git(folder, *words):
    identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    ran = subprocess.run(
        ["git", "-C", str(folder), *identity, *words], check=True, capture_output=True, text=True
    )
    return ran.stdout.strip()


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone whose only commit is the one to read."""
    folder = tmp_path / "meshes"
    (folder / "base").mkdir(parents=True)
    (folder / "LICENSE.txt").write_text("CC0\n")
    (folder / "base" / "shirt.obj").write_text("v 0 0 0\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "meshes")
    commit = git(folder, "rev-parse", "HEAD")
    repository = Repository("meshes", "https://example.org/meshes", commit, "base", "LICENSE.txt")
    monkeypatch.setattr(module, "REPOSITORIES", (repository,))
    return folder


def test_a_changed_file_of_the_clone_is_read_as_the_commit_has_it(clone):
    (clone / "base" / "shirt.obj").write_text("v 9 9 9\n")
    assets = Assets(clone.parent)
    assert assets.read("base/shirt.obj") == "v 0 0 0\n"
    (entry,) = assets.provenance()
    assert entry["file"] == "base/shirt.obj"
    assert entry["sha256"] == hashlib.sha256(b"v 0 0 0\n").hexdigest()
    assert (entry["licence"], entry["licence_file"]) == ("CC0-1.0", "LICENSE.txt")


def test_a_missing_clone_commit_or_file_is_named_with_what_to_do(clone, monkeypatch):
    with pytest.raises(AssetProblem, match=r"base/hat\.obj.*git clone"):
        Assets(clone.parent).read("base/hat.obj")
    with pytest.raises(AssetProblem, match=r"git clone --bare https://example\.org/meshes"):
        Assets(clone.parent / "elsewhere")
    other = Repository("meshes", "https://example.org/meshes", "0" * 40, "base", "LICENSE.txt")
    monkeypatch.setattr(module, "REPOSITORIES", (other,))
    with pytest.raises(AssetProblem, match="0" * 40):
        Assets(clone.parent)
