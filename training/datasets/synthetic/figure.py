"""Paints a whole person: limbs and garments from back to front, as the camera sees them."""

from __future__ import annotations

from math import cos, sin

import numpy as np

from training.datasets.synthetic.clothes import Appearance, Fabric, blend, plain, surface_angle
from training.datasets.synthetic.details import (
    paint_hair_behind,
    paint_head,
    paint_luggage,
    paint_straps,
    paint_umbrella,
)
from training.datasets.synthetic.pose import Body, move
from training.datasets.synthetic.raster import Paint, Plane, soft_step


def paint_figure(body: Body) -> None:
    """Paints the person, luggage included, on the canvas."""
    arms, legs = (
        sorted((1, 0), key=lambda side: body.view.depth(limbs[side].middle))
        for limbs in (body.skeleton.arms, body.skeleton.legs)
    )
    back_turned = cos(body.view.yaw) < 0
    if not back_turned:
        paint_luggage(body, ("backpack",))
        paint_hair_behind(body)
    _arm(body, arms[0])
    for leg in legs:
        _leg(body, leg)
    _torso(body)
    _neck(body)
    if back_turned:
        paint_hair_behind(body)
        paint_luggage(body, ("backpack",))
    paint_head(body)
    paint_luggage(body, ("shoulder", "hand", "tote"))
    _arm(body, arms[1])
    paint_umbrella(body)


def _covered(body: Body, fabric: Fabric, start: float, stop: float, cover: float) -> Paint:
    """Paint of one bone: cloth up to `cover`, then skin; the bone spans start to stop of a limb."""
    skin, yaw, folds = body.person.skin, body.view.yaw, body.folds
    if cover <= start:
        return plain(skin)

    def paint(sideways: Plane, along: Plane) -> Plane:
        place = start + (stop - start) * along
        # A plain cloth looks the same all round: no need to know where the front is.
        angle = sideways if fabric.pattern == "plain" else surface_angle(sideways, yaw)
        cloth = fabric.colours(angle, place) * folds.shade(sideways, place)[..., None]
        if cover > stop:
            return cloth
        edge = soft_step(place - cover, 40.0)
        hem = 1.0 - 0.2 * np.exp(-(((place - cover) / 0.03) ** 2))
        return blend(cloth * hem[..., None], skin, edge)

    return paint


def _arm(body: Body, side: int) -> None:
    canvas, person, view, limb = body.canvas, body.person, body.view, body.skeleton.arms[side]
    size = view.scale * (0.5 + 0.5 * view.stretch) * person.build**0.5
    sleeved = person.upper
    if sleeved.pattern in ("print", "two_tone"):
        sleeved = Fabric(sleeved.colour, sleeved.second)
    elbow, wrist = view.pixel(limb.middle), view.pixel(limb.tip)
    upper_cloth = person.bulk * view.scale + 0.004 * view.scale
    lower_cloth = upper_cloth if person.sleeve > 0.5 else 0.0
    hand = (wrist[0] + 0.25 * (wrist[0] - elbow[0]), wrist[1] + 0.25 * (wrist[1] - elbow[1]))
    canvas.tube(wrist, hand, (0.017 * size, 0.015 * size), plain(person.skin))
    lower = (0.026 * size + lower_cloth, 0.019 * size + lower_cloth * 0.8)
    canvas.tube(elbow, wrist, lower, _covered(body, sleeved, 0.5, 1.0, person.sleeve))
    upper = (0.034 * size + upper_cloth, 0.028 * size + upper_cloth)
    body.tube(limb.root, limb.middle, upper, _covered(body, sleeved, 0.0, 0.5, person.sleeve))


def _leg(body: Body, side: int) -> None:
    person, view, limb = body.person, body.view, body.skeleton.legs[side]
    size = view.scale * (0.4 + 0.6 * view.stretch) * person.build**0.6
    ankle, toe = view.pixel(limb.tip), view.pixel(body.skeleton.toes[side])
    heel, tip = (ankle[0], ankle[1] + 0.018 * size), (toe[0], toe[1] + 0.012 * size)
    body.canvas.tube(heel, tip, (0.026 * size, 0.021 * size), _shoe(person))
    loose = person.leg_width if person.leg > 0.5 else 0.85
    lower = (0.041 * size * (0.6 + 0.4 * loose), 0.027 * size * loose)
    body.tube(limb.middle, limb.tip, lower, _covered(body, person.lower, 0.5, 1.0, person.leg))
    upper = (0.062 * size, 0.043 * size * (0.6 + 0.4 * person.leg_width))
    body.tube(limb.root, limb.middle, upper, _covered(body, person.lower, 0.0, 0.5, person.leg))


