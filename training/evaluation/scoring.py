"""The three scorings of features, as functions from a slice of queries to rows of scores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from model.calibration import Fusion
from model.metric_network import MetricNetwork, score_pairs
from model.problems import InputProblem
from training.evaluation.embedding import Progress
from training.evaluation.metrics import ScoreRows

ROWS_PER_BLOCK = 16
# Gallery features that are scored at once: as many are copied to be of unit length.
COLUMNS = 4096


def cosine_rows(queries: NDArray[np.float32], gallery: NDArray[np.float32]) -> ScoreRows:
    """Cosine similarity of features `(Q, d)` and `(G, d)`, computed when asked for.

    The features are not copied: a large gallery's lengths divide its scores instead.
    """
    shrink = (1.0 / lengths(gallery)).astype(np.float32)

    def rows_of(rows: slice) -> NDArray[np.float32]:
        scores = unit_length(queries[rows]) @ gallery.T
        scores *= shrink
        return np.asarray(scores, dtype=np.float32)

    return rows_of


def computed_mnet_rows(
    metric_network: MetricNetwork, queries: NDArray[np.float32], gallery: NDArray[np.float32]
) -> ScoreRows:
    """M-Net's scores of features `(Q, d)` and `(G, d)`, computed when asked for."""
    device = next(metric_network.parameters()).device
    asked, searched = (torch.from_numpy(part).to(device) for part in (queries, gallery))

    def rows_of(rows: slice) -> NDArray[np.float32]:
        return np.asarray(score_pairs(metric_network, asked[rows], searched).cpu().numpy())

    return rows_of


def lengths(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Euclidean length of each of features `(n, d)`, `(n,)`; that of a zero feature is tiny."""
    squares = np.einsum("nd,nd->n", features, features)
    return np.asarray(np.maximum(np.sqrt(squares), 1e-12), dtype=np.float32)


def unit_length(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features `(n, d)` divided by their length; a zero feature stays zero."""
    return np.asarray(features / lengths(features)[:, None], dtype=np.float32)


def fused_rows(fusion: Fusion, cosine: ScoreRows, mnet: ScoreRows) -> ScoreRows:
    """The fused score of two scorings."""
    return lambda rows: fusion.fuse(cosine(rows), mnet(rows))


def reranked_rows(cosine: ScoreRows, mnet: ScoreRows, depth: int) -> ScoreRows:
    """The nearest `depth` by cosine in M-Net's order, then all others in cosine order.

    The scores only order: 2, 3, … for what was re-ranked, the cosine, at most 1, for the rest.
    """

    def rows_of(rows: slice) -> NDArray[np.float32]:
        scores = cosine(rows).copy()
        for row, learnt in zip(scores, mnet(rows), strict=True):
            nearest = _highest(row, depth)
            # Reversed, so that of two equal scores the earlier gallery row gets the higher number.
            ascending = np.argsort(learnt[nearest][::-1], kind="stable")
            row[nearest[::-1][ascending]] = np.arange(2, 2 + len(nearest))
        return scores

    return rows_of


def _highest(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Places of the highest scores, ascending; of equal ones the first are taken. No full sort."""
    if count >= len(scores):
        return np.arange(len(scores))
    lowest = np.partition(scores, len(scores) - count)[len(scores) - count]
    above = np.flatnonzero(scores > lowest)
    equal = np.flatnonzero(scores == lowest)[: count - len(above)]
    return np.sort(np.concatenate([above, equal]))


def write_mnet_scores(
    path: Path,
    metric_network: MetricNetwork,
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    progress: Progress | None = None,
) -> None:
    """Writes s(p, q) of every pair to a `.npy` file, `(Q, G)` float32, a block of rows at a time.

    Args:
        path: a new or existing file; it is overwritten.
        metric_network: in evaluation mode, on any device.
        queries, gallery: features `(Q, d)` and `(G, d)`.
        progress: called after each block with its number of queries.
    """
    if len(queries) == 0 or len(gallery) == 0:
        raise InputProblem(
            f"there are {len(queries)} queries and {len(gallery)} gallery features; "
            "each needs one at least"
        )
    device = next(metric_network.parameters()).device
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(queries), len(gallery))}
    # A memory map would do the same, but its pages count as this process's memory.
    with path.open("wb") as file:
        on_device = torch.from_numpy(gallery).to(device)
        np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
        for start in range(0, len(queries), ROWS_PER_BLOCK):
            rows = slice(start, min(start + ROWS_PER_BLOCK, len(queries)))
            block = torch.from_numpy(queries[rows]).to(device)
            scores = [
                score_pairs(metric_network, block, columns).cpu()
                for columns in torch.split(on_device, COLUMNS)
            ]
            file.write(torch.cat(scores, dim=1).numpy().astype("<f4").tobytes())
            if progress:
                progress(rows.stop - start)


@contextmanager
def mnet_rows(
    metric_network: MetricNetwork,
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    progress: Progress | None = None,
    folder: Path | None = None,
) -> Iterator[ScoreRows]:
    """M-Net's scores, computed once and kept in a temporary file while they are read.

    Args:
        metric_network, queries, gallery, progress: as `write_mnet_scores` takes them.
        folder: where the file lies; without it in TMPDIR or /var/tmp, since /tmp is often in
            memory, and large sets have gigabytes of scores.
    """
    with TemporaryDirectory(prefix=".gmn-scores-", dir=folder or folder_on_disk()) as place:
        path = Path(place) / "mnet.npy"
        write_mnet_scores(path, metric_network, queries, gallery, progress)
        offset = path.stat().st_size - 4 * len(queries) * len(gallery)

        def rows_of(rows: slice) -> NDArray[np.float32]:
            start, stop, _ = rows.indices(len(queries))
            scores = np.fromfile(
                path, "<f4", (stop - start) * len(gallery), offset=offset + 4 * start * len(gallery)
            )
            return scores.reshape(stop - start, len(gallery))

        yield rows_of


def folder_on_disk() -> str | None:
    """A folder for large temporary files; None is the system's choice."""
    on_disk = "/var/tmp"
    usable = "TMPDIR" not in os.environ and os.access(on_disk, os.W_OK)
    return on_disk if usable else None
