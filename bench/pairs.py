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
from model.artefact import load_artefact, resolve_artefact
from model.metric_network import MetricNetwork, PairScorer, pairs_in_a_chunk
from training.cost import pair_cost

REACH = 0.9
QUERIES = 32
GALLERY = 2048
MANY = 1000


def bench_pairs(artefact: str | None = None) -> BenchResult:
    """M-Net's multiply-adds a second over the matrix product's, on one core in float32.

    `details` has the peak of memory at a million pairs.

    Raises:
        InputProblem: the artefact has no M-Net.
    """
    name = artefact or "bundled"
    network = load_artefact(resolve_artefact(name)).require_metric_network(name)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure(network)
    finally:
        torch.set_num_threads(threads)


def _measure(network: MetricNetwork) -> BenchResult:
    # This comes first, as memory that a round has freed would hide the needs of the million.
    peak = _peak_mib(network)
    scorer = PairScorer(network)
    height = pairs_in_a_chunk(torch.device("cpu"))
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
    details: dict[str, Any] = {
        "pairs_per_second": round(statistics.median(pairs)),
        "scores_gflops": round(2e-9 * statistics.median(scored), 1),
        "product_gflops": round(2e-9 * statistics.median(multiplied), 1),
        "dimension": network.dimension,
        "hidden": network.config.hidden,
        "peak_mib_of_a_million_pairs": peak,
    }
    return compare("pairs", scored, multiplied, REACH, details)


def _processor_seconds(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _peak_mib(network: MetricNetwork) -> float:
    """Return the peak of this process's memory while it scores, above its memory before."""
    scorer = PairScorer(network)
    drawn = torch.randn(2, MANY, network.dimension)
    # Resets the peak.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _mebibytes("VmRSS")
    scorer.scores(*drawn)
    return round(_mebibytes("VmHWM") - before, 1)


def _mebibytes(name: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)[0]) / 1024
