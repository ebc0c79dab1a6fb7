"""Unpacking an archive, of which nothing may land elsewhere: `python -m tests.fuzz.archives`."""

import shutil
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["zipfile", "model.crops"]):
    import zipfile

    from model.crops.names import Ignored
    from model.crops.unpack import UnpackLimits, unpack_crops

from model.problems import InputProblem
from tests.fuzz.harness import fuzz
from tests.hostile import archives

LIMITS = UnpackLimits(max_bytes=1_000_000, max_image_bytes=100_000, max_entries=500)
PLACE = Path(tempfile.mkdtemp(prefix="fuzz-archives-"))
SMALL = {"a.jpg": b"a" * 40, "b/c.png": b"b" * 40, "manifest.csv": b"path,identity,camera\n"}


def unpack(data):
    into = PLACE / "deep" / "into"
    into.mkdir(parents=True)
    archive = PLACE / "archive"
    archive.write_bytes(data)
    try:
        unpack_crops(archive, into, LIMITS, Ignored())
    finally:
        outside = [
            path for path in PLACE.rglob("*") if not path.is_dir() and into not in path.parents
        ]
        held = sum(path.lstat().st_size for path in into.rglob("*") if path.is_file())
        shutil.rmtree(PLACE / "deep")
        assert outside == [archive]
        assert held <= LIMITS.max_bytes


def seeds():
    yield archives.zip_of(SMALL)
    yield archives.zip_of(SMALL, zipfile.ZIP_STORED)
    yield archives.links()
    yield archives.overlapping(20, 50)
    yield archives.directory_of(100)
    yield archives.encrypted()[-5_000:]


if __name__ == "__main__":
    try:
        fuzz(unpack, seeds(), InputProblem)
    finally:
        shutil.rmtree(PLACE, ignore_errors=True)
