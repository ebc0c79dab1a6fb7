"""A TCP proxy that delays, stalls, resets and cuts what goes through it."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time

CHUNK = 65536
RESET = struct.pack("ii", 1, 0)


class LaggingProxy:
    """Passes on what is sent to a port, as badly as it is told to.

    Attributes:
        port: where it listens.
        delay: seconds that each piece is held at most; how long is random.
    """

    def __init__(self, target: int, seed: int = 7) -> None:
        self.delay = 0.0
        self._target = target
        self._random = random.Random(seed)
        self._open = threading.Event()
        self._open.set()
        self._refusing = False
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._sockets: list[socket.socket] = []
        self._ended: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def stall(self) -> None:
        """Nothing goes through any more, and nobody is told."""
        self._open.clear()

    def flow(self) -> None:
        """Lets everything through again, also what was held."""
        self._refusing = False
        self._open.set()

    def cut(self, refusing: bool = False) -> None:
        """Ends every connection; where `refusing`, also those that come, until `flow`."""
        self._refusing = refusing
        self._end(reset=False)

    def reset(self) -> None:
        """Ends every connection with a reset, amid whatever it carries."""
        self._end(reset=True)

    def close(self) -> None:
        self._open.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._end(reset=False)
        for one in self._ended:
            one.close()

    def _end(self, reset: bool) -> None:
        ending = self._sockets
        self._sockets = []
        self._ended += ending
        for one in ending:
            with contextlib.suppress(OSError):
                if reset:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    one.close()
                else:
                    one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            if self._refusing:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            self._sockets += [client, server]
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                if self.delay:
                    time.sleep(self._random.uniform(0, self.delay))
                self._open.wait()
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
