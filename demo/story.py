"""The demonstration: draws people, enrolls some, and searches for them and for strangers."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from demo.data_sets import read_spec
from demo.findings import OPERATING_POINT, Finding, Findings
from demo.service import ANSWER_SECONDS
from gmn_client import Client
from gmn_client.commands.bulk import SourceCrop, enroll_crops
from gmn_client.commands.common import progress_bar
from model.problems import InputProblem

# Small requests, so that a busy machine answers each of them within moments.
CROPS_AT_ONCE = 30
QUERIES_PER_LINE = 20
Say = Callable[[str], object]


@dataclass(frozen=True)
class Cast:
    """The people of the demonstration.

    Attributes:
        gallery: every crop of the known people, from all cameras but the first.
        known: one crop of each known person from the first camera.
        strangers: the same of people who are not enrolled.
    """

    gallery: Sequence[SourceCrop]
    known: Sequence[SourceCrop]
    strangers: Sequence[SourceCrop]

    def in_mixed_order(self, seed: int) -> list[SourceCrop]:
        """Return all queries, known people and strangers mixed by the seed, as in use."""
        queries = [*self.known, *self.strangers]
        random.Random(seed).shuffle(queries)
        return queries


def draw_cast(
    kind: Literal["rendered", "synthetic"],
    seed: int,
    people: int,
    strangers: int,
    cameras: int,
) -> Cast:
    """Draw the cast; the same arguments give the same pictures.

    The first of at least two cameras takes the queries, and the others fill the gallery.

    Args:
        kind: rendered people look like people; synthetic ones are drawn ten times as fast.
    """
    spec = f"{kind}:{seed},identities={people + strangers},domains=1,cameras={cameras}"
    crops = read_spec(spec).crops
    known = sorted({str(crop.identity) for crop in crops})[:people]
    first_camera = min(str(crop.camera) for crop in crops)
    # The first crop of each person asks, so it enters last.
    queries = {crop.identity: crop for crop in reversed(crops) if crop.camera == first_camera}
    return Cast(
        [crop for crop in crops if crop.identity in known and crop.camera != first_camera],
        [crop for crop in queries.values() if crop.identity in known],
        [crop for crop in queries.values() if crop.identity not in known],
    )


def enroll_all(
    client: Client, crops: Sequence[SourceCrop], say: Say | None = None
) -> dict[str, SourceCrop]:
    """Enroll crops, and return them by crop id.

    Args:
        say: called with a line on the progress; None shows a bar on a terminal.

    Raises:
        InputProblem: the service refuses a crop.
    """
    enrolled: dict[str, SourceCrop] = {}
    at_once = CROPS_AT_ONCE if say else max(1, len(crops))
    for start in range(0, len(crops), at_once):
        for crop, outcome in enroll_crops(client, crops[start : start + at_once]):
            if outcome.problem is not None:
                raise InputProblem(f"{crop.name}: {outcome.problem.detail}")
            if outcome.crop_id is not None:
                enrolled[outcome.crop_id] = crop
        if say:
            say(f"Enrolled {len(enrolled)} of {len(crops)} crops.")
    return enrolled


def play(
    client: Client,
    cast: Cast,
    seed: int,
    say: Say,
) -> Findings:
    """Fill an empty gallery, and search it for everyone, known people and strangers mixed.

    Args:
        client: of an empty gallery.
        cast: the people.
        seed: of the order of the queries.
        say: called with a line on each step.

    Raises:
        InputProblem: the service refuses a drawn crop.
    """
    gallery = enroll_all(client, cast.gallery, say)
    say("Fitting the thresholds of the gallery.")
    with progress_bar() as bar:
        bar.add_task("Fitting the thresholds", total=None)
        _fit_thresholds(client, len(gallery))
    findings = []
    queries = cast.in_mixed_order(seed)
    for number, crop in enumerate(queries, 1):
        answer = client.query(crop.read(), top_k=len(gallery), operating_point=OPERATING_POINT)
        findings.append(Finding(crop, crop in cast.known, answer))
        if number % QUERIES_PER_LINE == 0 or number == len(queries):
            say(f"Asked for {number} of {len(queries)} people.")
    thresholds = client.gallery().calibration.basis
    # The service may stay up, and then behaves as every other.
    client.change_gallery(calibration="on")
    return Findings(findings, seed, gallery, thresholds, client.model())


def _fit_thresholds(client: Client, crops: int) -> None:
    """Wait until the thresholds are fitted to all these crops, and freeze them.

    A service goes on fitting them to its searches, at times that depend on the load of the machine.
    Frozen, they judge all queries of a demonstration alike. A gallery of too few people has none.
    """
    latest = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < latest:
        calibration = client.gallery().calibration
        if calibration.reason == "few_identities" or calibration.crops == crops:
            break
        if calibration.crops:
            # They were fitted to the first crops, while the others were being enrolled.
            client.change_gallery(calibration="reset")
        time.sleep(0.1)
    client.change_gallery(calibration="frozen")
