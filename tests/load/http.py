"""HTTP/1.1 over one connection, and no more of it than a load driver needs.

A library's client takes longer for a request than the service does for its share of a batch: on a
machine that drives and serves it would be the library that is measured.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass

BOUNDARY = "gmn-load"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)", re.IGNORECASE)
CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """Status, body, and how many seconds the service asks to wait, if it does."""

    status: int
    body: bytes
    retry_after: int | None

    def json(self):
        return json.loads(self.body)


def request(method, path, form=b""):
    """Return a whole request; a body is a multipart form of `image_form`."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(form)}"]
    if form:
        lines.append(f"Content-Type: multipart/form-data; boundary={BOUNDARY}")
    return "\r\n".join([*lines, "", ""]).encode() + form


def image_form(image, **fields):
    """Return a form of one image and some fields."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    disposition = 'Content-Disposition: form-data; name="images"; filename="crop"'
    parts += [f"--{BOUNDARY}\r\n{disposition}\r\n\r\n".encode(), image, b"\r\n"]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


class Connection:
    """Asks one thing after another; opened when first needed, and again when it was closed."""

    def __init__(self, port):
        self._port = port
        self._streams = None

    async def ask(self, sent):
        """Send a request and read its answer.

        Raises:
            OSError, EOFError: there was none.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        try:
            writer.write(sent)
            head = await reader.readuntil(b"\r\n\r\n")
            length = LENGTH.search(head)
            body = await reader.readexactly(int(length[1]) if length else 0)
        except BaseException:
            self.close()
            raise
        if CLOSES.search(head):
            self.close()
        wait = RETRY_AFTER.search(head)
        return Answer(int(head[9:12]), body, int(wait[1]) if wait else None)

    def close(self):
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
