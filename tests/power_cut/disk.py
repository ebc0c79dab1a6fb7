"""Possible states of a disk after a power cut, made from a recording of its requests."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

HEADER = struct.Struct("<cQQQIIQ")
LOSSES = ("everything", "some", "torn", "metadata", "data", "nothing")


@dataclass(frozen=True)
class Asked:
    """One thing that a process asked of the disk; `kind` as the recorder writes it."""

    kind: str
    nanoseconds: int
    inode: int
    offset: int
    path: str
    other: str
    content: bytes


@dataclass(eq=False)
class _File:
    """A file: its content that is certainly on the disk, and the writes since its last sync."""

    inode: int
    synced: bytearray = field(default_factory=bytearray)
    since: list[Asked] = field(default_factory=list)


@dataclass(eq=False)
class _Folder:
    inode: int


@dataclass(eq=False)
class _Renaming:
    """A change of names: `puts` and `takes` away names in folders."""

    takes: list[tuple[_Folder, str]] = field(default_factory=list)
    puts: list[tuple[_Folder, str, _File | _Folder]] = field(default_factory=list)

    @property
    def folders(self):
        return {folder for folder, *_ in self.takes} | {folder for folder, *_ in self.puts}


def read_recording(log):
    """Return every entry of a recording, in order; a last one that is cut off is left out."""
    content = log.read_bytes()
    place = 0
    entries = []
    while place + HEADER.size <= len(content):
        kind, when, inode, offset, path, other, size = HEADER.unpack_from(content, place)
        place += HEADER.size
        parts = []
        for length in (path, other, size):
            parts.append(content[place : place + length])
            place += length
        if place <= len(content):
            names = (parts[0].decode(), parts[1].decode())
            entries.append(Asked(kind.decode(), when, inode, offset, *names, parts[2]))
    return entries


class Disk:
    """A disk that follows a recording, entry by entry, and can be cut off after any of them."""

    def __init__(self, root):
        """Make an empty directory.

        Args:
            root: the recorded folder; it is certainly on the disk.
        """
        self._root = root
        self._top = _Folder(0)
        self._now = {self._top: {}}
        self._by_inode = {}
        # Changes of names in the order in which they were asked; the first `_settled` are synced.
        self._names = []
        self._synced = set()

    def ask(self, asked):
        """Follow one entry of the recording."""
        match asked.kind:
            case "c" | "d":
                made = (_File if asked.kind == "c" else _Folder)(asked.inode)
                self._by_inode[asked.inode] = made
                if isinstance(made, _Folder):
                    self._now[made] = {}
                self._rename(_Renaming(puts=[(*self._where(asked.path), made)]))
            case "w" | "t" | "f":
                file = self._by_inode[asked.inode]
                assert isinstance(file, _File)
                file.since.append(asked)
            case "s":
                self._sync(asked.inode)
            case "S":
                for inode in self._by_inode:
                    self._sync(inode)
                self._synced |= set(self._names)
            case "r" | "l":
                moved = self._at(asked.path)
                takes = [self._where(asked.path)] if asked.kind == "r" else []
                self._rename(_Renaming(takes, [(*self._where(asked.other), moved)]))
            case "u":
                self._rename(_Renaming(takes=[self._where(asked.path)]))
            case _:
                raise ValueError(f"the recording cannot tell what {asked.path} did")

    def cut(self, target, loss, chance):
        """Write the content of the disk after a power cut into a new directory.

        Args:
            target: which is made.
            loss: of the unsynced writes: `everything`; `some` writes and names, each by chance;
                `torn` the same in sectors of 512 and pages of 4096 bytes, in any order;
                `metadata` leaves names and sizes but loses contents; `data` leaves contents
                but loses names, from some moment on; `nothing`.
            chance: draws the lost writes.
        """
        held = {self._top: {}}
        for renaming in self._kept_names(loss, chance):
            for folder, name in renaming.takes:
                held.setdefault(folder, {}).pop(name, None)
            for folder, name, file in renaming.puts:
                held.setdefault(folder, {})[name] = file
        self._write(self._top, target, held, loss, chance)

    def _kept_names(self, loss, chance):
        unsynced = [entry for entry in self._names if entry not in self._synced]
        if loss in ("nothing", "metadata"):
            kept = unsynced
        elif loss == "everything":
            kept = []
        elif loss == "data":
            # As a journal keeps them: up to some moment.
            kept = unsynced[: chance.randint(0, len(unsynced))]
        else:
            kept = [entry for entry in unsynced if chance.random() < 0.5]
        wanted = self._synced | set(kept)
        return (entry for entry in self._names if entry in wanted)

    def _write(self, folder, target, held, loss, chance):
        target.mkdir()
        for name, file in held.get(folder, {}).items():
            if isinstance(file, _Folder):
                self._write(file, target / name, held, loss, chance)
            else:
                (target / name).write_bytes(_content(file, loss, chance))

    def _rename(self, renaming):
        for folder, name in renaming.takes:
            self._now[folder].pop(name, None)
        for folder, name, file in renaming.puts:
            self._now[folder][name] = file
        self._names.append(renaming)

    def _sync(self, inode):
        # The directory that holds everything has no entry.
        one = self._by_inode.get(inode, self._top)
        if isinstance(one, _File):
            one.synced = _applied(one.synced, one.since)
            one.since = []
        else:
            self._synced |= {renaming for renaming in self._names if one in renaming.folders}

    def _at(self, path):
        folder, name = self._where(path)
        return self._now[folder][name]

    def _where(self, path):
        *folders, name = Path(path).relative_to(self._root).parts
        folder = self._top
        for part in folders:
            found = self._now[folder][part]
            assert isinstance(found, _Folder)
            folder = found
        return folder, name


def _content(file, loss, chance):
    match loss:
        case "everything":
            return bytes(file.synced)
        case "nothing" | "data":
            return bytes(_applied(file.synced, file.since))
        case "metadata":
            size = len(_applied(file.synced, file.since))
            return bytes(file.synced[:size].ljust(size, b"\0"))
        case "some":
            return bytes(_applied(file.synced, [a for a in file.since if chance.random() < 0.5]))
    sector = chance.choice((512, 4096))
    pieces = [piece for asked in file.since for piece in _pieces(asked, sector)]
    # Overlapping writes may have reached the disk in any order, too.
    chance.shuffle(pieces)
    return bytes(_applied(file.synced, pieces[: chance.randint(0, len(pieces))]))


def _pieces(asked, sector):
    if asked.kind != "w":
        yield asked
        return
    end = asked.offset + len(asked.content)
    start = asked.offset
    while start < end:
        stop = min(end, (start // sector + 1) * sector)
        content = asked.content[start - asked.offset : stop - asked.offset]
        yield Asked("w", asked.nanoseconds, asked.inode, start, "", "", content)
        start = stop


def _applied(content, asked):
    written = bytearray(content)
    for operation in asked:
        if operation.kind == "t":
            del written[operation.offset :]
            written.extend(bytes(operation.offset - len(written)))
        elif operation.kind == "f":
            written.extend(bytes(max(0, operation.offset - len(written))))
        else:
            written.extend(bytes(max(0, operation.offset - len(written))))
            written[operation.offset : operation.offset + len(operation.content)] = (
                operation.content
            )
    return written
