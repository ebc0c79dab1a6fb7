"""Rendered people as a data set; each crop is drawn when it is read."""

from __future__ import annotations

import io
from functools import lru_cache, partial
from itertools import product

import numpy as np
from PIL import Image

from model.arrays import Pixels
from training.datasets.drawn import read_numbers
from training.datasets.kind import DatasetKind
from training.datasets.record import CropRecord, Dataset
from training.rendered.difficulty import MODERATE
from training.rendered.draw import TERMS
from training.rendered.garments import Wardrobe
from training.rendered.meshes import read_meshes
from training.rendered.sites import Site


def render_people(
    seed: int,
    domains: int = 1,
    identities_per_domain: int = 60,
    cameras_per_domain: int = 4,
    crops_per_camera: int = 2,
) -> tuple[CropRecord, ...]:
    """Return the records of rendered people, whom each camera of their site sees.

    The same arguments give the same pixels. A crop depends only on the seed and its own numbers.

    Args:
        seed: 0 or more.
        domains: the number of sites, each with its own cameras and people.
    """
    return tuple(
        CropRecord(
            source=f"rendered:{seed}/s{site}/{person:04d}/c{camera}/{crop}",
            dataset="rendered",
            identity=f"s{site}-{person:04d}",
            camera=f"s{site}-c{camera}",
            domain=f"rendered/site{site}",
            load=partial(_draw_crop, seed, site, person, camera, crop),
        )
        for site, person, camera, crop in product(
            range(domains),
            range(identities_per_domain),
            range(cameras_per_domain),
            range(crops_per_camera),
        )
    )


@lru_cache(maxsize=1)
def _wardrobe() -> Wardrobe:
    return Wardrobe(read_meshes())


@lru_cache(maxsize=2)
def _site(seed: int, number: int) -> Site:
    return Site(seed, number, MODERATE, _wardrobe())


def _draw_crop(seed: int, site: int, person: int, camera: int, crop: int) -> Pixels:
    content = _site(seed, site).crop(person, camera, crop)
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def _read_rendered(kind: DatasetKind, text: str) -> Dataset:
    """Read `SEED[,identities=60][,domains=1][,cameras=4][,crops=2]`, as of `synthetic`.

    Raises:
        DatasetProblem: the text has another form.
    """
    records = render_people(**read_numbers(kind, text))
    return Dataset("rendered", f"{kind.name}:{text}", TERMS, records)


RENDERED = DatasetKind(
    name="rendered",
    path="a seed such as 7, with options such as 7,identities=60,cameras=4",
    terms=TERMS,
    obtain="drawn on the spot",
    read=_read_rendered,
    is_path=False,
)
