"""Poses: bones turn about their joints, and what hangs on them follows."""

import numpy as np
import pytest

from training.rendered.body import DETAILS, Build, amounts_of, pose
from training.rendered.gait import AHEAD, LEFT, Arm, Walk, limbs, turn
from training.rendered.meshes import MOVING

ELBOW, WRIST = (MOVING.index(f"{bone}.L") for bone in ("lowerarm01", "wrist"))


def parent_of(bone):
    name, _, side = bone.partition(".")
    above = {
        "root": None,
        "spine04": "root",
        "spine02": "spine04",
        "neck01": "spine02",
        "head": "neck01",
        "upperleg01": "root",
        "lowerleg01": f"upperleg01.{side}",
        "foot": f"lowerleg01.{side}",
        "shoulder01": "spine02",
        "upperarm01": f"shoulder01.{side}",
        "lowerarm01": f"upperarm01.{side}",
        "wrist": f"lowerarm01.{side}",
    }[name]
    return -1 if above is None else MOVING.index(above)


@pytest.fixture
def skeleton():
    """The heads of bones of a person whose arms are spread at right angles."""
    middle = {"root": 0.9, "spine04": 1.0, "spine02": 1.2, "neck01": 1.4, "head": 1.5}
    side = {
        "upperleg01": (0.1, 0.85),
        "lowerleg01": (0.1, 0.45),
        "foot": (0.1, 0.05),
        "shoulder01": (0.1, 1.4),
        "upperarm01": (0.2, 1.4),
        "lowerarm01": (0.5, 1.4),
        "wrist": (0.8, 1.4),
    }
    joints = np.zeros((len(MOVING), 3))
    for column, bone in enumerate(MOVING):
        name, _, which = bone.partition(".")
        across, up = side[name] if which else (0, middle[name])
        joints[column, :2] = (-across if which == "R" else across, up)
    return joints, [parent_of(bone) for bone in MOVING]


def hung_on(bone):
    weights = np.zeros((1, len(MOVING)))
    weights[0, MOVING.index(bone)] = 1
    return weights


def test_a_body_at_rest_stays_where_it_is(skeleton):
    joints, parents = skeleton
    movement = pose(joints, parents, {})
    points = np.random.default_rng(0).random((1, 3))
    np.testing.assert_allclose(movement.move(points, hung_on("head")), points, atol=1e-6)


def test_a_hand_follows_the_upper_arm_and_keeps_its_distance(skeleton):
    joints, parents = skeleton
    movement = pose(joints, parents, {"upperarm01.L": turn(AHEAD, -90)})
    hand = movement.move(joints[[WRIST]], hung_on("wrist.L"))
    np.testing.assert_allclose(hand, [(0.2, 0.8, 0)], atol=1e-6)


def test_a_bent_elbow_does_not_move_the_upper_arm(skeleton):
    joints, parents = skeleton
    movement = pose(joints, parents, {"lowerarm01.L": turn(AHEAD, 90)})
    elbow = movement.move(joints[[ELBOW]], hung_on("upperarm01.L"))
    hand = movement.move(joints[[WRIST]], hung_on("wrist.L"))
    np.testing.assert_allclose([*elbow, *hand], [(0.5, 1.4, 0), (0.5, 1.7, 0)], atol=1e-6)


def test_a_point_between_two_bones_moves_half_as_far(skeleton):
    joints, parents = skeleton
    movement = pose(joints, parents, {"head": turn(LEFT, 90)})
    above = np.array([[0, 1.7, 0]])
    whole = movement.move(above, hung_on("head"))
    half = movement.move(above, (hung_on("head") + hung_on("neck01")) / 2)
    np.testing.assert_allclose(whole, [(0, 1.5, 0.2)], atol=1e-6)
    np.testing.assert_allclose(half, (whole + above) / 2, atol=1e-6)


def test_arms_hang_down_and_swing_against_the_legs(skeleton):
    joints, parents = skeleton
    walk = Walk(1, 0, (Arm(1, 0, 5, 10), Arm(1, 0, 5, 10)), (0, 0))
    movement = pose(joints, parents, limbs(walk, 0, joints))

    def placed(bone):
        return movement.move(joints[[MOVING.index(bone)]], hung_on(bone))[0]

    for side in ("L", "R"):
        assert placed(f"wrist.{side}")[1] < placed(f"upperarm01.{side}")[1] - 0.4
    assert placed("foot.L")[2] > 0.1 > -0.1 > placed("foot.R")[2]
    assert placed("wrist.L")[2] < placed("wrist.R")[2]


def test_the_shapes_of_a_build_are_between_those_beside_it():
    build = Build(True, 0.5, 0.5, 0.75, 0.5, 0.5, (0, 1, 0), (0,) * len(DETAILS))
    assert dict(amounts_of(build)) == {
        "macrodetails/asian-female-young": 1,
        "macrodetails/universal-female-young-averagemuscle-averageweight": 0.5,
        "macrodetails/universal-female-young-averagemuscle-maxweight": 0.5,
    }
