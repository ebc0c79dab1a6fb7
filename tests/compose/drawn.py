"""Drawn people as PNG files, by the standard library alone: nobody real is sent anywhere."""

from __future__ import annotations

import random
import struct
import zlib

HEIGHT = 96
WIDTH = 48


def drawn_person(person: int, shot: int) -> bytes:
    """Return a head, a coat and trousers in the person's colours; every shot is another file."""
    colours = random.Random(person)
    coat, trousers = (bytes(colours.randrange(30, 226) for _ in range(3)) for _ in range(2))
    noise = random.Random(f"{person}/{shot}")
    left = noise.randrange(8, 14)
    top = noise.randrange(2, 7)
    rows = []
    for y in range(HEIGHT):
        row = bytearray(bytes((120, 122, 118)) * WIDTH)
        if top <= y < top + 14:
            row[(left + 8) * 3 : (left + 20) * 3] = bytes((205, 165, 140)) * 12
        elif top + 14 <= y < top + 50:
            row[left * 3 : (left + 28) * 3] = coat * 28
        elif top + 50 <= y < top + 86:
            row[(left + 4) * 3 : (left + 24) * 3] = trousers * 20
        rows.append(b"\0" + bytes(max(0, value - noise.randrange(12)) for value in row))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    body = zlib.compress(b"".join(rows))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND")


def _chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
