"""The memory of a process: arenas of the C library, and Python's collector of reference cycles."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from collections.abc import Iterator

# A constant of malloc.h.
M_ARENA_MAX = -8


def bound_arenas() -> None:
    """Limit glibc to two memory arenas for all threads, unless `MALLOC_ARENA_MAX` is set.

    Memory freed in one arena is not available to the others: with an arena per thread, a service
    under steady load grew by 70 MiB in half an hour.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(M_ARENA_MAX, 2)


def return_free_memory() -> None:
    """Return memory that glibc holds free to the system; with another C library do nothing.

    What reading and compiling a network has freed lies between what remains, so that glibc would
    hold tens of MB, and after a photo of 12 megapixels 20 MB.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Switch the collector of reference cycles off, and let it leave out what exists at the end.

    Modules, classes and networks live as long as the process. Looking through them for cycles
    would take a tenth of a start's processor time, and later 0.1 s in each full collection.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
