"""A process that is killed while it copies, restores or forgets leaves nothing half done."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import sys
import time

import pytest

from service.record.archive import (
    archived_ids,
    check_archive,
    remove_from_archive,
    write_archive,
)
from service.record.record import Record
from service.record.values import CropFilter, GallerySettings
from service.record.verify import verify
from tests.service.gallery.new_crops import EMBEDDER, new_crop

CROPS = 600
REMOVED = 30
TURNS = 3
WORK = {
    "restore": "while True: replace_crops(record.database, 1, base / 'kept')",
    "copy": "[write_archive(record.database, base / f'copy-{n}') for n in range(1000)]",
    "forget": "[remove_from_archive(base / 'snapshot', 1, [crop_id]) or print(crop_id, flush=True)"
    " for crop_id in archived_ids(base / 'snapshot')]",
}
CHILD = """
import sys
from pathlib import Path
from service.record.archive import *
from service.record.record import Record
from service.record.replacing import replace_crops
base = Path(sys.argv[1])
record = Record(base / "data")
print("ready", flush=True)
{}
"""


@pytest.fixture
def base(tmp_path):
    (tmp_path / "data").mkdir()
    with contextlib.closing(Record(tmp_path / "data")) as record:
        record.galleries.create("lobby", EMBEDDER, GallerySettings())
        crops = [new_crop(number, f"person {number}") for number in range(CROPS)]
        record.crops.enroll(1, EMBEDDER, crops)
        write_archive(record.database, tmp_path / "kept", 1)
        write_archive(record.database, tmp_path / "snapshot", 1)
        record.crops.remove(1, [crop.record.crop_id for crop in crops[:REMOVED]])
    return tmp_path


def kill_amid(base, work, seconds):
    """Kill a process amid its work; answer the lines that it had printed."""
    arguments = [sys.executable, "-c", CHILD.format(WORK[work]), str(base)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(seconds)
        process.kill()
        return process.stdout.read().split()


@pytest.mark.slow
@pytest.mark.parametrize("work", WORK)
def test_a_process_that_is_killed_leaves_archives_and_galleries_whole(base, work):
    chance = random.Random(work)
    for _ in range(TURNS):
        forgotten = kill_amid(base, work, chance.random() * 0.8)
        with contextlib.closing(Record(base / "data")) as record:
            crops = record.crops.page(1, CropFilter(), limit=CROPS).crops
        assert len(crops) == CROPS - REMOVED
        assert verify(base / "data").damage == []
        for folder in base.glob("copy-*"):
            if folder.suffix != ".part":
                check_archive(folder)
            shutil.rmtree(folder)
        remove_from_archive(base / "snapshot", 1, [])
        check_archive(base / "snapshot")
        assert set(archived_ids(base / "snapshot")).isdisjoint(forgotten)
