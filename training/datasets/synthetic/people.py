"""Draws a whole data set of people, and reads its spec."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from model.problems import InputProblem
from training.datasets.kind import DatasetKind
from training.datasets.record import CropRecord, Dataset
from training.datasets.synthetic.cameras import domain_style, draw_camera
from training.datasets.synthetic.clothes import draw_appearance
from training.datasets.synthetic.crops import canvas_size, draw_crop

TERMS = "Drawn by this project; no person is shown."
_PERSON, _CAMERA, _PASSER_BY, _CROP = range(4)
_OPTIONS = {
    "identities": "identities_per_domain",
    "domains": "domains",
    "cameras": "cameras_per_domain",
    "crops": "crops_per_camera",
}
_MOST = {"identities": 100_000, "domains": 1_000, "cameras": 1_000, "crops": 1_000}


class SyntheticProblem(InputProblem):
    """A `synthetic:` spec that cannot be drawn: what is wrong with it and how to write it."""


def draw_people(
    seed: int,
    domains: int = 4,
    identities_per_domain: int = 150,
    cameras_per_domain: int = 3,
    crops_per_camera: int = 2,
    height: int = 128,
    width: int = 64,
) -> Dataset:
    """Draws people; the same arguments give the same bytes.

    What a person, a camera or a crop looks like depends on the seed and its own numbers only: a
    larger set holds the smaller one's crops unchanged.

    Args:
        seed: 0 or more.
        domains: how many drawn data sets, each with its own style, cameras and people.
        height, width: crop size, pixels.

    Returns:
        A data set named `synthetic`, every crop in `pixels`.

    Raises:
        SyntheticProblem: if the seed is negative or a count is less than 1.
    """
    counts = (domains, identities_per_domain, cameras_per_domain, crops_per_camera, height, width)
    if seed < 0 or min(counts) < 1:
        raise SyntheticProblem(
            f"synthetic: seed {seed} and counts {counts} cannot be drawn; "
            "use a seed of 0 or more and counts of at least 1"
        )
    records = [
        record
        for domain in range(domains)
        for record in _domain_records(
            seed, domain, identities_per_domain, cameras_per_domain, crops_per_camera, height, width
        )
    ]
    spec = (
        f"synthetic:{seed},identities={identities_per_domain},domains={domains},"
        f"cameras={cameras_per_domain},crops={crops_per_camera}"
    )
    return Dataset("synthetic", spec, TERMS, tuple(records))


def _domain_records(
    seed: int, domain: int, identities: int, cameras: int, crops: int, height: int, width: int
) -> Iterator[CropRecord]:
    """The crops of one domain, person by person."""
    style = domain_style(domain)
    views = [
        draw_camera(_generator(seed, _CAMERA, domain, camera), style, canvas_size(height, width))
        for camera in range(cameras)
    ]
    for number in range(identities):
        person = draw_appearance(
            _generator(seed, _PERSON, domain, number), style.cold, style.vividness
        )
        passer_by = draw_appearance(
            _generator(seed, _PASSER_BY, domain, number), style.cold, style.vividness
        )
        for camera, view in enumerate(views):
            for crop in range(crops):
                rng = _generator(seed, _CROP, domain, number, camera, crop)
                yield CropRecord(
                    source=f"synthetic:{seed}/d{domain}/{number:04d}/c{camera}/{crop}",
                    dataset="synthetic",
                    identity=f"d{domain}-{number:04d}",
                    camera=f"d{domain}-c{camera}",
                    domain=f"synthetic/domain{domain}",
                    pixels=draw_crop(rng, person, passer_by, view, height, width),
                )


def read_synthetic(spec_path: str) -> Dataset:
    """Draws the people that `synthetic:` and this text name.

    Args:
        spec_path: `SEED[,identities=60][,domains=4][,cameras=3][,crops=2]`: identities per
            domain, cameras per domain, crops of each identity by each camera.

    Raises:
        SyntheticProblem: if the text is anything else.
    """
    seed, *options = (part.strip() for part in spec_path.split(","))
    counts: dict[str, int] = {}
    for option in options:
        name, _, value = option.partition("=")
        if name not in _OPTIONS:
            raise _refusal(spec_path, f"{option!r} is not one of {', '.join(_OPTIONS)}")
        if _OPTIONS[name] in counts:
            raise _refusal(spec_path, f"{name} is given twice")
        counts[_OPTIONS[name]] = _whole_number(spec_path, name, value, 1, _MOST[name])
    people = draw_people(_whole_number(spec_path, "the seed", seed, 0, 2**63 - 1), **counts)
    return Dataset(people.name, f"synthetic:{spec_path}", people.terms, people.records)


def _generator(*numbers: int) -> np.random.Generator:
    seed, *place = numbers
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=place)))


def _whole_number(spec_path: str, name: str, text: str, least: int, most: int) -> int:
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else -1
    if not least <= number <= most:
        raise _refusal(spec_path, f"{name} is {text!r}, not a whole number {least} to {most}")
    return number


def _refusal(spec_path: str, fault: str) -> SyntheticProblem:
    return SyntheticProblem(
        f"synthetic:{spec_path}: {fault}; write a seed and, if wanted, counts, such as "
        "synthetic:7 or synthetic:7,identities=60,domains=4,cameras=3,crops=2"
    )


SYNTHETIC = DatasetKind(
    name="synthetic",
    path="a seed such as 7, with options such as 7,identities=60,domains=4",
    terms=TERMS,
    obtain="drawn on the spot",
    read=lambda _, spec_path: read_synthetic(spec_path),
    is_path=False,
)
