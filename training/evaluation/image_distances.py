"""Distances that k-reciprocal re-ranking reads: of the features, and of M-Net's scores."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from model.metric_network import MetricNetwork
from training.evaluation.ranking import SCORES_PER_BLOCK, ScoreRows
from training.evaluation.scoring import lengths

PAIRS_PER_CHUNK = 2048
SHORTLIST = 100


class CosineDistances:
    """Squared Euclidean distances of unit features, each image's divided by its largest.

    That is what the paper's code does: 2 − 2·cos, then every row between 0 and 1.

    Attributes:
        images, queries, gallery: how many there are.
    """

    def __init__(
        self,
        queries: NDArray[np.float32],
        gallery: NDArray[np.float32],
        one_list: bool = False,
        scores_per_block: int = SCORES_PER_BLOCK,
    ) -> None:
        """Copies no features.

        Args:
            queries, gallery: `(Q, d)` and `(G, d)`.
            one_list: the queries are the gallery, and every image is there once.
            scores_per_block: how many similarities exist at once.
        """
        self._parts = (gallery,) if one_list else (queries, gallery)
        self._shrink = [1.0 / lengths(part)[:, None] for part in self._parts]
        self._scores_per_block = scores_per_block
        self.queries, self.gallery = len(queries), len(gallery)
        self.images = sum(map(len, self._parts))
        self._furthest = np.ones(self.images, dtype=np.float32)

    def neighbours(self, count: int) -> NDArray[np.int64]:
        """The nearest images of each, `(N, count)`; learns each image's largest distance too."""
        found = []
        for rows, similarities in self._blocks():
            self._furthest[rows] = np.maximum(2.0 - 2.0 * similarities.min(axis=1), 1e-12)
            found.append(_nearest_but_itself_first(similarities, rows.start, count))
        return np.concatenate(found)

    def between(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float32]:
        """Distances of some pairs of images, `(n,)`; `neighbours` has to be asked before."""
        cosine = np.empty(len(first), dtype=np.float32)
        for start in range(0, len(first), PAIRS_PER_CHUNK):
            chunk = slice(start, start + PAIRS_PER_CHUNK)
            cosine[chunk] = np.einsum("nd,nd->n", self.unit(first[chunk]), self.unit(second[chunk]))
        return self._scaled(cosine, self._furthest[first])

    def closeness(self, rows: slice) -> NDArray[np.float32]:
        """1 less the distances of some queries to the gallery, `(rows, G)`."""
        places = np.arange(self.queries)[rows]
        cosine = (self.unit(places) @ self._parts[-1].T) * self._shrink[-1].T
        return 1.0 - self._scaled(cosine, self._furthest[places, None])

    def unit(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Unit features of some images, `(n, d)`."""
        features = np.empty((len(places), self._parts[0].shape[1]), dtype=np.float32)
        first = 0
        for part, shrink in zip(self._parts, self._shrink, strict=True):
            here = (places >= first) & (places < first + len(part))
            features[here] = part[places[here] - first] * shrink[places[here] - first]
            first += len(part)
        return features

    @staticmethod
    def _scaled(cosine: NDArray[np.float32], furthest: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(np.maximum(2.0 - 2.0 * cosine, 0.0) / furthest, dtype=np.float32)

    def _blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        rows = max(1, self._scores_per_block // self.images)
        for start in range(0, self.images, rows):
            block = slice(start, min(start + rows, self.images))
            units = self.unit(np.arange(block.start, block.stop))
            columns = [
                (units @ part.T) * shrink.T
                for part, shrink in zip(self._parts, self._shrink, strict=True)
            ]
            yield block, np.concatenate(columns, axis=1)


class MetricNetworkDistances:
    """Distances of M-Net's scores: how far each falls short of an image's score with itself.

    That shortfall, s(p, p) − s(p, q), divided by the largest that a query meets, is 0 to 1 and 0 of
    an image from itself, and is to s what the paper's 2 − 2·cos is to the cosine. s(p, p) is one
    number: every pair feature of two equal images is 0. The other ways to a distance that were
    measured, 1 − p and −log p of M-Net's own probability, are ahead on one set and behind on
    another.

    M-Net scores every query against the gallery anyway, but not the gallery against itself: an
    image's neighbours are the first of its nearest by cosine, in M-Net's order.

    Attributes:
        images, queries, gallery: how many there are.
    """

    def __init__(
        self,
        cosine: CosineDistances,
        metric_network: MetricNetwork,
        mnet: ScoreRows,
        shortlist: int = SHORTLIST,
    ) -> None:
        """Reads the scores of all queries once.

        Args:
            cosine: of the same images.
            metric_network: in evaluation mode, on any device.
            mnet: its scores of the queries against the gallery.
            shortlist: how many nearest by cosine M-Net orders.
        """
        self._cosine, self._network, self._mnet = cosine, metric_network, mnet
        self._shortlist = shortlist
        self.images, self.queries, self.gallery = cosine.images, cosine.queries, cosine.gallery
        rows = max(1, SCORES_PER_BLOCK // self.gallery)
        lowest = min(
            float(mnet(slice(start, min(start + rows, self.queries))).min())
            for start in range(0, self.queries, rows)
        )
        first = np.zeros(1, dtype=np.int64)
        self._highest = float(self._scores(first, first)[0])
        self._range = max(self._highest - lowest, 1e-12)

    def neighbours(self, count: int) -> NDArray[np.int64]:
        """The nearest images of each, `(N, count)`."""
        depth = min(max(self._shortlist, count), self.images)
        listed = np.sort(self._cosine.neighbours(depth), axis=1)
        found = []
        rows = max(1, SCORES_PER_BLOCK // depth)
        for start in range(0, self.images, rows):
            block = listed[start : start + rows]
            images = np.repeat(np.arange(start, start + len(block)), depth)
            scores = self._scores(images, block.reshape(-1)).reshape(block.shape)
            scores[block == images.reshape(block.shape)] = np.inf
            order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
            found.append(np.take_along_axis(block, order, axis=1))
        return np.concatenate(found)

    def between(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float32]:
        """Distances of some pairs of images, `(n,)`."""
        return self._shortfall(self._scores(first, second))

    def closeness(self, rows: slice) -> NDArray[np.float32]:
        """1 less the distances of some queries to the gallery, `(rows, G)`."""
        return 1.0 - self._shortfall(self._mnet(rows))

    def _shortfall(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(np.maximum(self._highest - scores, 0.0) / self._range, dtype=np.float32)

    @torch.inference_mode()
    def _scores(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float32]:
        device = next(self._network.parameters()).device
        scores = np.empty(len(first), dtype=np.float32)
        for start in range(0, len(first), PAIRS_PER_CHUNK):
            chunk = slice(start, start + PAIRS_PER_CHUNK)
            one, other = (
                torch.from_numpy(self._cosine.unit(places[chunk])).to(device)
                for places in (first, second)
            )
            pairs = self._network.pair_features(one, other)
            scores[chunk] = self._network.scores(pairs).cpu().numpy()
        return scores


def nearest(similarities: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The `count` most similar of each row, `(rows, count)`; of equal ones the earlier first."""
    kept = torch.from_numpy(similarities).topk(count, dim=1, sorted=False).values
    threshold = kept.amin(dim=1, keepdim=True).numpy()
    row, column = np.divmod(np.flatnonzero(similarities >= threshold), similarities.shape[1])
    order = np.lexsort((column, -similarities[row, column], row))
    starts = np.searchsorted(row, np.arange(len(similarities)))
    return np.asarray(column[order][starts[:, None] + np.arange(count)], dtype=np.int64)


def _nearest_but_itself_first(
    similarities: NDArray[np.float32], start: int, count: int
) -> NDArray[np.int64]:
    rows = np.arange(len(similarities))
    similarities[rows, start + rows] = np.inf
    return nearest(similarities, count)
