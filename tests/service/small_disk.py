"""A file system that is nearly full: a real one of a few megabytes, in memory."""

import contextlib
import os
import subprocess

import pytest


class SmallDisk:
    """A mounted file system of some megabytes.

    Attributes:
        path: where it is.
    """

    def __init__(self, path):
        self.path = path

    def fill(self, bytes_left=0):
        filling = self.path / "filling"
        with contextlib.suppress(OSError), filling.open("ab", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        os.truncate(filling, filling.stat().st_size - bytes_left)

    def free(self):
        """Give back the space that `fill` took."""
        (self.path / "filling").unlink()


@contextlib.contextmanager
def small_disk(path, megabytes):
    """Mount a disk, and unmount it at the end; skip the test if mounting is not permitted."""
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        # Files that a test left open are closed with its process, which may come later.
        subprocess.run(["umount", "--lazy", str(path)], timeout=20, check=True)
