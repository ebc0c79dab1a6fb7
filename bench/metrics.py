"""`gmn bench metrics`: the ranks of the true matches alone, against sorting the whole gallery.

Both sides read the same scores, so the similarity product is in neither. The ratio is taken at a
size at which both can be run; ours then runs at MSMT17's size, in a process of its own so that its
peak memory is known, with the similarity product reported apart.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.result import BenchResult, compare
from training.evaluation.ranking import PairLabels, QueryMetrics, ScoreRows, rank_queries
from training.evaluation.scoring import cosine_rows

REACH = 5.0
ROUNDS = 5
QUERIES, GALLERY, PEOPLE = 200, 20_000, 750
MSMT17_QUERIES, MSMT17_GALLERY, MSMT17_PEOPLE = 11_659, 82_161, 3_060
CAMERAS = 15
DIMENSION = 128


def bench_metrics() -> BenchResult:
    """Queries ranked a second, ours divided by the straightforward implementation's."""
    features, labels = drawn_search(QUERIES, GALLERY, PEOPLE)
    scores = cosine_rows(features[:QUERIES], features[QUERIES:])(slice(0, QUERIES))
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(QUERIES / _seconds(lambda: rank_queries(lambda rows: scores[rows], labels)))
        theirs.append(QUERIES / _seconds(lambda: straightforward_means(scores, labels)))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        at_size = pool.apply(measure_msmt17_size)
    details = {
        "queries": QUERIES,
        "gallery": GALLERY,
        "ours_queries_per_second": round(float(np.median(ours))),
        "straightforward_queries_per_second": round(float(np.median(theirs))),
    }
    return compare("metrics", ours, theirs, REACH, details | at_size)


def measure_msmt17_size() -> dict[str, Any]:
    """Seconds and megabytes of a whole ranking at MSMT17's size; for a process of its own."""
    features, labels = drawn_search(MSMT17_QUERIES, MSMT17_GALLERY, MSMT17_PEOPLE)
    before = _resident_bytes()
    product = 0.0

    def timed(rows: slice) -> NDArray[np.float32]:
        nonlocal product
        start = time.perf_counter()
        scores = score_rows(rows)
        product += time.perf_counter() - start
        return scores

    start = time.perf_counter()
    score_rows: ScoreRows = cosine_rows(features[:MSMT17_QUERIES], features[MSMT17_QUERIES:])
    means = rank_queries(timed, labels).means()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "msmt17_size": f"{MSMT17_QUERIES} x {MSMT17_GALLERY}, {DIMENSION} dimensions",
        "msmt17_ranking_seconds": round(seconds - product, 2),
        "msmt17_similarity_product_seconds": round(product, 2),
        "msmt17_megabytes_beyond_features": round((peak - before) / 1e6),
        "msmt17_drawn_mAP": round(means["mAP"], 3),
    }


def drawn_search(
    queries: int, gallery: int, people: int, seed: int = 0
) -> tuple[NDArray[np.float32], PairLabels]:
    """Features `(queries + gallery, 128)` around a point per person, and their labels."""
    random = np.random.default_rng(seed)
    count = queries + gallery
    identities = np.concatenate(
        [np.arange(queries) % people, random.integers(0, people, gallery)], dtype=np.int64
    )
    cameras = random.integers(0, CAMERAS, count)
    features = random.standard_normal((count, DIMENSION), dtype=np.float32)
    centres = random.standard_normal((people, DIMENSION), dtype=np.float32)
    for start in range(0, count, 4096):
        rows = slice(start, start + 4096)
        features[rows] += 0.6 * centres[identities[rows]]
    return features, PairLabels(
        identities[:queries], cameras[:queries], identities[queries:], cameras[queries:]
    )


def straightforward_means(scores: NDArray[np.float32], labels: PairLabels) -> dict[str, float]:
    """The same metrics as the protocol is usually written: sort the gallery, walk down it."""
    step, trapezoid, penalty, first = [], [], [], []
    for query, row in enumerate(scores):
        order = np.argsort(-row, kind="stable")
        same = labels.gallery_identities[order] == labels.query_identities[query]
        own_camera = labels.gallery_cameras[order] == labels.query_cameras[query]
        kept = (labels.gallery_identities[order] >= 0) & ~(same & own_camera)
        hits = same[kept]
        if not hits.any():
            continue
        ranks = np.flatnonzero(hits) + 1
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        earlier = np.concatenate([[1.0], precision])[ranks - 1]
        step.append(precision[ranks - 1].mean())
        trapezoid.append(((precision[ranks - 1] + earlier) / 2).mean())
        penalty.append(len(ranks) / ranks[-1])
        first.append(ranks[0])
    return QueryMetrics(
        np.arange(len(first)),
        np.array(step),
        np.array(trapezoid),
        np.array(penalty),
        np.array(first),
        len(scores) - len(first),
    ).means()


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()
