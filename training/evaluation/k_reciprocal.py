"""k-reciprocal re-ranking (Zhong et al., CVPR 2017) in bounded memory.

Images that share reciprocal neighbours are ranked nearer to each other. The published code keeps
several dense matrices over queries and gallery; here an image has a list of its `k1` neighbours and
a sparse vector of a few dozen entries, and only one block of scores is computed at a time.

The distance of a pair depends on all other images, so that this is no pair score and has neither a
calibration nor operating points.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse

from model.arrays import Codes, Floats
from training.evaluation.metrics import SCORES_PER_BLOCK, ScoreRows
from training.evaluation.scoring import unit_length

K1 = 20
K2 = 6
ORIGINAL_WEIGHT = 0.3
ROWS_PER_BLOCK = 4096
PAIRS_PER_CHUNK = 2048


def k_reciprocal_rows(
    queries: Floats,
    gallery: Floats,
    k1: int = K1,
    k2: int = K2,
    one_list: bool = False,
) -> ScoreRows:
    """Return 1 − d* for slices of queries, where d* is the re-ranked distance.

    d* = (1 − λ)·d_Jaccard + λ·d is equation 12 of the paper. d is 2 − 2·cos divided by the largest
    value of its row, as in the paper's code. Most distances are near 1, where float32 is coarse, so
    that the similarities 1 − d_Jaccard and 1 − d are added instead.

    Args:
        queries, gallery: features `(Q, d)` and `(G, d)`.
        k1: the number of neighbours that have to be reciprocal.
        k2: the number of neighbours, including the image itself, over which vectors are averaged.
        one_list: whether the queries are the gallery.
    """
    images = unit_length(gallery if one_list else np.concatenate([queries, gallery]))
    size = min(k1 + 1, len(images))
    neighbours, furthest = _neighbours(images, size, max(1, SCORES_PER_BLOCK // len(images)))
    sets = _expanded_sets(neighbours, k1)
    members = np.repeat(np.arange(sets.shape[0]), np.diff(sets.indptr))
    cosine = _cosine_of_pairs(images, members, sets.indices)
    vectors = _vectors(sets, np.maximum(2.0 - 2.0 * cosine, 0.0) / furthest[members])
    if k2 > 1:
        nearest = neighbours[:, :k2]
        vectors = (_incidence(nearest).astype(np.float32) @ vectors) / np.float32(nearest.shape[1])
    of_queries = vectors[: len(queries)].tocsr()
    by_member = vectors[-len(gallery) :].tocsc()

    def rows_of(rows: slice) -> Floats:
        shared = _jaccard_similarities(of_queries[rows], by_member)
        block = range(len(queries))[rows]
        cosine = images[block.start : block.stop] @ images[-len(gallery) :].T
        distances = np.maximum(2.0 - 2.0 * cosine, 0.0)
        distances /= furthest[block.start : block.stop, None]
        mixed = (1.0 - ORIGINAL_WEIGHT) * shared + ORIGINAL_WEIGHT * (1.0 - distances)
        return np.asarray(mixed, dtype=np.float32)

    return rows_of


def nearest(similarities: Floats, count: int) -> Codes:
    """Return the columns of each row's `count` highest values, `(rows, count)`; ties by column."""
    highest = torch.from_numpy(similarities).topk(count, dim=1, sorted=False).values
    threshold = highest.amin(dim=1, keepdim=True).numpy()
    row, column = np.divmod(np.flatnonzero(similarities >= threshold), similarities.shape[1])
    order = np.lexsort((column, -similarities[row, column], row))
    starts = np.searchsorted(row, np.arange(len(similarities)))
    return np.asarray(column[order][starts[:, None] + np.arange(count)], dtype=np.int64)


def _neighbours(
    images: Floats,
    count: int,
    rows: int,
) -> tuple[Codes, Floats]:
    """Return the nearest images of each, itself first, `(N, count)`, and its largest distance."""
    neighbours = []
    furthest = []
    for start in range(0, len(images), rows):
        similarities = images[start : start + rows] @ images.T
        furthest.append(np.maximum(2.0 - 2.0 * similarities.min(axis=1), 1e-12))
        rows_of_block = np.arange(len(similarities))
        similarities[rows_of_block, start + rows_of_block] = np.inf
        neighbours.append(nearest(similarities, count))
    return np.concatenate(neighbours), np.concatenate(furthest)


