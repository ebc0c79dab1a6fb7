"""Distinguishes images, other files and by-products by their names."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from model.crops.texts import REPLACEMENT, is_fit
from model.problems import InputProblem, is_of_the_machine

# The files of an export beside its manifest and pictures.
DESCRIPTION = "gmn-export.json"
VECTORS = "vectors.npy"
EXPORT_FILES = (DESCRIPTION, VECTORS)
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp"})
# Files and folders that storage systems and programs make for their own use, in lower case. The
# page has the same list, in enroll.js.
BY_PRODUCTS = frozenset(
    {
        # Windows: wastebaskets, indexes and thumbnails.
        *("$recycle.bin", "recycler", "recycled", "recycle bin", "system volume information"),
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
        # macOS: additions to archives, shares and volumes.
        *("__macosx", ".ds_store", ".appledouble", ".appledb", ".appledesktop", ".apdisk"),
        *(".spotlight-v100", ".fseventsd", ".trashes", ".trash", ".temporaryitems"),
        *(".documentrevisions-v100", "network trash folder", "temporary items"),
        *("thevolumesettingsfolder", "icon\r"),
        # Linux and Android.
        *("lost+found", "lost.dir", ".thumbnails", ".thumb", ".xvpics"),
        # Network drives: thumbnails, wastebaskets and snapshots.
        *("@eadir", "@tmp", "@sharebin", "@sharesnap", "#recycle", "#snapshot"),
        *("@recycle", "@recently-snapshot", "@transcode", ".@__thumb", ".@upload_cache"),
        *("~snapshot", ".snapshot", ".snapshots", ".zfs", "trashbox", ".recycle", ".recycle.bin"),
        # Synchronisation, photo programs and version control.
        *(".stfolder", ".stversions", ".dropbox.cache", ".sync", ".tmp.drivedownload"),
        *(".tmp.driveupload", ".picasaoriginals", ".git", ".svn", ".hg"),
    }
)
# By-products whose names have different ends: resource forks of macOS, wastebaskets of Linux users,
# and fragments that a check of a Windows disk found.
BY_PRODUCT_BEGINNING = re.compile(r"\._|\.trash-(?=\d+\Z)|found\.(?=\d{3}\Z)")
# Pictures in formats that are not read.
OTHER_PICTURES = frozenset(
    {".heic", ".heif", ".avif", ".gif", ".tif", ".tiff", ".jxl", ".jp2", ".dng", ".cr2", ".nef"}
)
MAX_NAMED = 1_000
NO_FILE = "it is a link to a folder, or a device; copy what it leads to into the folder"
NO_IMAGE = "its name is no image's; name images .jpg, .jpeg, .png, .webp or .bmp"
NOT_READ = "pictures of this format are not read; save it as JPEG, PNG, WebP or BMP"
NO_MANIFEST = (
    "it is a CSV file, but not the manifest; call it manifest.csv, or name it as the manifest, to "
    "use its labels"
)
BY_PRODUCT_REASON = "a storage system or program made it for its own use; it shows no person"
HIDDEN_REASON = "it is hidden, as its name begins with a dot; rename it to use it"


@dataclass(frozen=True)
class LeftOut:
    """A file or column that is not used, by a printable name, and the reason."""

    name: str
    reason: str


class Ignored:
    """The files and columns of a source that are not used, with the reasons."""

    def __init__(self) -> None:
        self.count = 0
        self._named: list[LeftOut] = []
        self._named_count = 0
        self._hidden: set[str] = set()
        # One line stands for all by-products of a kind, which may lie in every folder.
        self._hidden_counts: Counter[str | None] = Counter()
        self._hidden_examples: dict[str | None, str] = {}

    def add(self, name: str, reason: str) -> None:
        """Count a name, and keep it if it is among the first 1,000."""
        self.count += 1
        self._named_count += 1
        if self._named_count <= MAX_NAMED:
            self._named.append(LeftOut(shown(name), reason))

    def add_unused(self, name: str) -> None:
        """Count a file that is neither an image nor hidden."""
        suffix = PurePosixPath(name).suffix.lower()
        reason = NOT_READ if suffix in OTHER_PICTURES else NO_IMAGE
        self.add(name, NO_MANIFEST if suffix == ".csv" else reason)

    def add_hidden(self, place: str) -> None:
        """Count a hidden file or by-product, or a folder of this kind with all that lies in it."""
        if place in self._hidden:
            return
        self._hidden.add(place)
        self.count += 1
        kind = by_product_kind(PurePosixPath(place).name)
        self._hidden_counts[kind] += 1
        self._hidden_examples.setdefault(kind, place)

    def lines(self) -> list[LeftOut]:
        """Return the kinds of hidden files, the first names of others, and how many more."""
        hidden = []
        for kind, example in self._hidden_examples.items():
            reason = HIDDEN_REASON if kind is None else BY_PRODUCT_REASON
            others = self._hidden_counts[kind] - 1
            more = f" ({others:,} more of this kind are left out)" if others else ""
            hidden.append(LeftOut(shown(example), reason + more))
        unnamed = self._named_count - len(self._named)
        more_named = [LeftOut("…", f"{unnamed:,} more are not named here")] if unnamed else []
        return hidden + self._named + more_named

    def remark(self) -> str:
        """Return the number of these files and an example, to end a message; empty without any."""
        if self.count == 0:
            return ""
        first = self.lines()[0]
        return f" ({self.count:,} ignored, such as {first.name}: {first.reason})"


def is_image_name(name: str) -> bool:
    """Return whether a path has the suffix of an image format that can be read."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def by_product_kind(part: str) -> str | None:
    """Return the kind of by-product that a file or folder name stands for, or None."""
    folded = part.casefold()
    if folded in BY_PRODUCTS:
        return folded
    beginning = BY_PRODUCT_BEGINNING.match(folded)
    return beginning[0] if beginning else None


