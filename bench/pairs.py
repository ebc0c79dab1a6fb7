"""`gmn bench pairs`: M-Net's scores of many pairs against the machine's matrix product.

The product alone multiplies matrices of the shape of M-Net's first layer for one chunk of pairs.
The scores have all the rest: pair features, bias, activation, the last layer. Both are counted in
multiply-adds a second of the processor: on one thread, which the service gives M-Net, other work of
the machine takes none of these.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.result import ROUNDS, BenchResult, compare
from model.artefact import Artefact, load_artefact, resolve_artefact
from model.metric_network import MetricNetwork, PairScorer, pairs_in_a_chunk
from model.torch_runtime import TorchRuntime
from service.engine.networks import Networks
from training.cost import pair_cost

REACH = 0.9
CPU = torch.device("cpu")
QUERIES = 32
GALLERY = 2048
CANDIDATES = 100
# Queries and gallery crops of 10⁴, 10⁵ and 10⁶ pairs.
SIZES = ((100, 100), (250, 400), (1000, 1000))


def bench_pairs(artefact: str | None = None) -> BenchResult:
    """M-Net's multiply-adds a second over the matrix product's, on one core in float32.

    `details` has the time in which the service scores 100 candidates of a query, and the peak of
    memory by pairs.

    Raises:
        InputProblem: the artefact has no M-Net.
    """
    loaded = load_artefact(resolve_artefact(artefact or "bundled"))
    network = loaded.require_metric_network(artefact or "bundled")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        scored, multiplied, details = _measure(loaded, network)
    finally:
        torch.set_num_threads(threads)
    return compare("pairs", scored, multiplied, REACH, details)


def _measure(
    artefact: Artefact, network: MetricNetwork
) -> tuple[list[float], list[float], dict[str, Any]]:
    """Multiply-adds a second by round, of the scores and of the product alone; and details."""
    # This comes first, as memory that a round has freed would hide the needs of a size.
    memory = {str(asked * held): _peak_mib(network, asked, held) for asked, held in SIZES}
    scorer = PairScorer(network)
    height = pairs_in_a_chunk(CPU)
    width = network.config.hidden if network.config.layers == "two" else 2
    gallery = torch.randn(GALLERY, network.dimension)
    left = torch.rand(height, network.dimension)
    right = torch.rand(network.dimension, width)
    out = torch.empty(height, width)
    chunks = max(1, QUERIES * GALLERY // height)

    def score() -> None:
        scorer.scores(gallery[:QUERIES], gallery)

    def multiply() -> None:
        for _ in range(chunks):
            torch.mm(left, right, out=out)

    pairs = []
    multiplied = []
    # The first round does not count.
    for number in range(ROUNDS + 1):
        score_seconds = _processor_seconds(score)
        product_seconds = _processor_seconds(multiply)
        if number:
            pairs.append(QUERIES * GALLERY / score_seconds)
            multiplied.append(chunks * out.numel() * network.dimension / product_seconds)
    cost = pair_cost(network.dimension, network.config).multiply_adds
    scored = [cost * pace for pace in pairs]
    details = {
        "pairs_per_second": round(statistics.median(pairs)),
        "scores_gflops": round(2e-9 * statistics.median(scored), 1),
        "product_gflops": round(2e-9 * statistics.median(multiplied), 1),
        "dimension": network.dimension,
        "hidden": network.config.hidden,
        "pairs_in_a_chunk": height,
        "served_ms_of_100_candidates": _served_ms(artefact),
        "peak_mib_by_pairs": memory,
    }
    return scored, multiplied, details


def _served_ms(artefact: Artefact) -> float:
    """Milliseconds in which the service scores 100 candidates, the median of some rounds."""
    networks = Networks(artefact, TorchRuntime(artefact, "float32"))
    candidates = torch.randn(CANDIDATES, networks.dimension).numpy()

    def score() -> None:
        networks.pair_scores(candidates[:1], candidates)

    seconds = [_processor_seconds(score) for _ in range(20 * ROUNDS)]
    return round(1e3 * statistics.median(seconds), 3)


def _processor_seconds(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _peak_mib(
    network: MetricNetwork,
    queries: int,
    gallery: int,
) -> float:
    """Return the peak of this process's memory while it scores, above its memory before."""
    scorer = PairScorer(network)
    drawn = torch.randn(queries + gallery, network.dimension)
    # Resets the peak.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _mebibytes("VmRSS")
    scorer.scores(drawn[:queries], drawn[queries:])
    return round(_mebibytes("VmHWM") - before, 1)


def _mebibytes(name: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)[0]) / 1024
