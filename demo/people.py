"""Who appears in the demonstration: drawn people, some enrolled and some strangers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from gmn import read_spec
from gmn_client import Client
from model.problems import InputProblem
from service.commands.bulk import enroll_crops
from service.commands.common import progress_bar
from service.commands.sources import SourceCrop


@dataclass(frozen=True)
class Cast:
    """Who is enrolled and who is asked for.

    Attributes:
        gallery: every crop of the known people, from all cameras but the first.
        known: one crop of each known person from the first camera.
        strangers: the same of people who are not enrolled.
    """

    gallery: tuple[SourceCrop, ...]
    known: tuple[SourceCrop, ...]
    strangers: tuple[SourceCrop, ...]

    def in_mixed_order(self, seed: int) -> list[SourceCrop]:
        """All queries, known people and strangers mixed; the same seed gives the same order.

        A service that fits its thresholds to searches depends on their order, so an order by kind
        would decide the figures.
        """
        queries = [*self.known, *self.strangers]
        random.Random(seed).shuffle(queries)
        return queries


def draw_cast(seed: int, people: int, strangers: int, cameras: int) -> Cast:
    """Draws the cast; the same arguments give the same pictures.

    Args:
        seed: of the drawing.
        people: how many are enrolled.
        strangers: how many are not.
        cameras: how many there are, 2 or more; the first one asks, the others fill the gallery.
    """
    spec = f"synthetic:{seed},identities={people + strangers},domains=1,cameras={cameras}"
    crops = list(read_spec(spec))
    known = sorted({str(crop.identity) for crop in crops})[:people]
    first = min(str(crop.camera) for crop in crops)
    asking: dict[str | None, SourceCrop] = {}
    for crop in crops:
        if crop.camera == first:
            asking.setdefault(crop.identity, crop)
    return Cast(
        tuple(crop for crop in crops if crop.identity in known and crop.camera != first),
        tuple(crop for identity, crop in asking.items() if identity in known),
        tuple(crop for identity, crop in asking.items() if identity not in known),
    )


def enroll_all(client: Client, crops: Sequence[SourceCrop]) -> dict[str, SourceCrop]:
    """Enrolls drawn crops; returns them by crop id.

    Raises:
        InputProblem: if the service refuses one.
    """
    enrolled: dict[str, SourceCrop] = {}
    with progress_bar() as progress:
        task = progress.add_task("Enrolling", total=len(crops))
        for crop, sent in enroll_crops(client, crops):
            if sent.problem is not None:
                raise InputProblem(f"{crop.name}: {sent.problem.detail}")
            enrolled[sent.crop_id] = crop
            progress.advance(task)
    return enrolled
