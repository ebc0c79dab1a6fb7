"""Paints a whole person from back to front: limbs, clothes, head, and what the person carries."""

from __future__ import annotations

from math import cos, sin

import numpy as np

from training.datasets.synthetic.clothes import Fabric
from training.datasets.synthetic.pose import Body, Point, move
from training.datasets.synthetic.raster import Paint, Plane, blend, plain, soft_step

HEADS = {"short": 1.04, "crop": 1.0, "bald": 0.98}
"""How much larger than the skull the head of a hair style is; 1.1 for all others."""

HAIRLINES = {"crop": 0.62, "short": 0.52, "bald": 2.0}
"""How high on the head hair begins; 0.48 for all others."""


def paint_figure(body: Body) -> None:
    """Paints the person, luggage included, on the canvas."""
    skeleton = body.skeleton
    depth = body.view.depth
    arms, legs = (
        sorted((1, 0), key=lambda side: depth(limbs[side].middle))
        for limbs in (skeleton.arms, skeleton.legs)
    )
    back_turned = cos(body.view.yaw) < 0
    if not back_turned:
        _backpack(body)
        _hair_behind(body)
    _arm(body, arms[0])
    for leg in legs:
        _leg(body, leg)
    _torso(body)
    _neck(body)
    if back_turned:
        _hair_behind(body)
        _backpack(body)
    _head(body)
    _hanging_bag(body)
    _arm(body, arms[1])
    _umbrella(body)


def _cloth(body: Body, fabric: Fabric, start: float, stop: float, cover: float = 9.0) -> Paint:
    """Paint of one bone: cloth up to `cover`, then skin; the bone spans start to stop of a limb."""
    if cover <= start:
        return plain(body.person.skin)

    def paint(sideways: Plane, along: Plane) -> Plane:
        place = start + (stop - start) * along
        # A plain cloth looks the same all round: no need to know where the front is.
        angle = sideways if fabric.pattern == "plain" else body.angle(sideways)
        cloth = fabric.colours(angle, place) * body.creases(sideways, place)[..., None]
        if cover > stop:
            return cloth
        hem = 1.0 - 0.2 * np.exp(-(((place - cover) / 0.03) ** 2))
        return blend(cloth * hem[..., None], body.person.skin, soft_step(place - cover, 40.0))

    return paint


def _arm(body: Body, side: int) -> None:
    person = body.person
    view = body.view
    (shoulder, elbow, wrist) = body.skeleton.arms[side]
    size = view.scale * (0.5 + 0.5 * view.stretch) * person.build**0.5
    sleeve = person.upper
    if sleeve.pattern in ("print", "two_tone"):
        sleeve = Fabric(sleeve.colour, sleeve.second)
    thick = person.bulk * view.scale + 0.004 * view.scale
    lower_thick = thick if person.sleeve > 0.5 else 0.0
    start = view.pixel(wrist)
    middle = view.pixel(elbow)
    end = (start[0] + 0.25 * (start[0] - middle[0]), start[1] + 0.25 * (start[1] - middle[1]))
    body.canvas.tube(start, end, (0.017 * size, 0.015 * size), plain(person.skin))
    lower = (0.026 * size + lower_thick, 0.019 * size + lower_thick * 0.8)
    body.tube(elbow, wrist, lower, _cloth(body, sleeve, 0.5, 1.0, person.sleeve))
    upper = (0.034 * size + thick, 0.028 * size + thick)
    body.tube(shoulder, elbow, upper, _cloth(body, sleeve, 0.0, 0.5, person.sleeve))


def _leg(body: Body, side: int) -> None:
    person = body.person
    view = body.view
    (hip, knee, ankle) = body.skeleton.legs[side]
    size = view.scale * (0.4 + 0.6 * view.stretch) * person.build**0.6
    heel = view.pixel(ankle)
    tip = view.pixel(body.skeleton.toes[side])
    start = (heel[0], heel[1] + 0.018 * size)
    end = (tip[0], tip[1] + 0.012 * size)
    upper = np.asarray(person.shoes, np.float32)
    sole = np.asarray(person.soles, np.float32)
    body.canvas.tube(
        start,
        end,
        (0.026 * size, 0.021 * size),
        lambda sideways, _along: upper + (sideways > 0.7)[..., None] * (sole - upper),
    )
    loose = person.leg_width if person.leg > 0.5 else 0.85
    lower = (0.041 * size * (0.6 + 0.4 * loose), 0.027 * size * loose)
    body.tube(knee, ankle, lower, _cloth(body, person.lower, 0.5, 1.0, person.leg))
    thigh = (0.062 * size, 0.043 * size * (0.6 + 0.4 * person.leg_width))
    body.tube(hip, knee, thigh, _cloth(body, person.lower, 0.0, 0.5, person.leg))


