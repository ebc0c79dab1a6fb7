"""Processes of this project that begin with everything imported.

Importing torch and FAISS takes seconds, starting a service or a command does not. A server process
imports them once, and each process is forked from it: from then on it is the program as ever.
"""

import contextlib
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from multiprocessing import connection, reduction
from pathlib import Path

from tests.time_limit import time_limit

GMN = "import gmn; gmn.main()"


class _Descriptor:
    """An open file that another process gets as its own."""

    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        return _received, (reduction.DupFd(self.number),)


def _received(duplicate):
    return duplicate.detach()


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
        context = _importing_server()
        with Path(os.devnull).open() as nothing:
            files = (
                nothing.fileno() if stdin is None else stdin,
                1 if stdout is None else stdout,
                2 if stderr is None else stderr,
            )
            self._process = context.Process(
                target=_run,
                args=(
                    program,
                    arguments,
                    tuple(map(_Descriptor, files)),
                    dict(os.environ if env is None else env),
                    cwd or Path.cwd(),
                ),
                daemon=True,
            )
            self._process.start()
        self.pid = self._process.pid or 0
        self._lock = threading.Lock()

    @property
    def returncode(self):
        """The exit status, negative for a signal; None as long as it runs."""
        # Two threads that read it at once would get one status between them.
        with self._lock:
            return self._process.exitcode

    def poll(self):
        return self.returncode

    def wait(self, timeout=None):
        """Return the exit status once it has ended; raise `subprocess.TimeoutExpired`."""
        connection.wait([self._process.sentinel], timeout)
        if (status := self.returncode) is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0.0)
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


@functools.cache
def _importing_server():
    """Start the server process, and return its context once it has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    with time_limit.set_aside():
        first = context.Process(target=_do_nothing)
        first.start()
        first.join()
        first.close()
    return context


def _do_nothing():
    """Only show that the server process forks."""


def _run(program, arguments, files, environment, folder):
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    # The server process's streams keep the properties of its own files, such as no terminal.
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["gmn", *arguments]
    exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
