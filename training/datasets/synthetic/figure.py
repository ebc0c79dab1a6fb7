"""Paints a whole person: limbs and garments from back to front, as the camera sees them."""

from __future__ import annotations

from math import cos, sin

import numpy as np

from training.datasets.synthetic.clothes import (
    Appearance,
    Fabric,
    Folds,
    blend,
    plain,
    surface_angle,
)
from training.datasets.synthetic.head import paint_hair_behind, paint_head
from training.datasets.synthetic.luggage import paint_luggage, paint_straps, paint_umbrella
from training.datasets.synthetic.pose import Limb, Point, Skeleton, View
from training.datasets.synthetic.raster import Canvas, Paint, Plane, soft_step


def paint_figure(
    canvas: Canvas, person: Appearance, skeleton: Skeleton, view: View, folds: Folds
) -> None:
    """Paints the person, luggage included, on the canvas."""
    back_turned = cos(view.yaw) < 0
    far, near = (0, 1) if view.depth(skeleton.arms[0].middle) < view.depth(
        skeleton.arms[1].middle
    ) else (1, 0)  # fmt: skip
    far_leg, near_leg = (0, 1) if view.depth(skeleton.legs[0].middle) < view.depth(
        skeleton.legs[1].middle
    ) else (1, 0)  # fmt: skip
    if not back_turned:
        paint_luggage(canvas, person, skeleton, view, ("backpack",))
        paint_hair_behind(canvas, person, skeleton, view)
    _arm(canvas, person, skeleton.arms[far], view, folds)
    _leg(canvas, person, skeleton, far_leg, view, folds)
    _leg(canvas, person, skeleton, near_leg, view, folds)
    _torso(canvas, person, skeleton, view, folds)
    _neck(canvas, person, skeleton, view)
    if back_turned:
        paint_hair_behind(canvas, person, skeleton, view)
        paint_luggage(canvas, person, skeleton, view, ("backpack",))
    paint_head(canvas, person, skeleton.head, view)
    paint_luggage(canvas, person, skeleton, view, ("shoulder", "hand", "tote"))
    _arm(canvas, person, skeleton.arms[near], view, folds)
    paint_umbrella(canvas, person, skeleton, view)


def _covered(
    person: Appearance, fabric: Fabric, view: View, folds: Folds, start: float, stop: float,
    cover: float,
) -> Paint:  # fmt: skip
    """Paint of one bone: cloth up to `cover`, then skin; the bone spans start to stop of a limb."""
    if cover <= start:
        return plain(person.skin)

    def paint(sideways: Plane, along: Plane) -> Plane:
        place = start + (stop - start) * along
        # A plain cloth looks the same all round: no need to know where the front is.
        angle = sideways if fabric.pattern == "plain" else surface_angle(sideways, view.yaw)
        cloth = fabric.colours(angle, place) * folds.shade(sideways, place)[..., None]
        if cover > stop:
            return cloth
        edge = soft_step(place - cover, 40.0)
        hem = 1.0 - 0.2 * np.exp(-(((place - cover) / 0.03) ** 2))
        return blend(cloth * hem[..., None], person.skin, edge)

    return paint


def _arm(canvas: Canvas, person: Appearance, limb: Limb, view: View, folds: Folds) -> None:
    size = view.scale * (0.5 + 0.5 * view.stretch) * person.build**0.5
    bulk = person.bulk * view.scale
    sleeved = person.upper if person.upper.pattern not in ("print", "two_tone") else Fabric(
        person.upper.colour, person.upper.second
    )  # fmt: skip
    shoulder, elbow, wrist = (view.pixel(joint) for joint in (limb.root, limb.middle, limb.tip))
    upper_cloth = bulk + 0.004 * view.scale
    lower_cloth = upper_cloth if person.sleeve > 0.5 else 0.0
    hand = (wrist[0] + 0.25 * (wrist[0] - elbow[0]), wrist[1] + 0.25 * (wrist[1] - elbow[1]))
    canvas.tube(wrist, hand, (0.017 * size, 0.015 * size), plain(person.skin))
    canvas.tube(
        elbow,
        wrist,
        (0.026 * size + lower_cloth, 0.019 * size + lower_cloth * 0.8),
        _covered(person, sleeved, view, folds, 0.5, 1.0, person.sleeve),
    )
    canvas.tube(
        shoulder,
        elbow,
        (0.034 * size + upper_cloth, 0.028 * size + upper_cloth),
        _covered(person, sleeved, view, folds, 0.0, 0.5, person.sleeve),
    )


def _leg(
    canvas: Canvas, person: Appearance, skeleton: Skeleton, side: int, view: View, folds: Folds
) -> None:
    size = view.scale * (0.4 + 0.6 * view.stretch) * person.build**0.6
    limb, toe = skeleton.legs[side], skeleton.toes[side]
    hip, knee, ankle = (view.pixel(joint) for joint in (limb.root, limb.middle, limb.tip))
    tip = view.pixel(toe)
    canvas.tube(
        (ankle[0], ankle[1] + 0.018 * size),
        (tip[0], tip[1] + 0.012 * size),
        (0.026 * size, 0.021 * size),
        _shoe(person),
    )
    loose = person.leg_width if person.leg > 0.5 else 0.85
    canvas.tube(
        knee,
        ankle,
        (0.041 * size * (0.6 + 0.4 * loose), 0.027 * size * loose),
        _covered(person, person.lower, view, folds, 0.5, 1.0, person.leg),
    )
    canvas.tube(
        hip,
        knee,
        (0.062 * size, 0.043 * size * (0.6 + 0.4 * person.leg_width)),
        _covered(person, person.lower, view, folds, 0.0, 0.5, person.leg),
    )