def is_hidden(name: str) -> bool:
    """Return whether a path is hidden or a by-product, or lies in such a folder."""
    return any(
        by_product_kind(part) or (part.startswith(".") and part not in (".", ".."))
        for part in PurePosixPath(name).parts
    )


def hidden_place(name: str) -> str:
    """Return the part of a hidden path that ends with its first hidden folder, or with its file."""
    parts = PurePosixPath(name).parts
    depth = next(depth for depth, part in enumerate(parts) if is_hidden(part))
    return str(PurePosixPath(*parts[: depth + 1]))


def file_names(folder: Path, ignored: Ignored) -> Iterator[str]:
    """Yield the relative paths of all files below a folder that are not hidden.

    Hidden files and folders, devices and links to folders are ignored.

    Raises:
        InputProblem: a folder cannot be read; the message names it.
    """
    # `os.walk` calls itself for each level, too often for a deep tree.
    waiting = [str(folder)]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    name = os.path.relpath(entry.path, folder)
                    if is_hidden(entry.name):
                        ignored.add_hidden(name)
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                        continue
                    if _may_be_a_file(entry):
                        yield name
                    else:
                        ignored.add(name, NO_FILE)
        except OSError as error:
            if is_of_the_machine(error):
                raise
            raise InputProblem(
                f"folder: {shown(os.path.relpath(place, folder.parent))} cannot be read "
                f"({error.strerror}); make it readable, or move it"
            ) from error


def _may_be_a_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        # Reading a loop of links, or a link into an unreadable folder, will report the error.
        return True


def shown(name: str) -> str:
    """Return a name of at most 200 letters and without control characters, for logs and reports."""
    start = name[:200]
    printable = "".join(
        letter if is_fit(start, position) else REPLACEMENT for position, letter in enumerate(start)
    )
    return f"{printable}…" if len(name) > 200 else printable
