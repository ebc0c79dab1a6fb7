"""The harness can fail: a store that does not wait for the disk, or forgets a folder, is found out.

Each is broken on purpose in a process of its own.
"""

import contextlib
import random
import subprocess
import sys
import zipfile

import pytest

from service.errors import DamagedRecord
from service.opening import open_folder
from service.record.deletions import LOG_NAME, read_deletions
from service.record.values import ListFilter
from service.store.export_rows import read_rows
from tests.power_cut.disk import Disk, read_recording
from tests.power_cut.recording import build_recorder, recorded
from tests.service.gallery.new_crops import EMBEDDER

pytestmark = pytest.mark.promise("1")

ENROLL = f"""
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from service.record.values import GallerySettings
from service.ops import data_directory
from service.record import database, sqlite, vectors
from service.store import export_rows as exports
from service.opening import open_folder
from tests.service.gallery.new_crops import new_crop
{{broken}}
folder = Path(sys.argv[1])
record = open_folder(folder)
gallery = record.galleries.create("lobby", "{EMBEDDER}", GallerySettings()).gallery_id
{{left}}
for number in range(5):
    record.crops.enroll(gallery, "{EMBEDDER}", [new_crop(number)])
path = folder / "exports" / "1" / "one"
with data_directory.unfinished_folder(path) as part:
    exports.write_export(
        record, part, gallery, datetime.now(UTC), lambda crop: b"image", lambda: None
    )
    data_directory.put_in_place(part, path)
record.crops.enroll(gallery, "{EMBEDDER}", [new_crop(5)])
os._exit(0)
"""
DELETE_GALLERY = f"""
import os
import sys
from pathlib import Path
from service.record.values import GallerySettings
from service.opening import open_folder
from tests.service.gallery.new_crops import new_crop
record = open_folder(Path(sys.argv[1]))
gallery = record.galleries.create("lobby", "{EMBEDDER}", GallerySettings()).gallery_id
record.crops.enroll(gallery, "{EMBEDDER}", [new_crop(1)])
record.galleries.delete(gallery)
os._exit(0)
"""
ALLOCATE = """
import os
import sys
file = os.open(f"{sys.argv[1]}/space", os.O_RDWR | os.O_CREAT)
os.posix_fallocate(file, 0, 5)
os.pwrite(file, b"abc", 1)
os.fdatasync(file)
os.fsync(os.open(sys.argv[1], os.O_RDONLY))
os.posix_fallocate(file, 2, 8)
os.ftruncate(file, 7)
"""
# Another process was killed once it had made the file.
KILLED_BEFORE = """
(folder / f"vectors-{gallery}-0.f32").touch()
"""
PRAGMAS = 'sqlite.PRAGMAS = tuple(p.replace("FULL", "{}") for p in sqlite.PRAGMAS)'
NO_VECTORS = "vectors.os = type('Os', (), {**vars(os), 'fdatasync': lambda file: None})"
NO_LINES = """
from service.record import deletions
deletions.os = type('Os', (), {**vars(os), 'fdatasync': lambda file: None})
"""
NO_NEW_FOLDER = "data_directory.make_folder = lambda path: path.mkdir(parents=True, exist_ok=True)"
# A new folder of exports would sync the names beside it.
NO_VECTOR_NAMES = f"vectors.sync = lambda path: None\n{NO_NEW_FOLDER}"
NO_EXPORT = "data_directory.sync_below = lambda path: None"
NO_FOLDER = (
    "really = data_directory.sync\n"
    'data_directory.sync = lambda path: None if path.parent.name == "exports" else really(path)'
)


def _crops(disk):
    with contextlib.closing(open_folder(disk)) as record:
        galleries = record.galleries.all()
        if not galleries:
            return 0
        gallery_id = galleries[0].gallery_id
        try:
            found = [crop.record.crop_id for crop in record.crops.vectors(gallery_id)]
        except DamagedRecord:
            return 0
        # Crops that were found damaged are not listed either.
        listed = record.crops.page(gallery_id, ListFilter()).crops
        assert sorted(found) == sorted(crop.crop_id for crop in listed)
        return len(found)


