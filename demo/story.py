"""Plays the demonstration against a running service: enroll, query, judge."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from demo.findings import Calibration, Finding, Findings, RankedPicture
from demo.people import Cast, DrawnCrop
from gmn_client import Client
from gmn_client.answers import RankedCrop
from model.problems import InputProblem
from service.commands.bulk import enroll_crops
from service.commands.common import progress_bar
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
    enrolled = _enroll(client, cast.gallery)
    seconds = time.perf_counter() - started
    findings = _ask(client, cast, enrolled, seed)
    model, fitted = client.model(), client.gallery().calibration
    return Findings(
        findings=findings,
        seed=seed,
        crops=len(enrolled),
        people=len({crop.identity for crop in cast.gallery}),
        cameras=len({crop.camera for crop in cast.gallery}),
        enroll_seconds=seconds,
        calibration=Calibration(
            OPERATING_POINT,
            ASKED,
            fitted.state,
            fitted.searches,
        ),
        artefact=model.artefact,
        terms=str(model.provenance.get("terms", "unknown")),
        scoring=model.default_scoring,
        model=model.embedding_fingerprint[:12],
        device=model.device,
    )


def _enroll(client: Client, crops: Iterable[DrawnCrop]) -> dict[str, DrawnCrop]:
    """The gallery by crop id."""
    by_name = {crop.name: crop for crop in crops}
    sources = (crop.as_source() for crop in by_name.values())
    enrolled: dict[str, DrawnCrop] = {}
    with progress_bar() as progress:
        task = progress.add_task("Enrolling", total=len(by_name))
        for crop, one in enroll_crops(client, sources):
            if one.problem is not None:
                raise InputProblem(f"{crop.name}: {one.problem.detail}")
            enrolled[one.crop_id] = by_name[crop.name]
            progress.advance(task)
    return enrolled


def _ask(
    client: Client, cast: Cast, enrolled: dict[str, DrawnCrop], seed: int
) -> tuple[Finding, ...]:
    known = {crop.identity for crop in cast.gallery}
    queries = cast.in_mixed_order(seed)
    findings = []
    # One at a time: which thresholds judge a query then depends on the order alone.
    with progress_bar() as progress:
        task = progress.add_task("Querying", total=len(queries))
        for crop in queries:
            ranking = client.query(crop.png, top_k=len(enrolled), operating_point=OPERATING_POINT)
            by_cosine = sorted(ranking.results, key=lambda row: -row.cosine)
            findings.append(
                Finding(
                    query=crop,
                    enrolled=crop.identity in known,
                    verdict=ranking.verdict,
                    ranking=_pictures(crop, ranking.results[:PICTURES], enrolled),
                    ranked=_metrics(crop, ranking.results),
                    cosine=_metrics(crop, by_cosine),
                    thresholds=ranking.calibration_version,
                    calibration=ranking.calibration.state,
                    milliseconds=ranking.timing_ms.total,
                )
            )
            progress.advance(task)
    return tuple(findings)


def _metrics(query: DrawnCrop, rows: Sequence[RankedCrop]) -> dict[str, float] | None:
    labels = [(row.identity, row.camera) for row in rows]
    return rank_figures(query.identity, query.camera, labels)


def _pictures(
    query: DrawnCrop, rows: Sequence[RankedCrop], enrolled: dict[str, DrawnCrop]
) -> tuple[RankedPicture, ...]:
    return tuple(
        RankedPicture(
            rank=row.rank,
            crop=enrolled[row.crop_id],
            right=row.identity == query.identity,
            probability=row.probability,
            verdict=row.verdict,
        )
        for row in rows
    )