def _neck(body: Body) -> None:
    canvas = body.canvas
    person = body.person
    view = body.view
    width = view.half_width(0.031, 0.033, 0.87)
    x, y = neck = view.pixel(body.skeleton.neck)
    skin = plain(person.skin * (0.85, 0.83, 0.83))
    canvas.tube(neck, view.pixel(body.skeleton.head), (width, width), skin)
    if person.hood:
        thick = 0.022 * view.scale * (1.5 if cos(view.yaw) < 0 else 0.9)
        left = (x - 1.2 * width, y)
        right = (x + 1.2 * width, y)
        canvas.tube(left, right, (thick, thick), plain(person.upper.colour))


def _torso(body: Body) -> None:
    """Hips or skirt first, then the upper garment over them."""
    person = body.person
    view = body.view
    hips = body.skeleton.hips
    stout = person.build
    bulk = person.bulk
    hip_wide = 0.088 * stout**0.6
    hip_deep = 0.062 * stout
    if person.skirt > 0:
        stop = 0.55 + 0.5 * person.skirt
        _flared(body, person.skirt, _cloth(body, person.lower, 0.55, stop))
    else:
        width = view.half_width(hip_wide, hip_deep)
        seat = _cloth(body, person.lower, -0.2, 0.05)
        body.tube(move(hips, up=0.06), move(hips, up=-0.05), (width * 0.95, width * 0.9), seat)
    if person.hem > 0.2:
        _flared(body, person.hem, _upper_paint(body, 1.0, 1.0 + person.hem))
    shoulder = 0.108 * person.shoulders * stout**0.3 + bulk
    low = hips[2] - 0.02 - 0.4 * max(0.0, min(person.hem, 0.12))
    places, wide, deep, up = zip(
        (0.0, 0.034, 0.036, 0.86),
        (0.07, 0.072, 0.045, 0.84),
        (0.13, shoulder * 0.99, 0.058 * stout, 0.82),
        (0.35, shoulder * 0.93, 0.075 * stout + bulk, 0.75),
        (0.68, 0.077 * stout + bulk, 0.062 * stout + bulk, 0.63),
        (1.0, hip_wide + 0.7 * bulk, hip_deep + bulk, 0.5),
        strict=True,
    )
    body.tube(
        move(body.skeleton.neck, up=0.012),
        (hips[0], hips[1], low),
        tuple(map(view.half_width, wide, deep, up)),
        _upper_paint(body, 0.0, 1.0),
        at=places,
        round_ends=False,
    )


def _flared(body: Body, length: float, paint: Paint) -> None:
    """A skirt, or the skirts of a coat: as wide as the legs' stride asks for."""
    person = body.person
    view = body.view
    hips = body.skeleton.hips
    left, right = (
        sin(view.yaw) * (leg.root[1] + (leg.middle[1] - leg.root[1]) * min(1.0, 1.6 * length))
        for leg in body.skeleton.legs
    )
    reach = 0.5 * abs(left - right) * view.scale * view.stretch
    waist = view.half_width(0.085 * person.build**0.6, 0.065 * person.build)
    hem = view.half_width(0.095 + 0.03 * length, 0.075 + 0.03 * length) + 0.6 * reach
    widths = (waist, (waist + hem) * 0.52, hem)
    start = move(hips, up=0.07)
    end = move(hips, up=-0.48 * length)
    body.tube(start, end, widths, paint, at=(0.0, 0.4, 1.0), round_ends=False)


