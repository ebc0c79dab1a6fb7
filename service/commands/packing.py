"""Packs crops to a tar as it is sent: for an import, without a file and without the memory."""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from gmn_client import Upload
from model.crops.names import is_image_name
from model.problems import InputProblem
from service.commands.sources import Source, SourceCrop

MANIFEST = "manifest.csv"
COLUMNS = ("path", "identity", "camera", "captured_at")
BLOCK = 512


@dataclass
class Packing:
    """A source on its way into an import.

    Attributes:
        source: what is packed; who, where and when go along where it says so.
        on_crop: called once a crop is packed.
        names: what the source calls a crop, by its name in the tar.
        unreadable: crops that could not be read, and why: the others are packed all the same.
    """

    source: Source
    on_crop: Callable[[], object] = lambda: None
    names: dict[str, str] = field(default_factory=dict)
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for crop in self.source.crops if self.with_manifest else ():
            if not (crop.identity and crop.camera):
                raise InputProblem(
                    f"{crop.name}: an import's manifest names identity and camera of every image; "
                    "give the camera with --camera, or enroll these without --job"
                )

    @property
    def with_manifest(self) -> bool:
        """Whether a manifest goes along: the source names people."""
        return self.source.labelled or any(crop.identity for crop in self.source.crops)

    @property
    def upload(self) -> Upload:
        """What `import_archive` sends; opened anew, it packs from the first crop on."""
        return Upload("crops.tar", lambda: _Chunks(self._tar()))

    def _tar(self) -> Iterator[bytes]:
        self.names.clear()
        self.unreadable.clear()
        rows: list[tuple[str, ...]] = []
        for number, crop in enumerate(self.source.crops):
            name = self._unique_name(number, crop)
            try:
                content = crop.read()
            except (InputProblem, OSError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                self.unreadable.append((crop.name, f"cannot be read ({reason})"))
            else:
                yield from _entry(name, content)
                moment = crop.captured_at.isoformat() if crop.captured_at else ""
                rows.append((name, crop.identity or "", crop.camera or "", moment))
            self.on_crop()
        if self.with_manifest:
            # At the end: it may name only what could be read.
            yield from _entry(MANIFEST, _csv([COLUMNS, *rows]))
        yield bytes(2 * BLOCK)

    def _unique_name(self, number: int, crop: SourceCrop) -> str:
        """A name below the archive that is nobody else's, and as like the crop's own as can be."""
        parts = PurePosixPath(crop.name.replace("\\", "/")).parts
        name = "/".join(part for part in parts if part not in ("/", ".."))
        # What is an image is told by its bytes, but what is unpacked by its name.
        usable = is_image_name(name) and name.isprintable() and name == name.strip()
        if not usable or name in self.names:
            name = f"{number:08d}.png"
        self.names[name] = crop.name
        return name


class _Chunks(io.RawIOBase):
    """An iterator of bytes, read like a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def read(self, size: int = -1, /) -> bytes:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._rest = memoryview(chunk)
        part = self._rest[: size if size >= 0 else None]
        self._rest = self._rest[len(part) :]
        return bytes(part)


def _entry(name: str, content: bytes) -> Iterator[bytes]:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    yield header.tobuf(tarfile.PAX_FORMAT)
    yield content
    yield bytes(-len(content) % BLOCK)


def _csv(rows: list[tuple[str, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
