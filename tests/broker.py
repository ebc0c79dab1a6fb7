"""A broker of MQTT in a process of its own."""

import contextlib
import socket
import subprocess

from tests.outside import installed
from tests.waiting import eventually


@contextlib.contextmanager
def running_broker(port, *options):
    """Run mosquitto with options of its command line, and yield its port."""
    process = subprocess.Popen([installed("mosquitto"), *options], stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: connects_to(port))
        yield port
    finally:
        process.kill()
        process.wait()


def connects_to(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
