"""A network namespace of its own, which one port of this machine leads into.

Milvus 2.3.5 listens on all interfaces; here nothing but its one port is reached from outside. The
socket is made before the process enters its new namespace and stays in the old one.
"""

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import sys
import threading
from pathlib import Path

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
CHUNK = 1 << 16


def _pass_on(source, target):
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK):
            target.sendall(data)
    for side in (source, target):
        with contextlib.suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)


def main(port):
    """Print the outer port of the inner `port`, and relay until the process is killed."""
    listening = socket.create_server(("127.0.0.1", 0))
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        sys.exit(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    # Milvus takes other ports than before where connections of a killed one linger.
    Path("/proc/sys/net/ipv4/tcp_max_tw_buckets").write_text("0")
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    while True:
        outside, _ = listening.accept()
        try:
            inside = socket.create_connection(("127.0.0.1", port))
        except OSError:
            outside.close()
            continue
        for side in (outside, inside):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for pair in ((outside, inside), (inside, outside)):
            threading.Thread(target=_pass_on, args=pair, daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]))
