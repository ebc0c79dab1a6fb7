"""The harness can fail: a store that does not wait for the disk, or forgets a folder, is found out.

Each is broken on purpose in a process of its own.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from service.record.snapshot_file import read_snapshot

from service.record.record import open_sqlite
from tests.power_cut.disk import Disk, read_recording
from tests.power_cut.recording import build_recorder, recorded
from tests.service.gallery.new_crops import EMBEDDER

ENROL = f"""
import sys
from pathlib import Path
from service.record import snapshot_file
from service.record.values import GallerySettings
from service.record import sqlite_engine
from service.record.record import open_sqlite
from tests.service.gallery.new_crops import new_crop
{{broken}}
folder = Path(sys.argv[1])
store = open_sqlite(folder / "galleries.sqlite3")
gallery = store.galleries.create("lobby", "{EMBEDDER}", GallerySettings()).gallery_id
for number in range(5):
    store.crops.enroll(gallery, "{EMBEDDER}", [new_crop(number)])
with store.crops.archive(gallery) as archive:
    snapshot_file.write_snapshot(folder / "snapshots" / "one.gmn", archive.crops)
store.crops.enroll(gallery, "{EMBEDDER}", [new_crop(5)])
import os
os._exit(0)
"""
PRAGMAS = 'sqlite_engine.PRAGMAS = tuple(p.replace("FULL", "{}") for p in sqlite_engine.PRAGMAS)'
NO_FOLDER = (
    "from service.ops import data_directory\n"
    "really = data_directory.sync\n"
    "snapshot_file.sync = lambda path: really(path) if path.is_file() else None"
)
NO_NEW_FOLDER = "snapshot_file.make_folder = lambda path: path.mkdir(parents=True, exist_ok=True)"


def _crops(disk: Path) -> int:
    store = open_sqlite(disk / "galleries.sqlite3")
    galleries = store.galleries.all()
    crops = galleries[0].crops if galleries else 0
    store.close()
    return crops


def _snapshot_crops(disk: Path) -> int:
    path = disk / "snapshots" / "one.gmn"
    return sum(1 for _ in read_snapshot(path)) if path.exists() else 0


def _left(tmp_path: Path, broken: str, count: Callable[[Path], int]) -> int:
    """How much is left of six crops, five of them in a snapshot, after a power cut."""
    root = tmp_path / "disk"
    log = tmp_path / "log"
    root.mkdir()
    with recorded(build_recorder(tmp_path), root, log):
        command = [sys.executable, "-c", ENROL.format(broken=broken), root]
        subprocess.run(command, check=True, timeout=60)
    disk = Disk(root)
    for asked in read_recording(log):
        disk.ask(asked)
    disk.cut(tmp_path / "left", "everything", random.Random(1))
    return count(tmp_path / "left")


@pytest.mark.parametrize(("count", "all_of_them"), [(_crops, 6), (_snapshot_crops, 5)])
def test_nothing_is_lost_as_it_is(tmp_path, count, all_of_them):
    assert _left(tmp_path, "", count) == all_of_them


@pytest.mark.parametrize("setting", ["OFF", "NORMAL"])
def test_commits_that_are_not_synced_are_found_out(tmp_path, setting):
    assert _left(tmp_path, PRAGMAS.format(setting), _crops) < 6


@pytest.mark.parametrize(
    "broken", ["snapshot_file.sync = lambda path: None", NO_FOLDER, NO_NEW_FOLDER]
)
def test_a_snapshot_whose_file_or_folder_is_not_synced_is_found_out(tmp_path, broken):
    assert _left(tmp_path, broken, _snapshot_crops) < 5
