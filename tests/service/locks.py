"""The state of a lock, asked as another process would, and processes that hold one."""

import contextlib
import signal
import subprocess
import sys

from service.ops.critical_sections import file_lock
from service.ops.locks import LockHeld

HOLD = """
import sys
from pathlib import Path
from service.ops.locks import ProcessLock
with ProcessLock(Path(sys.argv[1]), "tests").hold():
    print("held", flush=True)
    sys.stdin.read()
"""


async def is_held(path):
    try:
        async with file_lock(path, blocking=False):
            return False
    except LockHeld:
        return True


class Holder:
    """A process that holds a lock.

    Attributes:
        pid: its number.
    """

    def __init__(self, process):
        self._process = process
        self.pid = process.pid

    def stand_still(self):
        """SIGSTOP, as `docker pause` and a freezer do to every process of a container."""
        self._process.send_signal(signal.SIGSTOP)

    def release(self):
        """Let the process go on, give back the lock, and end."""
        self._process.send_signal(signal.SIGCONT)
        self._process.communicate()


@contextlib.contextmanager
def holder_of(path):
    """Yield a process that holds the lock of a file until it is released, or to the end."""
    path.parent.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"held\n"
        yield Holder(process)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@contextlib.contextmanager
def standing_still(path):
    """Yield a process that stands still while it holds the lock of a file."""
    with holder_of(path) as holder:
        holder.stand_still()
        yield holder
