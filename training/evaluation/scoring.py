"""Score searches by cosine and M-Net, a block of queries at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import torch

from model.arrays import Floats
from model.calibration import Scoring
from model.metric_network import MetricNetwork, score_pairs
from training.evaluation.embedding import ProgressBar, SearchFeatures, no_bar
from training.evaluation.metrics import PairLabels, ScoreRows
from training.evaluation.searches import Search

ROWS_PER_BLOCK = 16
# Gallery features that are scored at once; a copy of unit length is made of them.
COLUMNS = 4096
IMPOSTORS_TO_FIT = 200_000


def cosine_rows(queries: Floats, gallery: Floats) -> ScoreRows:
    """Return a function that computes cosines of features `(Q, d)` and `(G, d)`.

    A large gallery is not copied to have unit length: its scores are divided by the lengths.
    """
    shrink = (1.0 / lengths(gallery)).astype(np.float32)

    def rows_of(rows: slice) -> Floats:
        scores = unit_length(queries[rows]) @ gallery.T
        scores *= shrink
        return np.asarray(scores, dtype=np.float32)

    return rows_of


def lengths(features: Floats) -> Floats:
    """Return the lengths `(n,)` of features `(n, d)`; a zero feature gets a tiny length."""
    squares = np.einsum("nd,nd->n", features, features)
    return np.asarray(np.maximum(np.sqrt(squares), 1e-12), dtype=np.float32)


def unit_length(features: Floats) -> Floats:
    """Divide features `(n, d)` by their length; a zero feature stays zero."""
    return np.asarray(features / lengths(features)[:, None], dtype=np.float32)


@dataclass(frozen=True)
class SearchScores:
    """The scores of one data set's search.

    Attributes:
        cosine, mnet: functions that return the scores of some queries against the gallery; `mnet`
            is None for an artefact without M-Net.
        labels: the labels of queries and gallery.
    """

    cosine: ScoreRows
    mnet: ScoreRows | None
    labels: PairLabels

    @property
    def by_scoring(self) -> dict[Scoring, ScoreRows]:
        """The scores of each scoring."""
        rows: dict[Scoring, ScoreRows] = {"cosine": self.cosine}
        if self.mnet is not None:
            rows["mnet"] = self.mnet
        return rows

    def impostor_scores(self, scoring: Scoring) -> Iterator[Floats]:
        """Yield the scores of all impostor pairs by one scoring, a block at a time."""
        scores = self.by_scoring[scoring]
        return (scores(rows)[impostor] for rows, _, impostor in self.labels.pairs())


def labelled_scores(
    domains: Sequence[SearchScores],
    impostors: int,
) -> tuple[Floats, Floats]:
    """Return the scores of all genuine pairs, and of at most 200,000 random impostor pairs.

    Args:
        domains: the scores of each data set; M-Net's are used if all of them have any.
        impostors: the number of all their impostor pairs.

    Returns:
        Scores of genuine pairs `(n, k)` and of impostor pairs `(m, k)`, for each of k scorings.
    """
    random = np.random.default_rng(0)
    chosen = np.sort(random.choice(impostors, min(impostors, IMPOSTORS_TO_FIT), replace=False))
    scored = min(len(domain.by_scoring) for domain in domains)
    genuine_scores = []
    impostor_scores = []
    skipped = 0
    for domain in domains:
        for rows, genuine, impostor in domain.labels.pairs():
            inside = np.flatnonzero(impostor)
            first, last = np.searchsorted(chosen, (skipped, skipped + len(inside)))
            query, other = np.divmod(inside[chosen[first:last] - skipped], impostor.shape[1])
            skipped += len(inside)
            by_scoring = [scores(rows) for scores in domain.by_scoring.values()]
            scores = np.stack(by_scoring[:scored], axis=-1)
            genuine_scores.append(scores[genuine])
            impostor_scores.append(scores[query, other])
    return np.concatenate(genuine_scores), np.concatenate(impostor_scores)


@contextmanager
def open_scores(
    metric_network: MetricNetwork | None,
    features: SearchFeatures,
    labels: PairLabels,
    progress_bar: ProgressBar = no_bar,
    folder: Path | None = None,
) -> Iterator[SearchScores]:
    """Score a search; M-Net's scores are computed once into a temporary file, and read from there.

    Args:
        metric_network: M-Net in evaluation mode, on any device; None for an artefact without it.
        features, labels: features and labels of the search.
        progress_bar: shows the progress of M-Net.
        folder: the folder for the file. By default it is TMPDIR or /var/tmp, since large sets have
            gigabytes of scores and /tmp is often in memory.
    """
    cosine = cosine_rows(*features)
    if metric_network is None:
        yield SearchScores(cosine, None, labels)
        return
    device = next(metric_network.parameters()).device
    queries = torch.from_numpy(features.queries)
    gallery = torch.from_numpy(features.gallery).to(device)
    # The pages of a memory map would count as memory of this process.
    with TemporaryFile(prefix=".gmn-scores-", dir=folder or folder_on_disk()) as file:
        with progress_bar("Scoring", len(queries)) as progress:
            for block in torch.split(queries, ROWS_PER_BLOCK):
                scores = [
                    score_pairs(metric_network, block.to(device), columns).cpu()
                    for columns in torch.split(gallery, COLUMNS)
                ]
                file.write(torch.cat(scores, dim=1).numpy().astype(np.float32).tobytes())
                progress(len(block))
        file.flush()

        def mnet(rows: slice) -> Floats:
            start, stop, _ = rows.indices(len(queries))
            file.seek(4 * start * len(gallery))
            count = (stop - start) * len(gallery)
            return np.fromfile(file, np.float32, count).reshape(stop - start, len(gallery))

        yield SearchScores(cosine, mnet, labels)


@contextmanager
def score_searches(
    metric_network: MetricNetwork | None,
    features: Mapping[str, SearchFeatures],
    searches: Mapping[str, Search],
    progress_bar: ProgressBar = no_bar,
    folder: Path | None = None,
) -> Iterator[dict[str, SearchScores]]:
    """Score several searches with `open_scores`, by the names of their data sets."""
    with ExitStack() as opened:
        scores = {}
        for name, embedded in features.items():
            labels = searches[name].labels()
            scored = open_scores(metric_network, embedded, labels, progress_bar, folder)
            scores[name] = opened.enter_context(scored)
        yield scores


def folder_on_disk() -> str | None:
    """Return a folder for large temporary files; None leaves the choice to `tempfile`."""
    usable = "TMPDIR" not in os.environ and os.access("/var/tmp", os.W_OK)
    return "/var/tmp" if usable else None
