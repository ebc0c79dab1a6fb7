"""The rasteriser, on triangles of which the covered pixels can be counted by hand."""

import numpy as np

from training.rendered.rasteriser import rasterise

NEAR = [(0, 0, 1), (4, 0, 1), (0, 4, 1)]
FAR = [(0, 0, 2), (8, 0, 2), (0, 8, 2)]


def draw(corners, size=8, **options):
    points = np.array(corners, np.float64).reshape(-1, 3)
    triangles = np.arange(len(points)).reshape(-1, 3)
    return rasterise(points, triangles, size, size, **options), triangles, points


def shown(fragments, size=8):
    picture = np.full(size * size, -1)
    picture[fragments.pixels] = fragments.triangles
    return picture.reshape(size, size)


def test_a_triangle_covers_the_pixels_whose_centres_it_contains():
    fragments, _, _ = draw(NEAR)
    covered = shown(fragments) == 0
    assert covered.sum(axis=1).tolist() == [4, 3, 2, 1, 0, 0, 0, 0]
    assert covered[0].tolist() == [True] * 4 + [False] * 4


def test_the_nearer_triangle_is_seen_whatever_the_order():
    for corners, near in ((NEAR + FAR, 0), (FAR + NEAR, 1)):
        picture = shown(draw(corners)[0])
        assert (picture == near).sum() == 10
        assert (picture == 1 - near).sum() == 36 - 10


def test_both_sides_of_a_triangle_are_seen_and_none_behind_the_camera_or_outside():
    assert len(draw(NEAR[::-1])[0].pixels) == 10
    assert len(draw([(0, 0, -1), (4, 0, 1), (0, 4, 1)])[0].pixels) == 0
    assert len(draw([(-9, -9, 1), (-5, -9, 1), (-9, -5, 1)])[0].pixels) == 0
    # A triangle that reaches over every edge fills the picture.
    assert len(draw([(-50, -50, 1), (90, -50, 1), (-50, 90, 1)])[0].pixels) == 64


def test_neighbours_leave_no_gap_between_them():
    square = [(0, 0, 1), (8, 0, 1), (8, 8, 1), (0, 0, 1), (8, 8, 1), (0, 8, 1)]
    assert len(draw(square)[0].pixels) == 64


def test_values_are_interpolated_as_perspective_shows_them():
    # The right edge is three times as far away, so the middle of the picture is a quarter along.
    points = [(0, 0, 1), (8, 0, 3), (0, 16, 1)]
    fragments, triangles, _ = draw(points)
    along = fragments.interpolate(np.array([0.0, 1.0, 0.0]), triangles)
    first_row = fragments.pixels < 8
    middles = along[first_row][3:5]
    assert middles[0] < 0.25 < middles[1]
    np.testing.assert_allclose(fragments.weights.sum(axis=1), 1, rtol=1e-6)


def test_a_triangle_is_cut_away_where_it_is_not_inside():
    whole = [(0, 0, 1), (8, 0, 1), (8, 8, 1)]
    fragments, _, _ = draw(whole, inside=np.array([-1.0, 1.0, 1.0]))
    picture = shown(fragments)
    assert not (picture[:, :4] == 0).any()
    assert (picture[0, 4:] == 0).all()
