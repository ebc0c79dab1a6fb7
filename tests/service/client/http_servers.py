"""HTTP servers that stand for a service or a proxy, each in a thread of its own."""

import contextlib
import threading
from http.server import ThreadingHTTPServer


class LocalServer(ThreadingHTTPServer):
    """A server on this machine, on a free port unless one is given."""

    def __init__(self, handler, port=0):
        super().__init__(("127.0.0.1", port), handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def running(server):
    """Yield a server that answers until the block ends."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
