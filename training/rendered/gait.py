"""Poses of people who walk or stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from training.rendered.arrays import Numbers, Random
from training.rendered.meshes import MOVING, SIDES

LEFT, UP, AHEAD = np.eye(3)
"""The axes of a body."""


@dataclass(frozen=True)
class Arm:
    """How an arm is held; angles in degrees.

    Attributes:
        swing: how far it swings with the legs.
        raised: how far it points forward.
        spread: how far it points sideways.
        bent: the bend of the elbow.
        inward: how far the bent forearm points to the middle.
    """

    swing: float
    raised: float
    spread: float
    bent: float
    inward: float = 0


@dataclass(frozen=True)
class Walk:
    """A way of walking or standing.

    Attributes:
        stride: 0 for standing, 1 for a usual walk.
        lean: how far the trunk leans forward, in degrees.
        arms: the left and the right arm.
        head: how far the head is turned left and down, in degrees.
    """

    stride: float
    lean: float
    arms: tuple[Arm, Arm]
    head: tuple[float, float]


def turn(axis: Numbers, degrees: float) -> Numbers:
    """Return the rotation `(3, 3)` about an axis of unit length."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    result = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return result.astype(np.float32)


def draw_walk(random: Random, carrying: int | None = None) -> Walk:
    """Draw a way of walking; `carrying` is the index in `SIDES` of an arm with a load."""
    standing = random.random() < 0.2
    swing = random.uniform(0.5, 1.2)

    def arm() -> Arm:
        way = random.choice(6, p=[0.66, 0.1, 0.06, 0.06, 0.06, 0.06])
        if way == 0:
            return Arm(swing, random.uniform(-4, 4), random.uniform(4, 12), random.uniform(5, 30))
        if way == 1:  # a hand in a pocket
            return Arm(0.1, -12, random.uniform(12, 20), random.uniform(35, 50), 10)
        if way == 2:  # a phone in the hand
            return Arm(0.1, random.uniform(15, 35), 8, random.uniform(70, 100), 25)
        if way == 3:  # a phone at the ear
            return Arm(0, random.uniform(20, 45), 25, random.uniform(125, 140), 10)
        if way == 4:  # the strap of a bag
            return Arm(0.1, 10, 15, random.uniform(110, 130), 20)
        return Arm(0.1, 12, 12, random.uniform(60, 90), 45)  # before the belly

    arms = [arm(), arm()]
    if carrying is not None:
        arms[carrying] = Arm(0.3, 0, 6, 8)
    return Walk(
        stride=0 if standing else random.uniform(0.5, 1.15),
        lean=random.normal(2, 3),
        arms=(arms[0], arms[1]),
        head=(random.normal(0, 18), random.normal(6, 9)),
    )


def limbs(walk: Walk, phase: float, joints: Numbers) -> Mapping[str, Numbers]:
    """Return the turns of bones at a moment of a walk.

    Args:
        phase: the share of the cycle since the left heel touched the ground, from 0 to 1.
        joints: the heads of the bones at rest, whose arms are spread.
    """
    turns: dict[str, Numbers] = {"root": np.eye(3, dtype=np.float32)}
    trunk = turn(UP, -6 * walk.stride * np.cos(2 * np.pi * phase)) @ turn(LEFT, walk.lean)
    turns["spine04"] = trunk
    yaw, pitch = walk.head
    turns["neck01"] = trunk @ turn(UP, yaw / 2) @ turn(LEFT, pitch / 2)
    turns["head"] = trunk @ turn(UP, yaw) @ turn(LEFT, pitch)
    for number, side in enumerate(SIDES):
        outward = 1 if side == "L" else -1
        step = (phase + number / 2) % 1
        hip, knee, ankle = _leg(step, walk.stride)
        spread = turn(AHEAD, outward * (2 - _spread(joints, f"upperleg01.{side}", f"foot.{side}")))
        thigh = turn(LEFT, -hip)
        turns[f"upperleg01.{side}"] = thigh @ spread
        turns[f"lowerleg01.{side}"] = turn(LEFT, knee - hip) @ spread
        turns[f"foot.{side}"] = turn(LEFT, ankle)
        arm = walk.arms[number]
        swing = -22 * arm.swing * walk.stride * np.cos(2 * np.pi * step)
        down = turn(
            AHEAD,
            outward * (arm.spread - _spread(joints, f"upperarm01.{side}", f"lowerarm01.{side}")),
        )
        upper = trunk @ turn(LEFT, -(swing + arm.raised))
        turns[f"upperarm01.{side}"] = upper @ down
        bend = turn(UP, -outward * arm.inward) @ turn(LEFT, -arm.bent)
        turns[f"lowerarm01.{side}"] = upper @ bend @ down
    return turns


def _leg(step: float, stride: float) -> tuple[float, float, float]:
    """Return the angles of hip (forward), knee (bent) and foot (toes down) of a step."""
    hip = stride * (24 * np.cos(2 * np.pi * step) + 3)
    swing = np.exp(-(((step - 0.72) / 0.13) ** 2))
    stance = np.exp(-(((step - 0.15) / 0.1) ** 2))
    knee = 3 + stride * (50 * swing + 10 * stance)
    lifted = np.exp(-(((step - 0.62) / 0.09) ** 2)) - 0.6 * np.exp(-(((step % 1) / 0.1) ** 2))
    return float(hip), float(knee), float(stride * 28 * lifted)


def _spread(joints: Numbers, first: str, second: str) -> float:
    """Return how far the limb between two bones at rest is spread from hanging, in degrees."""
    across, down, _ = joints[MOVING.index(first)] - joints[MOVING.index(second)]
    return float(np.degrees(np.arctan2(abs(across), down)))