def _upper_paint(body: Body, start: float, stop: float) -> Paint:
    """Return the upper garment: pattern, open front, zip or collar, straps."""
    person = body.person

    def paint(sideways: Plane, along: Plane) -> Plane:
        angle = body.angle(sideways)
        aside = np.abs(angle)
        place = start + (stop - start) * along
        cloth: Plane = person.upper.colours(angle, place)
        if person.opening > 0:
            wide = person.opening * (0.5 + 0.6 * place)
            gap = soft_step(wide - aside, 8.0)
            cloth = cloth + gap[..., None] * (person.inner.colours(angle, place) - cloth)
            cloth = cloth * (1.0 - 0.3 * np.exp(-(((aside - wide) / 0.1) ** 2)))[..., None]
        elif person.bulk > 0.005:
            cloth = cloth * (1.0 - 0.3 * np.exp(-((angle / 0.07) ** 2)))[..., None]
        if start == 0.0:
            throat = soft_step(0.13 - 0.25 * aside - place, 40.0)
            cloth = blend(cloth, person.skin, throat * (aside < 1.2))
            if person.bag == "backpack":
                strap = np.exp(-(((aside - 0.62) / 0.13) ** 4)) * (place < 0.62)
                cloth = blend(cloth, 0.7 * person.bag_colour, strap)
            elif person.bag == "shoulder":
                across = np.abs(np.sin(angle)) * np.sign(np.sin(angle))
                strap = np.exp(-(((across - 0.75 + 1.6 * (place - 0.05)) / 0.11) ** 4))
                cloth = blend(cloth, 0.7 * person.bag_colour, strap)
        return cloth * (body.creases(angle, place) * (1.03 - 0.1 * along))[..., None]

    return paint


def _head(body: Body) -> None:
    """Paints the head as a ball whose surface is face, hair or hat by where it points."""
    person = body.person
    view = body.view
    head = body.skeleton.head
    size = person.head * view.scale * HEADS.get(person.hair_style, 1.1)
    radii = (0.047 * size * (0.4 + 0.6 * view.stretch), 0.066 * size)
    hairline = HAIRLINES.get(person.hair_style, 0.48)
    # A head leans back a little towards what it walks to: half the camera's pitch shows.
    tip_sin = sin(0.5 * view.pitch)
    tip_cos = cos(0.5 * view.pitch)

    def paint(right: Plane, rise: Plane) -> Plane:
        near = np.sqrt(np.maximum(1.0 - right * right - rise * rise, 0.0))
        up = rise * tip_cos + near * tip_sin
        towards = near * tip_cos - rise * tip_sin
        front = right * sin(view.yaw) + towards * cos(view.yaw)
        left = right * cos(view.yaw) - towards * sin(view.yaw)
        # Hair ends lower behind the ears than at the temples; below it is the nape.
        bare = soft_step(front - 0.1 - 0.25 * up, 6.0) * soft_step(hairline - up, 8.0)
        if person.hair_style in ("short", "crop", "bun", "tail"):
            bare = np.maximum(bare, soft_step(-0.5 - up, 6.0))
        if person.hair_style == "bald":
            bare = np.maximum(bare, soft_step(0.15 + 0.2 * front - np.abs(up - 0.9) + 0.4, 5.0))
        gloss = 1.0 + 0.25 * np.exp(-(((up - 0.65) / 0.2) ** 2))
        hair = np.asarray(person.hair, np.float32) * gloss[..., None]
        eyes = np.exp(-(((up - 0.08) / 0.09) ** 2) - ((np.abs(left) - 0.36) / 0.16) ** 2)
        mouth = np.exp(-(((up + 0.5) / 0.07) ** 2) - (left / 0.25) ** 2)
        features = (0.45 * eyes + 0.25 * mouth) * (front > 0.2)
        colours: Plane = blend(hair, person.skin, bare) * (1.0 - features)[..., None]
        if person.hat != "none":
            brim = 0.3 if person.hat == "cap" else 0.22
            colours = blend(colours, person.hat_colour, soft_step(up - brim + 0.12 * front, 10.0))
        return colours

    body.canvas.ellipsoid(view.pixel(head), radii, paint)
    if person.hat == "cap" and cos(view.yaw) > -0.4:
        root = move(head, forward=0.03, up=0.03)
        tip = move(head, forward=0.075, up=0.022)
        wide = view.half_width(0.035, 0.008, 0.95)
        body.tube(root, tip, (wide, wide * 0.8), plain(0.8 * person.hat_colour))


