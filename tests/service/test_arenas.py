"""The C library's pools of memory, and what it returns of them."""

import os
import sys

import pytest

from service.ops.memory import return_free_memory
from tests.outside import run_command

COUNTED = """
import ctypes, re, sys, tempfile, threading
from service.ops.memory import bound_arenas
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


RETURNED = """
import ctypes
from pathlib import Path
from service.ops.memory import return_free_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]

def resident_bytes():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])

blocks = [libc.malloc(60_000) for _ in range(2000)]
for block in blocks:
    ctypes.memset(block, 1, 60_000)
# The last one is kept, and lies above all others.
for block in blocks[:-1]:
    libc.free(block)
before = resident_bytes()
return_free_memory()
print(before - resident_bytes())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone returns memory")
def test_what_was_freed_below_a_block_in_use_is_returned_to_the_system():
    ran = run_command(sys.executable, "-c", RETURNED, check=True)
    assert int(ran.stdout) > 100_000_000


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda _name: object())
    return_free_memory()
