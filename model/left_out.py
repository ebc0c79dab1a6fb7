"""Samples of a gallery's named crops, each of which searches the crops of all other identities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.arrays import Array, Codes, Floats, in_turns
from model.order_statistics import FEW_IDENTITIES, RANKS

MOST_CROPS = 1000
CROPS_PER_IDENTITY = 3
# Searches by the mean of 2, 4 and 8 crops are measured, by at most `MOST_MEANS` of each.
PICTURES = (2, 4, 8)
MOST_MEANS = 100
# Searches with a filter have tails of their own: of all identities, a third of them, a tenth …
FEWER = (1, 3, 10, 30, 100)


def sampled_crops(names: Codes, random: np.random.Generator) -> Codes:
    """Choose the crops that play strangers: at most 3 of an identity, and 1,000 in all.

    Args:
        names: codes of the identities, `(n,)`.

    Returns:
        Positions of the crops.
    """
    rows, turn = in_turns(random.permutation(len(names)), names)
    few = turn < CROPS_PER_IDENTITY
    # The first crops of all identities come before any second crop.
    order = np.argsort(turn[few], kind="stable")
    return rows[few][order[:MOST_CROPS]]


def sampled_groups(
    names: Codes,
    sources: Sequence[Codes],
    size: int,
    random: np.random.Generator,
) -> Codes:
    """Choose groups of crops of one identity, whose mean plays a stranger.

    The crops of a group share a source: the first of the sources that gives groups of 18
    identities. If none does, they share the identity alone.

    Args:
        names: codes of the identities, `(n,)`.
        sources: codes of tracks and of cameras, `(n,)` each; a negative code is unknown.
        size: number of crops in a group.

    Returns:
        Positions of the crops, `(g, size)`.
    """
    for source in (*sources, np.zeros_like(names)):
        _, codes, counts = np.unique(
            np.stack([names, source]),
            axis=1,
            return_inverse=True,
            return_counts=True,
        )
        known = np.flatnonzero(source >= 0)
        rows, turn = in_turns(random.permutation(known), codes)
        in_whole_group = turn < counts[codes[rows]] // size * size
        groups = rows[in_whole_group].reshape(-1, size)
        if len(np.unique(names[groups[:, 0]])) >= FEW_IDENTITIES:
            break
    chosen = sampled_crops(names[groups[:, 0]], random)
    return groups[chosen[:MOST_MEANS]]


def subgalleries(names: Codes, random: np.random.Generator) -> list[Codes]:
    """Draw parts of the identities: all, a third, a tenth … of them, but at least 18.

    Args:
        names: codes of the identities, in which each may occur several times.

    Returns:
        The codes of each part, the largest first.
    """
    everyone = random.permutation(np.unique(names))
    sizes = [len(everyone) // part for part in FEWER]
    return [everyone[:size] for size in sizes if size >= FEW_IDENTITIES]


def search_other_cameras(
    own_names: Codes,
    own_cameras: Codes,
    names: Codes,
    cameras: Codes,
) -> NDArray[np.bool_]:
    """Return which crops search other cameras only: other cameras saw 18 other identities or more.

    Args:
        own_names, own_cameras: codes of the crops that search, `(n,)` each; camera -1 is unknown.
        names, cameras: codes of the searched crops, `(N,)` each.

    Returns:
        `(n,)`.
    """
    others_only = np.zeros(len(own_names), dtype=bool)
    for camera in np.unique(own_cameras[own_cameras >= 0]):
        elsewhere = np.unique(names[cameras != camera])
        rows = np.flatnonzero(own_cameras == camera)
        others = len(elsewhere) - np.isin(own_names[rows], elsewhere)
        others_only[rows] = others >= FEW_IDENTITIES
    return others_only


def hide_known(
    scores: Floats,
    own_names: Codes,
    own_cameras: Codes,
    names: Codes,
    cameras: Codes,
) -> Floats:
    """Return scores `(n, N)` with −∞ for crops that a stranger's search would not find.

    Hidden are the scores of the crop's own identity and, if it searches other cameras only, of all
    crops under its own camera.

    Args:
        scores: scores of the crops that search against the searched ones, `(n, N)`.
        own_names, own_cameras, names, cameras: as for `search_other_cameras`.
    """
    hidden = own_names[:, None] == names
    others_only = search_other_cameras(own_names, own_cameras, names, cameras)
    hidden[others_only] |= own_cameras[others_only, None] == cameras
    return np.where(hidden, np.float32(-np.inf), scores)


def leaders_by_name(scores: NDArray[np.floating], names: Codes) -> Array:
    """Return the nine best identity scores of each row, `(n, 9)`, descending.

    Args:
        scores: scores of candidates, `(n, c)`; −∞ for hidden ones, and for missing identities.
        names: codes of their identities, `(n, c)`.
    """
    _, codes = np.unique(names, return_inverse=True)
    best = np.full((len(scores), max(RANKS, codes.max() + 1)), -np.inf)
    rows = np.arange(len(scores))[:, None]
    np.maximum.at(best, (rows, codes), scores)
    return -np.sort(-best, axis=1)[:, :RANKS]
