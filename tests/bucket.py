"""A bucket of S3, by the server of moto.

moto lies in an environment of its own: python -m venv .moto && .moto/bin/pip install 'moto[server]'
"""

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.outside import free_port
from tests.waiting import eventually

ROOT = Path(__file__).parents[1]
MOTO = Path(os.environ.get("REID_TEST_MOTO", ROOT / ".moto/bin/moto_server"))


@contextmanager
def bucket_server():
    """Yield variables by which programs find the server; skips where it is not there."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'gmn-reid[s3]'")
    if not MOTO.is_file():
        pytest.skip(f"{MOTO} is not there: REID_TEST_MOTO names the moto_server of an environment")
    port = free_port()
    with subprocess.Popen(
        [MOTO, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            eventually(lambda: httpx2.get(url))
            keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "testing")
            place = {"AWS_ENDPOINT_URL_S3": url, "AWS_DEFAULT_REGION": "us-east-1"}
            yield os.environ | keys | place
        finally:
            server.kill()
