"""Pictures and vectors in a bucket: S3 by s3fs, against the server of moto.

moto lies in an environment of its own: python -m venv .moto && .moto/bin/pip install 'moto[server]'
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.service.redis_server import free_port

MOTO = Path(os.environ.get("REID_TEST_MOTO", Path(__file__).parents[3] / ".moto/bin/moto_server"))
# The address of the server is read when fsspec is imported.
SCRIPT = """
import pathlib, sys, pytest
from service.errors import StorageFailed
from tests.service.gallery.test_outside_vectors import Place, both, new_crop
from tests.service.redis_server import redis_server
class Bucket:
    parent = pathlib.Path(sys.argv[1])
    def as_uri(self): return "s3://people/crops"
with redis_server() as server:
    place = Place(server, Bucket())
    ids = place.enroll(*(new_crop(n, identity="ab"[n % 2]) for n in range(40)))
    folder, number = place.pictures, place.number
    def files():
        return {one.rpartition("/")[2] for one in folder._files.find(folder._root, refresh=True)}
    assert files() == both(ids) and place.inside() == 0
    assert sorted(float(one[0]) for one in place.vectors().values()) == [n + .25 for n in range(40)]
    with place.record.crops.archive(number) as archive:
        kept = [folder.get(number, one.record.crop_id) for one in archive.crops]
    assert kept == [b"image %d" % n for n in range(40)]
    place.record.identities.forget(number, "a")
    place.sweep()
    assert files() == both(ids[1::2])
    place.record.galleries.delete(number)
    place.sweep()
    assert files() == set()
    folder._root = "nobodys/crops"
    with pytest.raises(StorageFailed, match="s3://people/crops"):
        folder.put(number, {"a": b"1", "b": b"2"})
"""


@pytest.fixture(scope="module")
def bucket():
    """The environment of a process that reaches a bucket of its own."""
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
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with contextlib.suppress(OSError), urllib.request.urlopen(url):
                break
            time.sleep(0.1)
        keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "testing")
        yield os.environ | keys | {"AWS_ENDPOINT_URL_S3": url, "AWS_DEFAULT_REGION": "us-east-1"}
        server.kill()


@pytest.mark.slow
def test_pictures_and_vectors_lie_in_a_bucket_and_go_with_their_crops(bucket, tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=bucket,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
