"""Recordings of the disk operations of a process, by a small library preloaded into it."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("recorder.c")


def build_recorder(folder):
    """Compile the library; skip the test if that is not possible."""
    compiler = shutil.which("gcc")
    if compiler is None or os.uname().sysname != "Linux":
        pytest.skip("power cuts are recorded on Linux, by a library that gcc builds")
    library = folder / "recorder.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl", "-pthread"]
    subprocess.run(command, check=True, timeout=60)
    return library


@contextlib.contextmanager
def recorded(library, root, log):
    """Processes that are started inside the block are recorded as long as they live.

    Args:
        library: what `build_recorder` built.
        root: an empty directory; what happens below it is recorded.
        log: where.
    """
    names = {"LD_PRELOAD": str(library), "POWER_CUT_ROOT": str(root), "POWER_CUT_LOG": str(log)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            patch.setenv(name, value)
        yield