def _shoe(person: Appearance) -> Paint:
    upper, sole = np.asarray(person.shoes, np.float32), np.asarray(person.soles, np.float32)
    return lambda sideways, _along: upper + (sideways > 0.7)[..., None] * (sole - upper)


def _neck(canvas: Canvas, person: Appearance, skeleton: Skeleton, view: View) -> None:
    width = view.half_width(0.031, 0.033, 0.87)
    neck, head = view.pixel(skeleton.neck), view.pixel(skeleton.head)
    skin = plain((person.skin[0] * 0.85, person.skin[1] * 0.83, person.skin[2] * 0.83))
    canvas.tube(neck, head, (width, width), skin)
    if person.hood:
        left, right = (neck[0] - 1.2 * width, neck[1]), (neck[0] + 1.2 * width, neck[1])
        thick = 0.022 * view.scale * (1.5 if cos(view.yaw) < 0 else 0.9)
        canvas.tube(left, right, (thick, thick), plain(person.upper.colour))


def _torso(
    canvas: Canvas, person: Appearance, skeleton: Skeleton, view: View, folds: Folds
) -> None:
    """Hips or skirt first, then the upper garment over them."""
    stout, bulk = person.build, person.bulk
    hips, neck = skeleton.hips, skeleton.neck
    hip_wide, hip_deep = 0.088 * stout**0.6, 0.062 * stout
    if person.skirt > 0:
        _flared(canvas, person, skeleton, view, folds, person.skirt)
    else:
        belt = view.pixel((hips[0], hips[1], hips[2] + 0.06))
        seat = view.pixel((hips[0], hips[1], hips[2] - 0.05))
        width = view.half_width(hip_wide, hip_deep)
        canvas.tube(
            belt, seat, (width * 0.95, width * 0.9),
            _covered(person, person.lower, view, folds, -0.2, 0.05, 9.0),
        )  # fmt: skip
    if person.hem > 0.2:
        _flared(canvas, person, skeleton, view, folds, person.hem, coat=True)
    shoulder = 0.108 * person.shoulders * stout**0.3 + bulk
    waist = 0.077 * stout + bulk
    top = view.pixel((neck[0], neck[1], neck[2] + 0.012))
    low = hips[2] - 0.02 - 0.4 * max(0.0, min(person.hem, 0.12))
    sections = (
        (0.0, 0.034, 0.036, 0.86),
        (0.07, 0.072, 0.045, 0.84),
        (0.13, shoulder * 0.99, 0.058 * stout, 0.82),
        (0.35, shoulder * 0.93, 0.075 * stout + bulk, 0.75),
        (0.68, waist, 0.062 * stout + bulk, 0.63),
        (1.0, hip_wide + 0.7 * bulk, hip_deep + bulk, 0.5),
    )
    canvas.tube(
        top,
        view.pixel((hips[0], hips[1], low)),
        tuple(view.half_width(wide, deep, up) for _, wide, deep, up in sections),
        _upper_paint(person, view, folds, 0.0, 1.0),
        at=tuple(place for place, *_ in sections),
        round_ends=False,
    )


def _flared(
    canvas: Canvas, person: Appearance, skeleton: Skeleton, view: View, folds: Folds,
    length: float, coat: bool = False,
) -> None:  # fmt: skip
    """A skirt, or the skirts of a coat: as wide as the legs' stride asks for."""
    hips = skeleton.hips
    low: Point = (hips[0], hips[1], hips[2] - 0.48 * length)
    stride = [
        sin(view.yaw) * (leg.root[1] + (leg.middle[1] - leg.root[1]) * min(1.0, 1.6 * length))
        for leg in skeleton.legs
    ]
    reach = 0.5 * abs(stride[0] - stride[1]) * view.scale * view.stretch
    waist = view.half_width(0.085 * person.build**0.6, 0.065 * person.build)
    hem = view.half_width(0.095 + 0.03 * length, 0.075 + 0.03 * length) + 0.6 * reach
    paint = (
        _upper_paint(person, view, folds, 1.0, 1.0 + length)
        if coat
        else _covered(person, person.lower, view, folds, 0.55, 0.55 + 0.5 * length, 9.0)
    )
    canvas.tube(
        view.pixel((hips[0], hips[1], hips[2] + 0.07)),
        view.pixel(low),
        (waist, (waist + hem) * 0.52, hem),
        paint,
        at=(0.0, 0.4, 1.0),
        round_ends=False,
    )


def _upper_paint(person: Appearance, view: View, folds: Folds, start: float, stop: float) -> Paint:
    """The upper garment: pattern, open front, zip or collar, straps."""

    def paint(sideways: Plane, along: Plane) -> Plane:
        angle = surface_angle(sideways, view.yaw)
        place = start + (stop - start) * along
        cloth = person.upper.colours(angle, place)
        if person.opening > 0:
            wide = person.opening * (0.5 + 0.6 * place)
            gap = soft_step(wide - np.abs(angle), 8.0)
            cloth = cloth + gap[..., None] * (person.inner.colours(angle, place) - cloth)
            cloth = cloth * (1.0 - 0.3 * np.exp(-(((np.abs(angle) - wide) / 0.1) ** 2)))[..., None]
        elif person.bulk > 0.005:
            cloth = cloth * (1.0 - 0.3 * np.exp(-((angle / 0.07) ** 2)))[..., None]
        if start == 0.0:
            throat = soft_step(0.13 - 0.25 * np.abs(angle) - place, 40.0)
            cloth = blend(cloth, person.skin, throat * (np.abs(angle) < 1.2))
            cloth = paint_straps(person, cloth, angle, place)
        return cloth * (folds.shade(angle, place) * (1.03 - 0.1 * along))[..., None]

    return paint
