"""Pictures in a bucket: S3 by s3fs, against the server of moto.

moto lies in an environment of its own: python -m venv .moto && .moto/bin/pip install 'moto[server]'
"""

import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.outside import free_port, run_command
from tests.waiting import eventually

MOTO = Path(os.environ.get("REID_TEST_MOTO", Path(__file__).parents[3] / ".moto/bin/moto_server"))
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
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'gmn-reid[s3]'")
    if not MOTO.is_file():
        pytest.skip(f"{MOTO} is not there: REID_TEST_MOTO names the moto_server of an environment")
    port = free_port()
    with subprocess.Popen(
        [MOTO, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: httpx2.get(url))
        keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "testing")
        yield os.environ | keys | {"AWS_ENDPOINT_URL_S3": url, "AWS_DEFAULT_REGION": "us-east-1"}
        server.kill()


@pytest.mark.slow
def test_pictures_lie_in_a_bucket_and_go_from_it(bucket):
    ran = run_command(sys.executable, "-c", SCRIPT, env=bucket, cwd=Path(__file__).parents[3])
    assert ran.returncode == 0, ran.stderr
