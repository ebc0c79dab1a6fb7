"""A stored picture has its pixels, its colours and its orientation, and nothing else."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from model.crops.decode import CropProblem, decode_crop
from model.crops.metadata import strip_metadata
from tests.hostile.corpus import hostile_images
from tests.hostile.pictures import drawn
from tests.outside import encoded

MARK = b"Marke4711"
SEED = 1
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
XMP = b"<x:xmpmeta>" + MARK + b"</x:xmpmeta>"


def exif_of(orientation=None):
    """Return EXIF with a place, a maker, a serial number and a thumbnail, each with the mark."""
    exif = Image.Exif()
    exif[0x010F] = MARK.decode()
    exif.get_ifd(0x8769)[0xA431] = f"serial {MARK.decode()}"
    exif.get_ifd(0x8825).update({1: "N", 2: (47.0, 22.0, 1.5), 29: MARK.decode()})
    if orientation:
        exif[0x0112] = orientation
    return exif.tobytes() + encoded(drawn(), "JPEG", comment=MARK)


def segment(marker, content):
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def chunk(kind, content):
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def riff(*chunks):
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
        for kind, content in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def behind_start(jpeg, *segments):
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def before_end(jpeg, content):
    return jpeg[:-2] + content + jpeg[-2:]


def before_pixels(png, *chunks):
    return png[:33] + b"".join(chunks) + png[33:]


def chunks_of(webp):
    position = 12
    while position < len(webp):
        kind, size = struct.unpack_from("<4sI", webp, position)
        yield kind, webp[position + 8 : position + 8 + size]
        position += 8 + size + size % 2


def pictures():
    """Yield a picture with each kind of metadata, and the name of the kind."""
    image = drawn()
    for orientation in (None, 1, 3, 6, 8):
        for profile in (None, PROFILE):
            named = f"turned by {orientation}{' with a profile' if profile else ''}"
            about = {"exif": exif_of(orientation), "icc_profile": profile}
            yield f"JPEG {named}", encoded(image, "JPEG", **about)
            yield f"PNG {named}", encoded(image, "PNG", **about)
            yield f"WebP {named}", encoded(image, "WEBP", **about, xmp=XMP)
    jpeg = encoded(image, "JPEG")
    progressive = encoded(image, "JPEG", progressive=True)
    thumbnail = b"JFIF\0\1\2\1\0\x48\0\x48\2\2" + (MARK + b"\0\0\0")[:12]
    jfif = segment(0xE0, thumbnail)
    yield "thumbnail of JFIF", jpeg[:2] + jfif + jpeg[20:]
    yield "thumbnail of JFXX", behind_start(jpeg, segment(0xE0, b"JFXX\0\x10" + MARK))
    yield "XMP", behind_start(jpeg, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP))
    yield (
        "XMP beyond",
        behind_start(jpeg, segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + MARK * 99)),
    )
    yield "IPTC", behind_start(jpeg, segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04" + MARK))
    yield "comment", encoded(image, "JPEG", comment=MARK)
    yield "several pictures", behind_start(jpeg, segment(0xE2, b"MPF\0" + MARK)) + jpeg + MARK
    for marker in range(0xE0, 0xF0):
        yield f"segment {marker:x}", behind_start(jpeg, segment(marker, MARK))
    yield (
        "more than the colours",
        behind_start(
            encoded(image.convert("CMYK"), "JPEG"), segment(0xEE, b"Adobe\0d\0\0\0\0\0" + MARK)
        ),
    )
    yield (
        "between two scans",
        progressive.replace(b"\xff\xda", segment(0xFE, MARK) + b"\xff\xda", 3),
    )
    yield "between two segments", jpeg[:20] + MARK + jpeg[20:]
    yield "behind the pixels", before_end(jpeg, segment(0xE1, b"Exif\0\0" + MARK))
    png = encoded(image, "PNG")
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", MARK.decode())
    texts.add_text("zipped", MARK.decode(), zip=True)
    texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
    yield "texts", encoded(image, "PNG", pnginfo=texts)
    for kind in (b"tIME", b"eXIf", b"prVt", b"gpSa", b"sPLT", b"hIST", b"bKGD", b"gAMA", b"caBX"):
        yield f"{kind} chunk", before_pixels(png, chunk(kind, MARK))
    yield "a chunk behind the pixels", png[:-12] + chunk(b"tEXt", b"a\0" + MARK) + png[-12:]
    yield "an end with content", png[:-12] + chunk(b"IEND", MARK)
    raw = f"\nexif\n{len(exif_of(6))}\n{exif_of(6).hex()}"
    yield (
        "raw profile",
        before_pixels(
            png, chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw.encode()))
        ),
    )
    turned = XMP.replace(MARK, b'<a tiff:Orientation="6"/>' + MARK)
    yield (
        "turned by XMP",
        behind_start(jpeg, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + turned)),
    )
    webp = encoded(image, "WEBP", lossless=True)
    yield "an unknown chunk", riff(*chunks_of(webp), (b"MARK", MARK))
    frames = encoded(image, "WEBP", save_all=True, append_images=[drawn(1)], exif=exif_of(6))
    yield (
        "a chunk of a frame",
        riff(
            *(
                (kind, content + b"MARK" + struct.pack("<I", 10) + MARK + b"\0" * (kind == b"ANMF"))
                if kind == b"ANMF"
                else (kind, content)
                for kind, content in chunks_of(frames)
            )
        ),
    )
    for image_format in ("JPEG", "PNG", "WEBP", "BMP"):
        yield f"behind the {image_format}", encoded(image, image_format) + exif_of(6)
    yield "an old BMP behind", encoded(image.quantize(4), "BMP") + MARK


PICTURES = dict(pictures())


def is_somewhere(mark, file):
    """Return whether a file has a text, also in what is compressed in it."""
    unpacked = [file]
    for start in range(len(file)):
        if file[start] == 0x78:
            with np.errstate(all="ignore"):
                try:
                    unpacked.append(zlib.decompressobj().decompress(file[start:], 1 << 16))
                except zlib.error:
                    continue
    return any(mark in content or mark.hex().encode() in content for content in unpacked)


@pytest.mark.parametrize("name", PICTURES)
def test_the_pixels_are_left_and_no_metadata(name):
    file = PICTURES[name]
    stripped = strip_metadata(file)
    assert is_somewhere(MARK, file)
    assert not is_somewhere(MARK, stripped)
    assert np.array_equal(decode_crop(stripped), decode_crop(file))
    assert strip_metadata(stripped) is stripped
    with Image.open(io.BytesIO(file)) as before, Image.open(io.BytesIO(stripped)) as after:
        assert after.format in (before.format, "JPEG")
        assert after.info.get("icc_profile") == before.info.get("icc_profile")
        assert set(after.getexif()) <= {0x0112}


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_picture_without_metadata_stays_the_same_file(image_format):
    file = encoded(drawn(), image_format)
    assert strip_metadata(file) is file


def test_no_damaged_file_is_changed_to_another_picture():
    for hostile in hostile_images(SEED):
        try:
            pixels = decode_crop(hostile.data)
        except CropProblem:
            # It is not stored, but must end.
            try:
                strip_metadata(hostile.data)
            except CropProblem:
                continue
        else:
            stripped = decode_crop(strip_metadata(hostile.data))
            assert np.array_equal(stripped, pixels), hostile.name
