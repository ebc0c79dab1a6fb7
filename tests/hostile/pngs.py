"""PNG files put together chunk by chunk."""

import struct
import zlib

import numpy as np

from tests.hostile.pictures import HostileFile, drawn
from tests.outside import encoded

SIGNATURE = b"\x89PNG\r\n\x1a\n"
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
END = (b"IEND", b"")


def chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(chunks):
    return SIGNATURE + b"".join(chunk(*part) for part in chunks)


def header(width, height, bits=8, colour=2, interlaced=0):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)


def announcing(width, height):
    return png([header(width, height), (b"IDAT", zlib.compress(bytes(100))), END])


def interlaced(image):
    """As Adam7 has it, which Pillow does not write."""
    pixels = np.asarray(image.convert("RGB"))
    passes = [pixels[top::down, left::right] for top, left, down, right in (*ADAM7, (1, 0, 2, 1))]
    rows = b"".join(b"\0" + row.tobytes() for part in passes for row in part)
    return png([header(*image.size, interlaced=1), (b"IDAT", zlib.compress(rows)), END])


def parts(data):
    found = []
    position = len(SIGNATURE)
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        found.append((kind, data[position + 8 : position + 8 + length]))
        position += 12 + length
    return found


def hostile_pngs():
    good = encoded(drawn(), "PNG")
    first, *middle, last = parts(good)
    yield HostileFile("interlaced", interlaced(drawn()), True)
    yield HostileFile("interlaced, cut", interlaced(drawn())[:-2000], False)
    yield HostileFile("without its end", png([first, *middle]), False)
    yield HostileFile("two headers", png([first, first, *middle, last]), None)
    yield HostileFile("other size later", png([first, *middle, header(9, 9), last]), None)
    yield HostileFile("without pixels", png([first, last]), False)
    yield HostileFile("pixels only", png([*middle, last]), False)
    yield HostileFile("end first", png([first, last, *middle, last]), False)
    yield HostileFile("pixels twice", png([first, *middle, *middle, last]), None)
    yield HostileFile("one byte a chunk", _scattered(), True)
    for kind in (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"pHYs", b"gAMA", b"sBIT", b"tRNS"):
        for name, text in (("empty", b""), ("odd", b"\0" * 5), ("long", b"x" * 70_000)):
            yield HostileFile(f"{name} {kind!r}", png([first, (kind, text), *middle, last]), None)
    bomb = zlib.compress(bytes(60_000_000), 9)
    for kind, before in ((b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")):
        packed = png([first, (kind, before + bomb), *middle, last])
        yield HostileFile(f"{kind!r} that unpacks to 60 MB", packed, None)
        several = png([first, *[(kind, before + bomb)] * 4, *middle, last])
        yield HostileFile(f"{kind!r} four times", several, None)
    rows = png([header(48, 96), (b"IDAT", zlib.compress(bytes(30_000_000), 9)), END])
    yield HostileFile("a thousand times its rows", rows, True)
    yield HostileFile("100,000 chunks", png([first, *[(b"teSt", b"")] * 100_000, last]), False)
    for position in (11, 15, 20, 32, 40, len(good) - 20):
        changed = bytearray(good)
        changed[position] ^= 0xFF
        yield HostileFile(f"changed at {position}", bytes(changed), False)
    for number in (0xFFFFFFFF, 0x7FFFFFFF, 0, 1):
        lying = good.replace(struct.pack(">I", len(middle[0][1])), struct.pack(">I", number), 1)
        yield HostileFile(f"length {number:,}", lying, False)
    for bits, colour in ((3, 2), (16, 3), (8, 5), (32, 0), (0, 2)):
        odd = png([header(48, 96, bits, colour), *middle, last])
        yield HostileFile(f"{bits} bits of colour type {colour}", odd, False)


def _scattered():
    small = encoded(drawn().quantize(4), "PNG", optimize=True)
    first, *middle, last = parts(small)
    others = [part for part in middle if part[0] != b"IDAT"]
    pixels = b"".join(data for kind, data in middle if kind == b"IDAT")
    single = [(b"IDAT", pixels[at : at + 1]) for at in range(len(pixels))]
    return png([first, *others, *single, last])
