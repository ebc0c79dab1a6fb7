"""Small JPEGs of crops for a page of the user's own data; JSON never holds any."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.evaluation.protocols import Search
from training.evaluation.results import RankList

WIDTH, HEIGHT = 64, 128
QUALITY = 80


@dataclass(frozen=True)
class SearchPictures:
    """JPEGs of some of a search's crops, by their numbers in it."""

    queries: Mapping[int, bytes] = field(default_factory=dict)
    gallery: Mapping[int, bytes] = field(default_factory=dict)


def picture_rank_lists(search: Search, lists: Sequence[RankList]) -> SearchPictures:
    """A picture of every crop that rank lists name.

    Raises:
        InputProblem: naming the crop that cannot be read.
    """
    queries = {ranks.row for ranks in lists}
    gallery = {crop.row for ranks in lists for own in ranks.ranked.values() for crop in own}
    return SearchPictures(
        {row: jpeg(search.queries[row].decode()) for row in sorted(queries)},
        {row: jpeg(search.gallery[row].decode()) for row in sorted(gallery)},
    )


def jpeg(pixels: NDArray[np.uint8], width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A crop `(h, w, 3)` uint8 RGB as a JPEG of a page's size."""
    small = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
