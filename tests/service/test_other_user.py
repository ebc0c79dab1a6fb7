"""Commands on a data directory whose files belong to another user say so, with the remedy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.opening import open_folder

ROOT = Path(__file__).parents[2]
OTHER_USER = 10001


@pytest.fixture
def of_another(tmp_path):
    """A data directory whose files only their user, who is another one, may read."""
    folder = tmp_path / "data"
    folder.mkdir()
    open_folder(folder).close()
    (folder / "audit.jsonl").write_text("")
    files = [path for path in folder.rglob("*") if path.is_file()]
    for file in files:
        file.chmod(0)
        if os.geteuid() == 0:
            os.chown(file, OTHER_USER, OTHER_USER)
    if os.geteuid() == 0:
        os.chown(folder, OTHER_USER, OTHER_USER)
    yield folder
    for file in files:
        file.chmod(0o600)


def run(*arguments):
    # Root may read everything by its capabilities.
    bounded = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    command = [*bounded, sys.executable, str(ROOT / "gmn.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "command",
    [
        ["doctor", "--json"],
        ["store", "verify"],
        ["store", "forget-runtime"],
        ["backup", "copy"],
        ["keys", "list"],
        ["keys", "create", "--scope", "query"],
        ["audit", "verify"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_command_names_what_its_user_may_not_use(of_another, tmp_path, command):
    words = [str(tmp_path / "copy") if word == "copy" else word for word in command]
    done = run(*words, "--data-dir", str(of_another))
    said = done.stdout + done.stderr
    assert done.returncode in (1, 2), said
    assert "failed:" not in said
    assert str(of_another) in said
    assert "may not read it" in said or "Permission denied" in said
    assert not (tmp_path / "copy").exists()


def test_doctor_names_the_user_of_the_files(of_another):
    said = run("doctor", "--json", "--data-dir", str(of_another)).stdout
    owner = of_another.stat().st_uid
    assert f"which belongs to user {owner}; run the command as the user of the service" in said
