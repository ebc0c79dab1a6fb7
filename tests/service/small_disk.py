"""Real file systems of some megabytes: one in memory to be filled, and one that fails."""

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


class FailingDisk:
    """A mounted file system that becomes read-only.

    Attributes:
        path: where it is.
    """

    def __init__(self, path):
        self.path = path

    def fail(self):
        """Make it read-only, as the kernel does after an error of the disk."""
        options = ["-o", "remount,abort", str(self.path)]
        subprocess.run(["mount", *options], timeout=20, check=False, capture_output=True)
        with pytest.raises(OSError, match="Read-only"):
            (self.path / "written").touch()


@contextlib.contextmanager
def failing_disk(path, megabytes=64):
    """Mount an ext4, and unmount it at the end; skip the test if that is not permitted."""
    path.mkdir()
    image = path.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(megabytes * 1024 * 1024)
    for command in (
        ["mkfs.ext4", "-q", "-F", str(image)],
        ["mount", "-o", "loop", str(image), str(path)],
    ):
        try:
            subprocess.run(command, timeout=60, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"an ext4 cannot be mounted here: {error}")
    try:
        yield FailingDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], timeout=20, check=True)