def _cosine_of_pairs(
    images: Floats,
    first: Codes,
    second: Codes,
) -> Floats:
    """Compute the cosines of pairs of unit features, which are given by their rows, `(n,)`."""
    cosine = np.empty(len(first), dtype=np.float32)
    for start in range(0, len(first), PAIRS_PER_CHUNK):
        chunk = slice(start, start + PAIRS_PER_CHUNK)
        cosine[chunk] = np.einsum("nd,nd->n", images[first[chunk]], images[second[chunk]])
    return cosine


def _incidence(lists: Codes) -> sparse.csr_matrix:
    """Turn lists of images `(N, k)` into a matrix `(N, N)` with a 1 for every entry."""
    count, size = lists.shape
    starts = np.arange(0, count * size + 1, size)
    ones = np.ones(count * size, dtype=np.int32)
    return sparse.csr_matrix((ones, lists.reshape(-1), starts), shape=(count, count))


def _reciprocal(lists: Codes) -> sparse.csr_matrix:
    """Return a matrix with 1 for every two images that are in each other's list."""
    incidence = _incidence(lists)
    return incidence.multiply(incidence.T).tocsr()


def _expanded_sets(neighbours: Codes, k1: int) -> sparse.csr_matrix:
    """Compute R*(p, k1): the reciprocal neighbours of each image, expanded.

    The set R(q, k1/2) of a neighbour q is added if more than two thirds of it are in R(p, k1). This
    is equation 5 of the paper, counted as in its published code.
    """
    near = _reciprocal(neighbours)
    half = _reciprocal(neighbours[:, : round(k1 / 2) + 1])
    sizes = half.getnnz(axis=1)
    blocks = []
    for start in range(0, len(neighbours), ROWS_PER_BLOCK):
        block = near[start : start + ROWS_PER_BLOCK]
        shared = (block @ half.T).multiply(block).tocsr()
        shared.data = (3 * shared.data > 2 * sizes[shared.indices]).astype(np.int32)
        shared.eliminate_zeros()
        blocks.append(block + shared @ half)
    return sparse.vstack(blocks, format="csr")


def _vectors(sets: sparse.csr_matrix, distances: Floats) -> sparse.csr_matrix:
    """Compute V: exp(−distance) to every member of an image's set; rows sum to 1."""
    weights = np.exp(-distances)
    # No row is empty, because every image is in its own set.
    weights /= np.repeat(np.add.reduceat(weights, sets.indptr[:-1]), np.diff(sets.indptr))
    return sparse.csr_matrix((weights, sets.indices, sets.indptr), shape=sets.shape)


def _jaccard_similarities(
    queries: sparse.csr_matrix,
    by_member: sparse.csc_matrix,
) -> Floats:
    """Compute Σ min(V_p, V_g) / Σ max(V_p, V_g) of some queries with the gallery, `(rows, G)`.

    Since rows sum to 1, the sum of the maxima is 2 minus the sum of the minima.
    """
    rows = queries.shape[0]
    gallery = by_member.shape[0]
    jaccard = np.empty((rows, gallery), dtype=np.float32)
    starts = by_member.indptr[:-1]
    sizes = np.diff(by_member.indptr)
    for row in range(rows):
        entries = slice(queries.indptr[row], queries.indptr[row + 1])
        members = queries.indices[entries]
        lengths = sizes[members]
        # The positions, in the data of the columns, of all entries of the members' columns.
        offsets = np.repeat(starts[members] - np.cumsum(lengths) + lengths, lengths)
        places = offsets + np.arange(len(offsets))
        smaller = np.minimum(by_member.data[places], np.repeat(queries.data[entries], lengths))
        shared = np.bincount(by_member.indices[places], smaller, minlength=gallery)
        jaccard[row] = shared / (2.0 - shared)
    return jaccard
