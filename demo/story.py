"""The demonstration: draws people, enrolls some of them, asks for them and for strangers."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from demo.data_sets import read_spec
from demo.findings import OPERATING_POINT, Finding, Findings
from gmn_client import Client
from model.problems import InputProblem
from service.commands.bulk import SourceCrop, enroll_crops
from service.commands.common import progress_bar

PICTURES = 8


@dataclass(frozen=True)
class Cast:
    """People who are enrolled, and people who are asked for.

    Attributes:
        gallery: every crop of the known people, from all cameras but the first.
        known: one crop of each known person from the first camera.
        strangers: the same of people who are not enrolled.
    """

    gallery: tuple[SourceCrop, ...]
    known: tuple[SourceCrop, ...]
    strangers: tuple[SourceCrop, ...]

    def in_mixed_order(self, seed: int) -> list[SourceCrop]:
        """Return all queries, known people and strangers mixed by the seed.

        A service that fits its thresholds to searches depends on their order, so an order by kind
        would decide the figures.
        """
        queries = [*self.known, *self.strangers]
        random.Random(seed).shuffle(queries)
        return queries


def draw_cast(
    seed: int,
    people: int,
    strangers: int,
    cameras: int,
) -> Cast:
    """Draw the cast; the same arguments give the same pictures.

    The first of at least two cameras asks, and the others fill the gallery.
    """
    spec = f"synthetic:{seed},identities={people + strangers},domains=1,cameras={cameras}"
    crops = list(read_spec(spec))
    known = sorted({str(crop.identity) for crop in crops})[:people]
    first = min(str(crop.camera) for crop in crops)
    gallery = [crop for crop in crops if crop.identity in known and crop.camera != first]
    queries: dict[str | None, SourceCrop] = {}
    for crop in crops:
        if crop.camera == first:
            queries.setdefault(crop.identity, crop)
    return Cast(
        gallery=tuple(gallery),
        known=tuple(crop for crop in queries.values() if crop.identity in known),
        strangers=tuple(crop for crop in queries.values() if crop.identity not in known),
    )


def enroll_all(client: Client, crops: Sequence[SourceCrop]) -> dict[str, SourceCrop]:
    """Enroll drawn crops, and return them by crop id.

    Raises:
        InputProblem: the service refuses a crop.
    """
    enrolled: dict[str, SourceCrop] = {}
    for crop, outcome in enroll_crops(client, crops):
        if outcome.problem is not None:
            raise InputProblem(f"{crop.name}: {outcome.problem.detail}")
        if outcome.crop_id is not None:
            enrolled[outcome.crop_id] = crop
    return enrolled


def play(
    client: Client,
    cast: Cast,
    seed: int,
) -> Findings:
    """Enroll the gallery and ask for everyone, known people and strangers mixed.

    Args:
        client: of an empty gallery.
        cast: the people.
        seed: of the order of the queries.

    Raises:
        InputProblem: the service refuses a drawn crop.
    """
    started = time.perf_counter()
    enrolled = enroll_all(client, cast.gallery)
    seconds = time.perf_counter() - started
    queries = cast.in_mixed_order(seed)
    findings = []
    # Queries are sent one at a time, so that the thresholds that judge them depend on their order
    # alone.
    with progress_bar() as progress:
        for crop in progress.track(queries, description="Querying"):
            findings.append(_ask(client, crop, crop in cast.known, enrolled))
    calibration = client.gallery().calibration
    return Findings(
        findings=findings,
        seed=seed,
        gallery=cast.gallery,
        enroll_seconds=seconds,
        calibration=calibration,
        model=client.model(),
    )


def _ask(
    client: Client,
    crop: SourceCrop,
    known: bool,
    enrolled: Mapping[str, SourceCrop],
) -> Finding:
    answer = client.query(crop.read(), top_k=len(enrolled), operating_point=OPERATING_POINT)
    shown = [(row, enrolled[row.crop_id]) for row in answer.results[:PICTURES]]
    return Finding(crop, known, answer, shown)
