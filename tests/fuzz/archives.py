"""Unpacking an archive, of which nothing may land elsewhere: `python -m tests.fuzz.archives`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["zipfile", "tarfile", "gzip", "model.crops"]):
    import gzip
    import tarfile
    import zipfile

    from model.crops.unpack import UnpackLimits, unpack_crops

from model.problems import InputProblem
from tests.fuzz.harness import fuzz
from tests.hostile import archives

LIMITS = UnpackLimits(max_bytes=1_000_000, max_entry_bytes=100_000, max_entries=500)
PLACE = Path(tempfile.mkdtemp(prefix="fuzz-archives-"))
SMALL = {"a.jpg": b"a" * 40, "b/c.png": b"b" * 40, "manifest.csv": b"path,identity,camera\n"}


def unpack(data: bytes) -> None:
    into = PLACE / "deep" / "into"
    into.mkdir(parents=True)
    archive = PLACE / "archive"
    archive.write_bytes(data)
    try:
        unpack_crops(archive, into, LIMITS)
    finally:
        outside = [
            path for path in PLACE.rglob("*") if not path.is_dir() and into not in path.parents
        ]
        held = sum(path.lstat().st_size for path in into.rglob("*") if path.is_file())
        shutil.rmtree(PLACE / "deep")
        assert outside == [archive]
        assert held <= LIMITS.max_bytes


def seeds() -> Iterator[bytes]:
    yield archives.zip_of(SMALL)
    yield archives.zip_of(SMALL, zipfile.ZIP_STORED)
    for pack in archives.PACKED_BY.values():
        yield pack(archives.tar_of(SMALL))
    yield archives.tar_of(SMALL, *archives.specials())
    for file_format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        member = tarfile.TarInfo("ü" * 120 + ".jpg")
        yield member.tobuf(file_format) + bytes(1024)
    yield gzip.compress(archives.extended_header(b"20 path=../out.jpg\n"))
    yield archives.overlapping(20, 50)
    yield archives.directory_of(100)
    yield archives.encrypted()[-5_000:]


if __name__ == "__main__":
    try:
        fuzz(unpack, seeds(), InputProblem)
    finally:
        shutil.rmtree(PLACE, ignore_errors=True)
