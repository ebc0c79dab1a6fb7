"""Pictures in a bucket: S3 by s3fs, against the server of moto."""

import sys
from pathlib import Path

import pytest

from tests.bucket import bucket_server
from tests.outside import run_command

# The address of the server is read when fsspec is imported.
SCRIPT = """
import pytest
from service.errors import StorageFailed
from service.record.files import PictureFolder
folder = PictureFolder("s3://people/crops")
def files():
    paths = folder._files.find(folder._root, refresh=True)
    return {path.rpartition("/")[2] for path in paths}
pictures = {f"crop-{number}": b"image %d" % number for number in range(40)}
folder.put(1, pictures)
assert files() == set(pictures)
assert {name: folder.get(1, name) for name in pictures} == pictures
assert folder.get(1, "of nobody") is None
left = [name for number, name in enumerate(pictures) if number % 2]
assert folder.remove(1, [name for name in pictures if name not in left]) == {}
assert files() == set(left)
folder._root = "nobodys/crops"
with pytest.raises(StorageFailed, match="s3://people/crops"):
    folder.put(1, {"a": b"1", "b": b"2"})
folder.close()
"""


@pytest.fixture(scope="module")
def bucket():
    with bucket_server() as variables:
        yield variables


@pytest.mark.slow
def test_pictures_lie_in_a_bucket_and_go_from_it(bucket):
    ran = run_command(sys.executable, "-c", SCRIPT, env=bucket, cwd=Path(__file__).parents[3])
    assert ran.returncode == 0, ran.stderr
