"""The C library's pools of memory."""

import os
import sys

import pytest

from tests.outside import run_command

COUNTED = """
import ctypes, re, sys, tempfile, threading
from service.commands.processes import bound_arenas
bound_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
barrier = threading.Barrier(12)
def take():
    barrier.wait(20)
    kept = [libc.malloc(900) for _ in range(1000)]
    barrier.wait(20)
threads = [threading.Thread(target=take) for _ in range(12)]
for thread in threads: thread.start()
for thread in threads: thread.join(20)
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as file:
    stream = libc.fopen(file.name.encode(), b"w")
    libc.malloc_info(0, ctypes.c_void_p(stream))
    libc.fclose(ctypes.c_void_p(stream))
    print(len(re.findall(rb"<heap nr=", open(file.name, "rb").read())))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's pools alone are bounded")
@pytest.mark.parametrize(
    ("environment", "fewest", "most"), [({}, 1, 2), ({"MALLOC_ARENA_MAX": "5"}, 3, 5)]
)
def test_threads_share_two_unless_the_environment_says_otherwise(environment, fewest, most):
    ran = run_command(sys.executable, "-c", COUNTED, env={**os.environ, **environment}, check=True)
    assert fewest <= int(ran.stdout) <= most
