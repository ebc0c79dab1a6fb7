"""`gmn bench pairs`: M-Net's scores of many pairs against the machine's matrix product.

The other side multiplies matrices of the shape of M-Net's first layer for one chunk of pairs. M-Net
computes everything else as well: pair features, bias, activation and the last layer. Both sides are
counted in multiply-adds per second of processor time on one thread, as the service gives M-Net one
thread, and other work of the machine takes none of this time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bench.result import BenchResult, alternate, compare, memory_bytes
from model.artefact import load_artefact, resolve_artefact
from model.metric_network import PairScorer, pairs_in_a_chunk
from training.cost import pair_cost

QUERIES = 32
GALLERY = 2048


def bench_pairs(artefact: str | None) -> BenchResult:
    """Divide the pace of M-Net by that of the matrix product, on one core in float32.

    Raises:
        InputProblem: the artefact has no M-Net.
    """
    name = artefact or "bundled"
    network = load_artefact(resolve_artefact(name)).require_metric_network(name)
    config = network.config
    scorer = PairScorer(network)
    gallery = torch.randn(GALLERY, network.dimension)
    pairs = QUERIES * GALLERY
    cost = pair_cost(network.dimension, config).multiply_adds

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # Measure memory first: memory that a round has freed would hide the peak.
        peak = _peak_mib(scorer)

        height = pairs_in_a_chunk(torch.device("cpu"))
        width = config.hidden if config.layers == "two" else 2
        left = torch.rand(height, network.dimension)
        right = torch.rand(network.dimension, width)
        product = torch.empty(height, width)
        chunks = max(1, pairs // height)

        def multiply() -> None:
            for _ in range(chunks):
                torch.mm(left, right, out=product)

        rounds = alternate(
            lambda: _multiply_adds_per_second(
                cost * pairs, lambda: scorer.scores(gallery[:QUERIES], gallery)
            ),
            lambda: _multiply_adds_per_second(
                chunks * product.numel() * network.dimension, multiply
            ),
        )
    finally:
        torch.set_num_threads(threads)

    pace = statistics.median(scored for scored, _ in rounds)
    details = {
        "artefact": name,
        "pairs_per_second": round(pace / cost),
        "peak_mib_of_a_million_pairs": peak,
    }
    return compare("pairs", rounds, 0.9, details)


def _multiply_adds_per_second(
    multiply_adds: int,
    work: Callable[[], object],
) -> float:
    started = time.process_time()
    work()
    return multiply_adds / (time.process_time() - started)


def _peak_mib(scorer: PairScorer) -> float:
    """Return the rise of this process's memory while it scores a million pairs, in MiB."""
    queries, gallery = torch.randn(2, 1000, scorer.dimension)
    # Writing 5 resets VmHWM, the peak of VmRSS.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = memory_bytes("VmRSS")
    scorer.scores(queries, gallery)
    return round((memory_bytes("VmHWM") - before) / 2**20, 1)
