"""Bombs by memory or time, each unpacked under the default limits; a line of JSON for each.

By itself, so that the peak of the memory is this alone: python -m tests.hostile.costly_archives
"""

import tempfile
import zipfile
from pathlib import Path

from model.crops.names import Ignored
from model.crops.unpack import UnpackLimits, unpack_crops
from model.problems import InputProblem
from tests.hostile import archives
from tests.hostile.measuring import print_cost

LIMITS = UnpackLimits(max_bytes=1_000_000_000, max_image_bytes=10_000_000, max_entries=30_000)


def costly_archives():
    listed = b"PK\1\2" + bytes(140_000_000)
    yield "a list of 140 MB", listed + archives.directory_end(9, len(listed), 0)
    members = archives.zip_of({f"{number}.txt": b"" for number in range(60_000)})
    yield "60,000 files of no use", members
    bomb = archives.zip_of({"a.jpg": bytes(200_000_000)}, zipfile.ZIP_BZIP2)
    yield "bzip2 of 200 MB in a zip", bomb


def main():
    for name, data in costly_archives():
        with tempfile.TemporaryDirectory() as place:
            archive = Path(place) / "archive"
            into = Path(place) / "into"
            archive.write_bytes(data)
            into.mkdir()
            size = len(data)
            del data
            print_cost(name, size, lambda: _outcome(archive, into))  # noqa: B023


def _outcome(archive, into):
    try:
        return f"{len(unpack_crops(archive, into, LIMITS, Ignored()))} left out"
    except InputProblem as problem:
        return str(problem)


if __name__ == "__main__":
    main()
