"""Sites: cameras, and the people whom they see."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from training.rendered.arrays import Random
from training.rendered.cameras import Camera, draw_camera
from training.rendered.cloth import Stock
from training.rendered.crops import View, draw_crop
from training.rendered.difficulty import Difficulty
from training.rendered.garments import Wardrobe
from training.rendered.outfits import Source
from training.rendered.people import Figure, draw_figure

TURN = 12
"""The standard deviation by which somebody turns from one crop to the next, in degrees."""

# The numbers of a random stream begin with one of these.
CAMERA, PERSON, CLOTHES, STOCK, VIEWERS, WALK, CROP = range(7)


class Site:
    """A site, drawn from a seed and its number.

    A person, a camera or a crop depends only on these and its own numbers.
    """

    def __init__(self, seed: int, number: int, difficulty: Difficulty, wardrobe: Wardrobe) -> None:
        self._seed = seed
        self._number = number
        self._difficulty = difficulty
        self._wardrobe = wardrobe
        self._stock = Stock(self._random(STOCK), difficulty)
        # A scene takes megabytes, and people are asked for one after the other.
        self._camera = lru_cache(maxsize=16)(self._draw_camera)
        self._figure = lru_cache(maxsize=2)(self._draw_figure)

    def _random(self, *numbers: int) -> Random:
        """Return the stream of random numbers of something at this site."""
        sequence = np.random.SeedSequence(self._seed, spawn_key=(self._number, *numbers))
        return np.random.default_rng(sequence)

    def viewers(self, person: int, cameras: int, views: int) -> list[int]:
        """Return the numbers of those of the site's cameras that see a person."""
        chosen: list[int] = self._random(VIEWERS, person).permutation(cameras)[:views].tolist()
        return chosen

    def crop(self, person: int, camera: int, number: int) -> bytes:
        """Draw a crop of a person under a camera as a JPEG file.

        The crops of a person under one camera are of one walk.
        """
        random = self._random(CROP, person, camera, number)
        stranger = None
        if random.random() < self._difficulty.accompanied:
            stranger = draw_figure(Source(random, random, self._stock), self._wardrobe)
        seen_by = self._camera(camera)
        walk = self._random(WALK, person, camera)
        heading = walk.choice(seen_by.headings) + walk.normal(0, 15)
        distance = walk.uniform(seen_by.near, seen_by.far)
        heading += walk.normal(0, TURN, number + 1).sum()
        view = View(heading, distance, random.random())
        figure = self._figure(person)
        return draw_crop(random, figure, self._wardrobe.body, seen_by, view, stranger)

    def _draw_camera(self, number: int) -> Camera:
        return draw_camera(self._random(CAMERA, number), self._difficulty)

    def _draw_figure(self, number: int) -> Figure:
        person = self._random(PERSON, number)
        pair = self._random(CLOTHES, number // 2)
        are_twins = pair.random() < self._difficulty.twins
        clothes = pair if are_twins else person
        return draw_figure(Source(person, clothes, self._stock), self._wardrobe)
