"""The process from which those of tests are forked, once it has imported everything.

Its argument is the number of a socket that listens. A client connects for each process, and sends
the three open files that it gets, its program, arguments, environment and folder. The answer is the
process id, and in the end the exit status. A process is killed if its client closes the connection
before.
"""

import functools
import importlib
import multiprocessing
import os
import select
import selectors
import signal
import socket
import sys
from contextlib import suppress
from multiprocessing.connection import Connection


class ForkServer:
    """Forks a process for each client, until its own standard input is closed."""

    def __init__(self, listening):
        self._listening = listening
        self._processes = {}
        self._is_open = True
        self._selector = selectors.DefaultSelector()
        self._selector.register(sys.stdin, selectors.EVENT_READ, self._close)
        self._selector.register(listening, selectors.EVENT_READ, self._fork)

    def serve(self):
        while self._is_open:
            for key, _ in self._selector.select():
                key.data(key.fileobj)

    def _close(self, _):
        self._is_open = False
        for process in self._processes.values():
            process.kill()

    def _fork(self, listening):
        accepted, _ = listening.accept()
        _, files, _, _ = socket.recv_fds(accepted, 1, 3)
        client = Connection(accepted.detach())
        # A worker may be killed at any moment.
        with suppress(EOFError, OSError):
            self._start(client, files, client.recv())
        for file in files:
            os.close(file)

    def _start(self, client, files, asked):
        context = multiprocessing.get_context("fork")
        process = context.Process(target=self._run, args=(files, *asked))
        process.start()
        self._processes[client] = process
        report = functools.partial(self._report, client)
        self._selector.register(os.pidfd_open(process.pid), selectors.EVENT_READ, report)
        self._selector.register(client, selectors.EVENT_READ, self._kill)
        client.send(process.pid)

    def _kill(self, client):
        # The process may have ended at the same moment.
        if client in self._processes:
            self._selector.unregister(client)
            self._processes[client].kill()

    def _report(self, client, ended):
        self._selector.unregister(ended)
        os.close(ended)
        process = self._processes.pop(client)
        process.join()
        if client in self._selector.get_map():
            self._selector.unregister(client)
        with suppress(OSError):
            client.send(process.exitcode)
        client.close()

    def _run(self, files, program, arguments, environment, folder):
        for opened in (self._selector, self._listening, *self._processes):
            opened.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        # The streams of the server keep the properties of their own files, such as no terminal.
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["gmn", *arguments]
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})


def main():
    # A keyboard interrupt ends the tests, which close the standard input then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listening = socket.socket(fileno=int(sys.argv[1]))
    # Imports take seconds, and a run without a client needs none.
    ready, _, _ = select.select([listening, sys.stdin], [], [])
    if sys.stdin not in ready:
        importlib.import_module("tests.preloaded")
        ForkServer(listening).serve()


if __name__ == "__main__":
    main()
