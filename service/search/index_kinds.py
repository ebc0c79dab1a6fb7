"""How a gallery is searched, by its size and by where its vectors live.

On a processor, exact search reads the row table itself, the one copy of the vectors that M-Net
needs anyway: exact float16 beside it would take half as much memory again and save a third of the
time (20,000 × 1,280: 2.4 ms where float32 takes 3.8 ms), so there is none. On a GPU the device
holds its own copy, and float16 halves that. Whatever the kind, a search's finalists are scored once
more from the float32 vectors, which M-Net reads too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class IndexKind:
    """One way to search everything; a filtered search is exact whatever the kind.

    Attributes:
        name: FAISS's word for it.
        dtype: what searching compares in.
        from_rows: the number of living crops from which on it is used.
        trained: whether it is built beside the table, and finds nearly all instead of all.
    """

    name: str
    dtype: Literal["float32", "float16"]
    from_rows: int
    trained: bool = False


@dataclass(frozen=True)
class UpkeepLimits:
    """When an index is worth rewriting.

    Attributes:
        dead_rows, dead_share: deleted rows, at least so many and above this share of all.
        delta_rows, delta_share: rows that a trained segment does not cover, above both, the second
            a share of those that it covers.
    """

    dead_rows: int = 64
    dead_share: float = 0.2
    delta_rows: int = 1024
    delta_share: float = 0.05


HOST_KINDS = (
    IndexKind("flat_ip", "float32", 0),
    IndexKind("ivf_flat", "float16", 500_000, trained=True),
)
DEVICE_KINDS = (
    IndexKind("flat_ip", "float32", 0),
    IndexKind("flat_ip", "float16", 1_000_000),
)


def kind_for(rows: int, kinds: Sequence[IndexKind]) -> IndexKind:
    """The last of the kinds, which ascend by size, that so many rows reach."""
    return [kind for kind in kinds if rows >= kind.from_rows][-1]
