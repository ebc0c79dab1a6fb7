"""Processes of this project that begin with everything imported.

Importing torch and FAISS takes seconds, starting a service or a command does not. A server process
imports them once for all workers of a run, and each process is forked from it: from then on it is
the program as ever.
"""

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from multiprocessing import connection
from pathlib import Path

from tests.time_limit import time_limit

GMN = "import gmn; gmn.main()"
ROOT = Path(__file__).parents[1]
WAITING_CLIENTS = 100


class SharedServer:
    """The process of `tests/fork_server.py`, which all workers of a run share."""

    def __init__(self):
        self._address = None
        self._has_imported = False

    def join(self, address):
        """Share the server of the process that started this one."""
        self._address = address

    @property
    def address(self):
        """Path of the socket of the server, which is started if this run has none yet."""
        if self._address is None:
            self._address = self._start()
        return self._address

    def _start(self):
        folder = tempfile.TemporaryDirectory(prefix="gmn-fork-")
        atexit.register(folder.cleanup)
        address = f"{folder.name}/socket"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(address)
            listening.listen(WAITING_CLIENTS)
            server = subprocess.Popen(
                [sys.executable, "-m", "tests.fork_server", str(listening.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=[listening.fileno()],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                cwd=ROOT,
            )
        # It ends once its standard input is closed.
        atexit.register(server.communicate)
        return address

    def fork(self, files, *asked):
        """Return the connection of a new process, and its id."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.address)
            # Files are sent with at least one byte.
            socket.send_fds(client, [b" "], files)
            process = connection.Connection(client.detach())
        process.send(asked)
        if self._has_imported:
            return process, process.recv()
        with time_limit.set_aside():
            self._has_imported = True
            return process, process.recv()


shared_server = SharedServer()


class Forked:
    """A process that runs a program, with the methods of `subprocess.Popen`."""

    def __init__(
        self, program, *arguments, stdin=None, stdout=None, stderr=None, env=None, cwd=None
    ):
        """Start the program.

        Args:
            program: Python source.
            arguments: those of the command line, as `sys.argv` has them after the name.
            stdin, stdout, stderr: open files; nothing to read, and this process's own without.
            env: the environment, by default this process's.
            cwd: the working directory, by default this process's.
        """
        environment = dict(os.environ if env is None else env)
        with Path(os.devnull).open() as nothing:
            files = (
                nothing.fileno() if stdin is None else stdin,
                1 if stdout is None else stdout,
                2 if stderr is None else stderr,
            )
            self._connection, self.pid = shared_server.fork(
                files, program, arguments, environment, cwd or Path.cwd()
            )
        self._lock = threading.Lock()
        self._status = None

    @property
    def returncode(self):
        """The exit status, negative for a signal; None as long as it runs."""
        # Two threads that read it at once would get one status between them.
        with self._lock:
            if self._status is None and self._connection.poll():
                self._status = self._connection.recv()
            return self._status

    def poll(self):
        return self.returncode

    def wait(self, timeout=None):
        """Return the exit status once it has ended; raise `subprocess.TimeoutExpired`."""
        # The connection stays readable after the status.
        connection.wait([self._connection], timeout)
        if (status := self.returncode) is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return status

    def send_signal(self, number):
        """Send a signal if the program still runs."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def run_gmn(*arguments, **options):
    """Run `gmn` with arguments to its end; `options` as of `run_forked`."""
    return run_forked(GMN, *arguments, **options)


def run_forked(program, *arguments, timeout=240.0, **options):
    """Run a program to its end, and return its status and output; `options` as of `Forked`."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = Forked(
            program, *arguments, stdout=out.fileno(), stderr=errors.fileno(), **options
        )
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        said = [os.pread(file.fileno(), 1 << 24, 0).decode() for file in (out, errors)]
    return subprocess.CompletedProcess(arguments, status, *said)
