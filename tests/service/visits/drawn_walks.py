"""Drawn walks: people who pass cameras, each with a crop of their own appearance."""

import numpy as np

from model.arrays import unit_rows
from service.index.moments import Moments
from service.visits.travel_times import TimedCrops

HOUR = 3600.0
DIMENSION = 64
# A walk from camera 1 to camera 2 takes this many seconds.
WALK = 120.0
SPREAD = 15.0


def walk(people, seed=0, hours=8, likeness=0.95):
    """Draw people who walk from camera 1 to camera 2, a crop at each.

    Args:
        likeness: expected cosine of two crops of one person, about.
    """
    random = np.random.default_rng(seed)
    appearances = unit_rows(random.standard_normal((people, DIMENSION)).astype(np.float32))
    noise = np.sqrt((1.0 / likeness - 1.0) / DIMENSION)
    started = random.uniform(0.0, hours * HOUR, people)
    walked = random.normal(WALK, SPREAD, people)
    crops = [
        appearances + noise * random.standard_normal((people, DIMENSION)).astype(np.float32)
        for _ in range(2)
    ]
    return TimedCrops(
        units=unit_rows(np.concatenate(crops).astype(np.float32)),
        cameras=np.repeat(["1", "2"], people),
        captured=np.concatenate([started, started + walked]),
        people=np.full(2 * people, -1),
        tracks=np.arange(2 * people),
    )


def odds(times, seconds, first="1", second="2"):
    """Return the log-odds of a crop at the second camera, `seconds` after one at the first."""
    there = Moments(np.array([second]), np.array([float(seconds)]))
    return times.log_odds(first, 0.0, there)[0]