def _hair_behind(body: Body) -> None:
    """Paints hair that hangs behind the head."""
    person = body.person
    view = body.view
    head = body.skeleton.head
    falls = {"long": -0.15, "bob": -0.075, "tail": -0.12, "bun": 0.025}
    if person.hair_style not in falls:
        return
    fall = falls[person.hair_style]
    if person.hair_style in ("tail", "bun"):
        start = move(head, forward=-0.055, up=0.035)
        end = move(head, forward=-0.075, up=fall)
        wide = 0.02 * view.scale
        body.tube(start, end, (wide, wide * 0.6), plain(person.hair))
        return
    hair = np.asarray(person.hair, np.float32)

    def strands(sideways: Plane, along: Plane) -> Plane:
        gloss = 0.2 * np.exp(-((along - 0.3) ** 2) / 0.02)
        colours: Plane = hair * (1.0 + 0.15 * np.sin(14 * sideways) + gloss)[..., None]
        return colours

    start = move(head, forward=-0.012, up=0.01)
    end = move(head, forward=-0.045, up=fall)
    wide = view.half_width(0.052 * person.head, 0.04 * person.head, 0.9)
    body.tube(start, end, (wide, wide * 1.02, wide * 0.75), strands, at=(0.0, 0.6, 1.0))


def _pouch(body: Body) -> Paint:
    base = np.asarray(body.person.bag_colour, np.float32)

    def paint(sideways: Plane, along: Plane) -> Plane:
        pocket = np.exp(-(((along - 0.55) / 0.03) ** 2)) * (np.abs(sideways) < 0.75)
        rim = 0.25 * np.abs(sideways) ** 6
        colours: Plane = base * (1.05 - 0.25 * pocket - rim - 0.15 * along)[..., None]
        return colours

    return paint


def _backpack(body: Body) -> None:
    if body.person.bag == "backpack":
        top = move(body.skeleton.neck, forward=-0.095, up=-0.035)
        bottom = move(body.skeleton.hips, forward=-0.105, up=0.09)
        wide = body.view.half_width(0.08, 0.05)
        widths = (wide * 0.6, wide * 0.95, wide, wide * 0.92)
        body.tube(top, bottom, widths, _pouch(body), at=(0.0, 0.15, 0.7, 1.0))


def _hanging_bag(body: Body) -> None:
    """Paints the bag at a hand or at the hip.

    Bags hang on the right, straps cross from the left shoulder: a camera on the other side does
    not see the bag, as in life.
    """
    bag = body.person.bag
    view = body.view
    if bag == "shoulder":
        centre: Point = (-0.115, -0.02, body.skeleton.hips[2] + 0.015)
        wide = view.half_width(0.03, 0.07)
        high = 0.055
        if view.depth(centre) < -0.07:
            return
    elif bag in ("hand", "tote"):
        hand = body.skeleton.arms[1].tip
        drop, high = (0.075, 0.04) if bag == "hand" else (0.125, 0.07)
        centre = move(hand, up=-drop)
        wide = view.half_width(0.022, 0.075)
        for side in (-0.4, 0.4):
            handle = move(centre, forward=side * 0.1, up=high)
            body.tube(hand, handle, (0.8, 0.8), plain(0.7 * body.person.bag_colour))
    else:
        return
    top = move(centre, up=high)
    bottom = move(centre, up=-high)
    body.tube(top, bottom, (wide * 0.9, wide), _pouch(body), round_ends=False)


def _umbrella(body: Body) -> None:
    """Paints an open umbrella over the head."""
    if body.person.umbrella is None:
        return
    view = body.view
    x, y = tip = view.pixel((-0.08, 0.06, body.skeleton.head[2] + 0.1))
    body.canvas.tube(view.pixel((-0.12, 0.1, 0.7)), tip, (0.9, 0.9), plain((0.3, 0.3, 0.3)))
    colour = np.asarray(body.person.umbrella, np.float32)
    radii = (0.21 * view.scale * view.stretch, 0.095 * view.scale)

    def ribs(right: Plane, rise: Plane) -> Plane:
        shade = 0.9 + 0.12 * np.sin(9 * right) + 0.1 * rise
        return colour * shade[..., None]

    body.canvas.ellipsoid((x, y + 0.02 * view.scale), radii, ribs)