def _shoe(person: Appearance) -> Paint:
    upper, sole = np.asarray(person.shoes, np.float32), np.asarray(person.soles, np.float32)
    return lambda sideways, _along: upper + (sideways > 0.7)[..., None] * (sole - upper)


def _neck(body: Body) -> None:
    canvas, person, view, skeleton = body.canvas, body.person, body.view, body.skeleton
    width = view.half_width(0.031, 0.033, 0.87)
    neck, head = view.pixel(skeleton.neck), view.pixel(skeleton.head)
    skin = plain((person.skin[0] * 0.85, person.skin[1] * 0.83, person.skin[2] * 0.83))
    canvas.tube(neck, head, (width, width), skin)
    if person.hood:
        left, right = (neck[0] - 1.2 * width, neck[1]), (neck[0] + 1.2 * width, neck[1])
        thick = 0.022 * view.scale * (1.5 if cos(view.yaw) < 0 else 0.9)
        canvas.tube(left, right, (thick, thick), plain(person.upper.colour))


def _torso(body: Body) -> None:
    """Hips or skirt first, then the upper garment over them."""
    person, view = body.person, body.view
    stout, bulk = person.build, person.bulk
    hips, neck = body.skeleton.hips, body.skeleton.neck
    hip_wide, hip_deep = 0.088 * stout**0.6, 0.062 * stout
    if person.skirt > 0:
        _flared(body, person.skirt)
    else:
        width = view.half_width(hip_wide, hip_deep)
        seat = _covered(body, person.lower, -0.2, 0.05, 9.0)
        body.tube(move(hips, up=0.06), move(hips, up=-0.05), (width * 0.95, width * 0.9), seat)
    if person.hem > 0.2:
        _flared(body, person.hem, coat=True)
    shoulder = 0.108 * person.shoulders * stout**0.3 + bulk
    waist = 0.077 * stout + bulk
    low = hips[2] - 0.02 - 0.4 * max(0.0, min(person.hem, 0.12))
    sections = (
        (0.0, 0.034, 0.036, 0.86),
        (0.07, 0.072, 0.045, 0.84),
        (0.13, shoulder * 0.99, 0.058 * stout, 0.82),
        (0.35, shoulder * 0.93, 0.075 * stout + bulk, 0.75),
        (0.68, waist, 0.062 * stout + bulk, 0.63),
        (1.0, hip_wide + 0.7 * bulk, hip_deep + bulk, 0.5),
    )
    body.tube(
        move(neck, up=0.012),
        (hips[0], hips[1], low),
        tuple(view.half_width(wide, deep, up) for _, wide, deep, up in sections),
        _upper_paint(body, 0.0, 1.0),
        at=tuple(place for place, *_ in sections),
        round_ends=False,
    )


def _flared(body: Body, length: float, coat: bool = False) -> None:
    """A skirt, or the skirts of a coat: as wide as the legs' stride asks for."""
    person, view, hips = body.person, body.view, body.skeleton.hips
    stride = [
        sin(view.yaw) * (leg.root[1] + (leg.middle[1] - leg.root[1]) * min(1.0, 1.6 * length))
        for leg in body.skeleton.legs
    ]
    reach = 0.5 * abs(stride[0] - stride[1]) * view.scale * view.stretch
    waist = view.half_width(0.085 * person.build**0.6, 0.065 * person.build)
    hem = view.half_width(0.095 + 0.03 * length, 0.075 + 0.03 * length) + 0.6 * reach
    body.tube(
        move(hips, up=0.07),
        move(hips, up=-0.48 * length),
        (waist, (waist + hem) * 0.52, hem),
        _upper_paint(body, 1.0, 1.0 + length)
        if coat
        else _covered(body, person.lower, 0.55, 0.55 + 0.5 * length, 9.0),
        at=(0.0, 0.4, 1.0),
        round_ends=False,
    )


def _upper_paint(body: Body, start: float, stop: float) -> Paint:
    """The upper garment: pattern, open front, zip or collar, straps."""
    person, yaw, folds = body.person, body.view.yaw, body.folds

    def paint(sideways: Plane, along: Plane) -> Plane:
        angle = surface_angle(sideways, yaw)
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