def _exported_crops(disk):
    try:
        with zipfile.ZipFile(disk / "exports" / "1" / "one" / "export.zip") as packed:
            assert packed.testzip() is None
            return sum(1 for _ in read_rows(packed))
    except (OSError, zipfile.BadZipFile):
        return 0


def _recorded_disk(tmp_path, program):
    """Record the operations that a program asks of the disk that it gets as its argument."""
    root = tmp_path / "disk"
    log = tmp_path / "log"
    root.mkdir()
    with recorded(build_recorder(tmp_path), root, log):
        subprocess.run([sys.executable, "-c", program, root], check=True, timeout=60)
    disk = Disk(root)
    for asked in read_recording(log):
        disk.ask(asked)
    return disk


def _left(tmp_path, broken, count, left=""):
    """How much is left of six crops, five of them in an export, after a power cut.

    Args:
        broken: the change of the program.
        left: what another process has left.
    """
    disk = _recorded_disk(tmp_path, ENROLL.format(broken=broken, left=left))
    disk.cut(tmp_path / "left", "everything", random.Random(1))
    return count(tmp_path / "left")


@pytest.mark.parametrize(("count", "all_of_them"), [(_crops, 6), (_exported_crops, 5)])
def test_nothing_is_lost_as_it_is(tmp_path, count, all_of_them):
    assert _left(tmp_path, "", count) == all_of_them


@pytest.mark.parametrize("setting", ["OFF", "NORMAL"])
def test_commits_that_are_not_synced_are_found_out(tmp_path, setting):
    assert _left(tmp_path, PRAGMAS.format(setting), _crops) < 6


@pytest.mark.parametrize("broken", [NO_VECTORS, NO_VECTOR_NAMES])
def test_vectors_that_are_not_synced_before_their_commit_are_found_out(tmp_path, broken):
    assert _left(tmp_path, broken, _crops) < 6


def test_vectors_are_there_in_files_that_a_killed_process_has_made(tmp_path):
    assert _left(tmp_path, NO_NEW_FOLDER, _crops, KILLED_BEFORE) == 6


@pytest.mark.promise("cut-off-exports")
def test_a_deleted_gallery_is_not_missed_whatever_of_the_marks_is_lost(tmp_path):
    disk = _recorded_disk(tmp_path, DELETE_GALLERY)
    for seed in range(20):
        left = tmp_path / str(seed)
        disk.cut(left, "some", random.Random(seed))
        with contextlib.closing(open_folder(left)) as record:
            assert record.galleries.all() == []


@pytest.mark.parametrize(("broken", "logged"), [("", ["gallery"]), (NO_LINES, [])])
def test_a_line_of_the_log_of_deletions_that_is_not_synced_is_found_out(tmp_path, broken, logged):
    program = DELETE_GALLERY.replace("record = ", f"{broken}\nrecord = ", 1)
    disk = _recorded_disk(tmp_path, program)
    disk.cut(tmp_path / "left", "everything", random.Random(1))
    _, *lines = read_deletions(tmp_path / "left" / LOG_NAME)
    assert [line.kind for line in lines] == logged


@pytest.mark.parametrize(
    ("loss", "content"), [("everything", b"\0abc\0"), ("nothing", b"\0abc\0\0\0")]
)
def test_allocated_and_cut_off_space_is_recorded(tmp_path, loss, content):
    disk = _recorded_disk(tmp_path, ALLOCATE)
    disk.cut(tmp_path / "left", loss, random.Random(1))
    assert (tmp_path / "left" / "space").read_bytes() == content


@pytest.mark.promise("cut-off-exports")
@pytest.mark.parametrize("broken", [NO_EXPORT, NO_FOLDER, NO_NEW_FOLDER])
def test_an_export_whose_files_or_folders_are_not_synced_is_found_out(tmp_path, broken):
    assert _left(tmp_path, broken, _exported_crops) < 5
