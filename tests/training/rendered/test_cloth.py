"""The people of a site wear few cloths, most of which are plain."""

import numpy as np
import pytest

from training.rendered.cloth import FADED, Stock
from training.rendered.difficulty import HARD


@pytest.mark.parametrize("use", list(HARD.cloths))
def test_a_site_has_few_cloths_whose_pieces_differ_a_little_in_lightness(use):
    random = np.random.default_rng(0)
    stock = Stock(random, HARD)
    pieces = [stock.draw(random, use) for _ in range(200)]
    # The depth of its folds tells which cloth a piece is of.
    assert len({piece.folds for piece in pieces}) == HARD.cloths[use]
    of_one = np.array([piece.colour for piece in pieces if piece.folds == pieces[0].folds])
    lightness = of_one.sum(axis=1)
    assert 1 < lightness.max() / lightness.min() <= (1 + FADED) / (1 - FADED)
    tones = of_one / lightness[:, None]
    assert np.ptp(tones, axis=0).max() < 1e-5


def test_most_cloths_are_plain_and_dark_or_grey_and_the_sites_differ():
    random = np.random.default_rng(0)
    pieces = [Stock(random, HARD).draw(random, use) for use in HARD.cloths for _ in range(100)]
    quiet = [piece for piece in pieces if not piece.overlays and np.ptp(piece.colour) < 0.2]
    assert 0.5 < len(quiet) / len(pieces) < 0.85
    assert len({piece.folds for piece in pieces}) == len(pieces)
