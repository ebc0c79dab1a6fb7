"""Plays the demonstration against a running service: enroll, query, judge."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from demo.findings import Finding, Findings
from demo.people import Cast, enroll_all
from gmn_client import Client
from gmn_client.models import RankedCrop
from service.commands.common import progress_bar
from service.commands.sources import SourceCrop
from training.evaluation.served import rank_figures

PICTURES = 8
OPERATING_POINT, ASKED = "far_1e-2", 0.01


def play(client: Client, cast: Cast, seed: int) -> Findings:
    """Enrolls the gallery and asks for everyone, known people and strangers mixed.

    Args:
        client: of an empty gallery.
        cast: who is enrolled and who is asked for.
        seed: of the order of the queries.

    Raises:
        InputProblem: if the service refuses a drawn crop.
    """
    started = time.perf_counter()
    enrolled = enroll_all(client, cast.gallery)
    seconds = time.perf_counter() - started
    queries, findings = cast.in_mixed_order(seed), []
    # One at a time: which thresholds judge a query then depends on the order alone.
    with progress_bar() as progress:
        for crop in progress.track(queries, description="Querying"):
            findings.append(_ask(client, crop, crop in cast.known, enrolled))
    calibration = client.gallery().calibration
    return Findings(findings, seed, cast.gallery, seconds, calibration, client.model())


def _ask(
    client: Client, crop: SourceCrop, known: bool, enrolled: Mapping[str, SourceCrop]
) -> Finding:
    answer = client.query(crop.read(), top_k=len(enrolled), operating_point=OPERATING_POINT)
    shown = [(row, enrolled[row.crop_id]) for row in answer.results[:PICTURES]]
    by_cosine = sorted(answer.results, key=lambda row: -row.cosine)
    orders = {answer.scoring: answer.results, "cosine": by_cosine}
    metrics = {str(scoring): _metrics(crop, rows) for scoring, rows in orders.items()}
    return Finding(crop, known, answer, shown, metrics)


def _metrics(query: SourceCrop, rows: Sequence[RankedCrop]) -> dict[str, float] | None:
    labels = [(row.identity, row.camera) for row in rows]
    return rank_figures(str(query.identity), str(query.camera), labels)
