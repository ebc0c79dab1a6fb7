"""Who appears in the demonstration: drawn people, some enrolled and some strangers."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass

from PIL import Image

from service.commands.sources import SourceCrop
from training.datasets.record import CropRecord
from training.datasets.synthetic import draw_people


@dataclass(frozen=True)
class DrawnCrop:
    """One drawn crop as an image file.

    Attributes:
        name: where in the drawing it is from.
        identity, camera: who and where.
        png: the file's bytes.
    """

    name: str
    identity: str
    camera: str
    png: bytes

    def as_source(self) -> SourceCrop:
        """The crop as the client enrolls it."""
        return SourceCrop(self.name, lambda: self.png, self.identity, self.camera)


@dataclass(frozen=True)
class Cast:
    """Who is enrolled and who is asked for.

    Attributes:
        gallery: every crop of the known people, from all cameras but the first.
        known: one crop of each known person from the first camera.
        strangers: the same of people who are not enrolled.
    """

    gallery: tuple[DrawnCrop, ...]
    known: tuple[DrawnCrop, ...]
    strangers: tuple[DrawnCrop, ...]

    def in_mixed_order(self, seed: int) -> list[DrawnCrop]:
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
    drawn = draw_people(
        seed, domains=1, identities_per_domain=people + strangers, cameras_per_domain=cameras
    )
    known = set(drawn.identities[:people])
    first = drawn.cameras[0]
    asking: dict[str, CropRecord] = {}
    for record in drawn.records:
        if record.camera == first:
            asking.setdefault(record.identity, record)
    return Cast(
        gallery=tuple(
            _encode(record)
            for record in drawn.records
            if record.identity in known and record.camera != first
        ),
        known=tuple(_encode(record) for who, record in asking.items() if who in known),
        strangers=tuple(_encode(record) for who, record in asking.items() if who not in known),
    )


def _encode(record: CropRecord) -> DrawnCrop:
    file = io.BytesIO()
    Image.fromarray(record.decode()).save(file, "PNG")
    return DrawnCrop(record.source, record.identity, record.camera, file.getvalue())
