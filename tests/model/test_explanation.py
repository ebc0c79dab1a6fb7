"""Regions are hidden, and a score is put down to some; the network sees colours only."""

import numpy as np

from model.explanation import CELLS, explain, variants

RED = (255, 0, 0)
GREEN = (0, 255, 0)
BLUE = (0, 0, 255)
YELLOW = (255, 255, 0)
MAGENTA = (255, 0, 255)
COLOURS = np.stack(np.meshgrid(*[[0.0, 0.5, 1.0]] * 3), axis=-1).reshape(27, 3)


def halves(left, right):
    crop = np.empty((64, 32, 3), np.uint8)
    crop[:, :16] = left
    crop[:, 16:] = right
    return crop


def patched(crop, cell, colour):
    """Return the crop with one cell of the grid in another colour."""
    row, column = cell
    crop = crop.copy()
    crop[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = colour
    return crop


def share_of_each_colour(crops):
    """Return a 1×1 convolution, a softmax and average pooling: how much there is of 27 colours."""
    pixels = crops.reshape(len(crops), -1, 1, 3) / 255.0
    likeness = np.exp(-20.0 * np.square(pixels - COLOURS).sum(axis=-1))
    shares = (likeness / likeness.sum(axis=-1, keepdims=True)).mean(axis=1)
    return np.asarray(shares, np.float32)


def cosines(one, others):
    found = others @ one / np.linalg.norm(others, axis=1) / np.linalg.norm(one)
    return np.asarray(found, np.float32)


def explained(first, second):
    features = [share_of_each_colour(variants(crop, range(1 + CELLS))) for crop in (first, second)]
    return explain(features[0], features[1], cosines)


def where(number, contributions):
    return tuple(int(place) for place in np.unravel_index(number, contributions.shape))


def test_the_one_thing_that_two_crops_share_spoke_for_them():
    first = patched(halves(GREEN, BLUE), (2, 1), RED)
    second = patched(halves(YELLOW, MAGENTA), (5, 3), RED)
    found = explained(first, second)
    assert where(found.first.argmax(), found.first) == (2, 1)
    assert where(found.second.argmax(), found.second) == (5, 3)
    assert found.first.max() > found.score / 2


def test_the_one_thing_that_tells_two_crops_apart_spoke_against_them():
    first = patched(halves(GREEN, GREEN), (6, 0), RED)
    found = explained(first, halves(GREEN, GREEN))
    assert where(found.first.argmin(), found.first) == (6, 0)
    assert found.first.min() < 0 <= np.abs(found.second).max()


def test_all_cells_together_hide_every_pixel_once():
    crop = np.random.default_rng(0).integers(0, 256, (50, 27, 3), dtype=np.uint8)
    drawn = variants(crop, range(1 + CELLS)).astype(np.float64)
    hidden = (drawn[1:] - crop).sum(axis=0)
    # At most four cells reach a pixel, each rounded.
    assert np.abs(hidden - (crop.mean(axis=(0, 1)) - crop)).max() <= 2.01


def test_a_hidden_cell_leaves_what_is_far_from_it_alone():
    crop = patched(halves(GREEN, BLUE), (2, 1), RED)
    hidden = variants(crop, range(10, 11))[0]
    assert np.abs(hidden[18:22, 10:14] - crop.mean(axis=(0, 1))).max() <= 0.5
    changed = (hidden != crop).any(axis=-1)
    assert not changed[:14].any()
    assert not changed[26:].any()
    assert not changed[:, :6].any()
    assert not changed[:, 18:].any()
