"""Plays the demonstration against a running service: enrol, query, judge."""

from __future__ import annotations

import time
from collections.abc import Iterable

from demo.findings import Finding, Findings, RankedPicture
from demo.people import Cast, DrawnCrop
from model.problems import InputProblem
from service.client import Client, Ranking
from service.client.bulk import enroll_crops
from service.client.in_flight import in_flight
from service.commands.connection import progress_bar

PICTURES = 8
AT_ONCE = 2


def play(client: Client, cast: Cast) -> Findings:
    """Enrols the gallery and asks for everyone.

    Raises:
        InputProblem: if the service refuses a drawn crop.
    """
    started = time.perf_counter()
    enrolled = _enroll(client, cast.gallery)
    seconds = time.perf_counter() - started
    findings = _ask(client, cast, enrolled)
    model = client.model()
    return Findings(
        findings=findings,
        crops=len(enrolled),
        people=len({crop.identity for crop in cast.gallery}),
        cameras=len({crop.camera for crop in cast.gallery}),
        enrol_seconds=seconds,
        model=model.embedding_fingerprint[:12],
        device=model.device or "unknown",
    )


def _enroll(client: Client, crops: Iterable[DrawnCrop]) -> dict[str, DrawnCrop]:
    """The gallery by crop id."""
    by_name = {crop.name: crop for crop in crops}
    sources = (crop.as_source() for crop in by_name.values())
    enrolled: dict[str, DrawnCrop] = {}
    with progress_bar() as progress:
        task = progress.add_task("Enrolling", total=len(by_name))
        for outcome in enroll_crops(client, sources):
            if outcome.crop_id is None:
                raise InputProblem(f"{outcome.name}: {outcome.problem}")
            enrolled[outcome.crop_id] = by_name[outcome.name]
            progress.advance(task)
    return enrolled


def _ask(client: Client, cast: Cast, enrolled: dict[str, DrawnCrop]) -> tuple[Finding, ...]:
    known = {crop.identity for crop in cast.gallery}

    def ask(crop: DrawnCrop) -> Finding:
        ranking = client.query(crop.png, top_k=PICTURES, scoring="mnet")
        by_cosine = client.query(crop.png, top_k=1, scoring="cosine").results
        return Finding(
            query=crop,
            enrolled=crop.identity in known,
            verdict=ranking.verdict,
            ranking=_pictures(crop, ranking, enrolled),
            cosine_right=bool(by_cosine) and by_cosine[0].identity == crop.identity,
            milliseconds=ranking.timing_ms.get("total", 0.0),
        )

    everyone = (*cast.known, *cast.strangers)
    with progress_bar() as progress:
        task = progress.add_task("Querying", total=len(everyone))
        findings = []
        for finding in in_flight(ask, everyone, AT_ONCE):
            findings.append(finding)
            progress.advance(task)
    return tuple(findings)


def _pictures(
    query: DrawnCrop, ranking: Ranking, enrolled: dict[str, DrawnCrop]
) -> tuple[RankedPicture, ...]:
    return tuple(
        RankedPicture(
            rank=row.rank,
            crop=enrolled[row.crop_id],
            right=row.identity == query.identity,
            probability=row.probability,
            verdict=row.verdict,
        )
        for row in ranking.results
    )
