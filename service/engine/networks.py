"""The artefact's networks; called from the device thread alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from model.artefact import Artefact
from model.metric_network import MetricNetwork
from model.pair_scoring import score_pairs
from model.problems import InputProblem
from service.engine.device_faults import with_room
from service.engine.halving import in_halves
from service.engine.runtimes import EmbeddingRuntime
from service.errors import DeviceFull

log = logging.getLogger(__name__)
# M-Net always sees this many pairs, padded where there are fewer: the last digits of a matrix
# product depend on its height, and a score must not depend on how many others were asked for.
PAIRS_PER_PASS = 128


class Networks:
    """Embeds crops and scores pairs; an artefact without M-Net only embeds.

    Attributes:
        device: where the networks live.
        runtime: computes the features; M-Net is computed by PyTorch in float32.
    """

    def __init__(self, artefact: Artefact, runtime: EmbeddingRuntime) -> None:
        self.device = runtime.device
        self.runtime = runtime
        self._dimension = artefact.description.embedder.dimension
        self._preprocessing = artefact.description.preprocessing
        network = artefact.metric_network
        self._metric_network = network and network.to(self.device).requires_grad_(False)

    @property
    def dimension(self) -> int:
        """d, the size of a feature."""
        return self._dimension

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features `(B, d)` float32 of resized crops `(B, height, width, 3)` uint8 RGB."""
        return self.runtime.embed(crops)

    def pair_scores(
        self, queries: NDArray[np.float32], candidates: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """M-Net's score of every candidate, the mean over the queries.

        Args:
            queries: features `(m, d)` of one person.
            candidates: features `(n, d)`.

        Returns:
            `(n,)` float32, each independent of the other candidates.

        Raises:
            DeviceFull: there is no room for one pass.
        """
        if self._metric_network is None:
            raise RuntimeError("an artefact without M-Net scores no pairs")
        asked = with_room(lambda: torch.from_numpy(queries).to(self.device))
        scores = np.empty(len(candidates), np.float32)
        for start in range(0, len(candidates), PAIRS_PER_PASS):
            part = candidates[start : start + PAIRS_PER_PASS]
            padded = np.ones((PAIRS_PER_PASS, candidates.shape[1]), np.float32)
            padded[: len(part)] = part
            # Never in smaller passes: a pass that has no room is one of 128 pairs.
            block = with_room(partial(self._pass, self._metric_network, asked, padded))
            scores[start : start + len(part)] = block[: len(part)]
        return scores

    def pair_scores_or_none(
        self, queries: NDArray[np.float32], candidates: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """`pair_scores`, with NaN for a candidate that no pass gets over; the others are theirs.

        Raises:
            Exception: where every candidate is such a one, it is the query's fault, or the pass's.
        """
        scores = np.full(len(candidates), np.nan, np.float32)
        failed: list[Exception] = []

        def score(rows: Sequence[int]) -> None:
            part = slice(rows[0], rows[-1] + 1)
            scores[part] = self.pair_scores(queries, candidates[part])

        if len(candidates):
            in_halves(range(len(candidates)), score, lambda _, error: failed.append(error))
        if failed and (len(failed) == len(candidates) or isinstance(failed[0], DeviceFull)):
            raise failed[0]
        if failed:
            log.error("%d candidates cannot be scored", len(failed), exc_info=failed[0])
        return scores

    def _pass(
        self, network: MetricNetwork, queries: torch.Tensor, padded: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        gallery = torch.from_numpy(padded).to(self.device)
        block = score_pairs(network, queries, gallery, PAIRS_PER_PASS)
        return np.asarray(block.double().mean(dim=0).cpu().numpy(), np.float64)

    def probe(self) -> None:
        """Embeds a grey crop, and scores it where there is M-Net.

        Raises:
            InputProblem: where the outcome is not finite; such an artefact cannot be served.
        """
        shape = (1, self._preprocessing.height, self._preprocessing.width, 3)
        feature = self.embed(np.full(shape, 128, np.uint8))
        found = [feature]
        if self._metric_network is not None:
            found.append(self.pair_scores(feature, feature))
        if not all(np.isfinite(one).all() for one in found):
            raise InputProblem(
                f"the artefact gives numbers that are not finite on {self.device}; train it again, "
                "or serve with GMN_DTYPE=float32"
            )
