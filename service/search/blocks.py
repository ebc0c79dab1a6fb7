"""Vectors and texts of labels in blocks that never move, in memory or in files."""

from __future__ import annotations

import itertools
import logging
import mmap
import os
from collections.abc import Sequence
from typing import IO, Any

import faiss
import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)
# Above this share of a block, multiplying all of it is faster than copying the wanted rows first.
WHOLE_BLOCK_SHARE = 0.25
# One mapping, which holds a descriptor, has so many blocks at most.
BLOCKS_PER_MAPPING = 256
TEXT_BLOCK_BYTES = 2**20
WORD_BYTES = 8
# Odd: every changed word changes a sum.
WEIGHT = np.uint64(0x9E3779B97F4A7C15)
Words = NDArray[np.uint64]


class Blocks:
    """Items of one shape in blocks of a fixed number, as arrays that are only read.

    In a file they are read through a shared mapping and written by `pwrite`: the page cache holds
    them, what a killed process wrote stays, and a full disk is an error and not a signal. A block
    that the file does not take goes on in memory, and `whole` is False from then on.
    """

    def __init__(
        self, items: int, shape: tuple[int, ...], dtype: type, file: IO[bytes] | None = None
    ) -> None:
        self.items = items
        self.whole = file is not None
        self._shape, self._dtype, self._file = (items, *shape), np.dtype(dtype), file
        self._item_bytes = self._dtype.itemsize * int(np.prod(shape, dtype=int))
        pages = -(-items * self._item_bytes // mmap.ALLOCATIONGRANULARITY)
        self._stride = pages * mmap.ALLOCATIONGRANULARITY
        self._blocks: list[NDArray[Any]] = []
        self._mapped = 0

    def __getitem__(self, number: int) -> NDArray[Any]:
        return self._blocks[number]

    def __len__(self) -> int:
        return len(self._blocks)

    def reserve(self, items: int) -> None:
        """Makes room for so many items in all; it takes memory or disk as it is written."""
        while len(self._blocks) * self.items < items:
            if self.whole:
                wanted = -(-items // self.items) - len(self._blocks)
                self._map(min(max(wanted, len(self._blocks)), BLOCKS_PER_MAPPING))
            else:
                self._blocks.append(np.empty(self._shape, self._dtype))

    def write(self, at: int, values: NDArray[Any]) -> None:
        """Writes items, from one on, for which there is room."""
        while len(values):
            number, place = divmod(at, self.items)
            part = np.ascontiguousarray(values[: self.items - place])
            if number < self._mapped:
                self._write_file(at, part)
            if self._blocks[number].flags.writeable:
                self._blocks[number][place : place + len(part)] = part
            at, values = at + len(part), values[len(part) :]

    def offset(self, item: int) -> int:
        """Where an item lies in the file."""
        number, place = divmod(item, self.items)
        return number * self._stride + place * self._item_bytes

    def _map(self, count: int) -> None:
        assert self._file is not None
        start = len(self._blocks) * self._stride
        try:
            size = count * self._stride
            if os.fstat(self._file.fileno()).st_size < start + size:
                os.ftruncate(self._file.fileno(), start + size)
            mapped = mmap.mmap(
                self._file.fileno(), size, mmap.MAP_SHARED, mmap.PROT_READ, offset=start
            )
        except OSError as error:
            self._leave_file(error)
            return
        for number in range(count):
            there = np.frombuffer(
                mapped, self._dtype, int(np.prod(self._shape)), number * self._stride
            )
            self._blocks.append(there.reshape(self._shape))
        self._mapped = len(self._blocks)

    def _write_file(self, at: int, values: NDArray[Any]) -> None:
        assert self._file is not None
        content = memoryview(values.data).cast("B")
        offset, number = self.offset(at), at // self.items
        try:
            while content:
                written = os.pwrite(self._file.fileno(), content, offset)
                content, offset = content[written:], offset + written
        except OSError as error:
            self._leave_file(error)
            if not self._blocks[number].flags.writeable:
                self._blocks[number] = np.array(self._blocks[number])

    def _leave_file(self, error: OSError) -> None:
        if self.whole:
            name = getattr(self._file, "name", "")
            log.error("%s cannot be written, the index goes on in memory: %s", name, error)
        self.whole = False


class VectorBlocks:
    """Rows `(d,)` float32, numbered from 0; the owner counts them.

    Appending moves nothing, so that other threads may read rows meanwhile.
    """

    def __init__(self, dimension: int, block_rows: int, file: IO[bytes] | None = None) -> None:
        self.dimension = dimension
        self.block_rows = block_rows
        self.blocks = Blocks(block_rows, (dimension,), np.float32, file)

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """A copy of rows `(n, d)`."""
        found = np.empty((len(rows), self.dimension), np.float32)
        numbers, places = np.divmod(rows, self.block_rows)
        for number in np.unique(numbers):
            here = numbers == number
            found[here] = self.blocks[number][places[here]]
        return found

    def products(self, rows: NDArray[np.int64], query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Inner products `(n,)` of rows, ascending, with a query `(d,)`."""
        products = np.empty(len(rows), np.float32)
        blocks = np.arange(len(self.blocks) + 1)
        edges = np.searchsorted(rows, blocks * self.block_rows).tolist()
        for number, (start, stop) in enumerate(itertools.pairwise(edges)):
            if start == stop:
                continue
            places = rows[start:stop] - number * self.block_rows
            filled = self.blocks[number][: places[-1] + 1]
            if len(places) > WHOLE_BLOCK_SHARE * len(filled):
                products[start:stop] = _products(filled, query)[places]
            else:
                products[start:stop] = _products(filled[places], query)
        return products


def _products(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    # FAISS's own loop takes half the time of a matrix product through BLAS for one query. It is as
    # fast as IndexFlatIP, which would need a second copy of every vector.
    products = np.empty(len(vectors), np.float32)
    # FAISS exports it, its type stubs leave it out.
    faiss.fvec_inner_products_ny(  # type: ignore[attr-defined]
        faiss.swig_ptr(products),
        faiss.swig_ptr(np.ascontiguousarray(query)),
        faiss.swig_ptr(vectors),
        vectors.shape[1],
        len(vectors),
    )
    return products


def vector_sums(vectors: NDArray[np.float32]) -> Words:
    """A checksum of each row of `(n, d)`; of zeros it is 0."""
    if vectors.shape[1] % 2:
        vectors = np.pad(vectors, ((0, 0), (0, 1)))
    words = np.ascontiguousarray(vectors).view(np.uint64)
    return np.asarray(np.einsum("rw,w->r", words, _weights(0, words.shape[1])), np.uint64)


def _weights(first: int, count: int) -> Words:
    return np.arange(first, first + count, dtype=np.uint64) * WEIGHT | np.uint64(1)


class TextBlocks:
    """Texts one after another, each in one block and padded with spaces to whole words.

    Attributes:
        used: the bytes up to the end of the newest text.
    """

    def __init__(self, file: IO[bytes] | None = None) -> None:
        self.used = 0
        self.blocks = Blocks(TEXT_BLOCK_BYTES, (), np.uint8, file)

    def append(self, texts: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int32], Words]:
        """Adds texts; answers where each begins, its padded length, and its checksum.

        A `MemoryError` comes before the first change.
        """
        starts, sizes, at = [], [], self.used
        for text in texts:
            size = -(-len(text) // WORD_BYTES) * WORD_BYTES
            if at % TEXT_BLOCK_BYTES + size > TEXT_BLOCK_BYTES:
                at += -at % TEXT_BLOCK_BYTES
            starts.append(at)
            sizes.append(size)
            at += size
        self.blocks.reserve(at)
        together = np.zeros(at - self.used, np.uint8)
        for text, start, size in zip(texts, starts, sizes, strict=True):
            place = start - self.used
            together[place : place + size] = np.frombuffer(text.ljust(size), np.uint8)
        self.blocks.write(self.used, together)
        where, lengths = np.array(starts, np.int64), np.array(sizes, np.int32)
        sums = text_sums(together, self.used, where, lengths)
        self.used = at
        return where, lengths, sums

    def text(self, start: int, size: int) -> bytes:
        """The text that begins somewhere, with its padding."""
        number, place = divmod(start, TEXT_BLOCK_BYTES)
        return self.blocks[number][place : place + size].tobytes()

    def erase(self, start: int, size: int) -> None:
        """Overwrites a text with zeros."""
        self.blocks.write(start, np.zeros(size, np.uint8))


def text_sums(
    content: NDArray[np.uint8], first: int, starts: NDArray[np.int64], sizes: NDArray[np.int32]
) -> Words:
    """Checksums of texts, which depend on where they lie.

    Args:
        content: bytes that hold the texts, from the byte `first` on.
        starts, sizes: of the texts.
    """
    words = content.view(np.uint64)
    words = words * _weights(first // WORD_BYTES, len(words))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(words, dtype=np.uint64)])
    begin = (starts - first) // WORD_BYTES
    return np.asarray(sums[begin + sizes // WORD_BYTES] - sums[begin], np.uint64)
