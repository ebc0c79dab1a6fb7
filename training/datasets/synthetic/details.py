"""Paints head, face, hair and hat, and what a person carries: bags, straps, an umbrella."""

from __future__ import annotations

from math import cos, sin

import numpy as np

from training.datasets.synthetic.clothes import Appearance, Colour, blend, plain
from training.datasets.synthetic.pose import Body, Point, move
from training.datasets.synthetic.raster import Paint, Plane, soft_step

HAIRLINES = {"crop": 0.62, "short": 0.52, "bald": 2.0}


def paint_head(body: Body) -> None:
    """Paints the head as a ball whose surface is face, hair or hat by where it points."""
    person, view, head = body.person, body.view, body.skeleton.head
    thick = {"short": 1.04, "crop": 1.0, "bald": 0.98}.get(person.hair_style, 1.1)
    size = person.head * view.scale * thick
    centre = view.pixel(head)
    radii = (0.047 * size * (0.4 + 0.6 * view.stretch), 0.066 * size)
    hairline = HAIRLINES.get(person.hair_style, 0.48)

    # A head leans back a little towards what it walks to: half the camera's pitch shows.
    tip_sin, tip_cos = sin(0.5 * view.pitch), cos(0.5 * view.pitch)

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
        colours = blend(hair, person.skin, bare)
        eyes = np.exp(-(((up - 0.08) / 0.09) ** 2) - ((np.abs(left) - 0.36) / 0.16) ** 2)
        mouth = np.exp(-(((up + 0.5) / 0.07) ** 2) - (left / 0.25) ** 2)
        features = (0.45 * eyes + 0.25 * mouth) * (front > 0.2)
        colours = colours * (1.0 - features)[..., None]
        if person.hat != "none":
            brim = 0.3 if person.hat == "cap" else 0.22
            colours = blend(colours, person.hat_colour, soft_step(up - brim + 0.12 * front, 10.0))
        return colours

    body.canvas.ellipsoid(centre, radii, paint)
    if person.hat == "cap" and cos(view.yaw) > -0.4:
        dark = (person.hat_colour[0] * 0.8, person.hat_colour[1] * 0.8, person.hat_colour[2] * 0.8)
        root, tip = move(head, forward=0.03, up=0.03), move(head, forward=0.075, up=0.022)
        wide = view.half_width(0.035, 0.008, 0.95)
        body.tube(root, tip, (wide, wide * 0.8), plain(dark))


def paint_hair_behind(body: Body) -> None:
    """Paints hair that hangs behind the head."""
    person, view, head = body.person, body.view, body.skeleton.head
    if person.hair_style in ("long", "bob"):
        fall = 0.15 if person.hair_style == "long" else 0.075
        start, end = move(head, forward=-0.012, up=0.01), move(head, forward=-0.045, up=-fall)
        wide = view.half_width(0.052 * person.head, 0.04 * person.head, 0.9)
        widths = (wide, wide * 1.02, wide * 0.75)
        body.tube(start, end, widths, _strands(person), at=(0.0, 0.6, 1.0))
    elif person.hair_style in ("tail", "bun"):
        fall = 0.12 if person.hair_style == "tail" else -0.025
        start, end = move(head, forward=-0.055, up=0.035), move(head, forward=-0.075, up=-fall)
        wide = 0.02 * view.scale
        body.tube(start, end, (wide, wide * 0.6), plain(person.hair))


def _strands(person: Appearance) -> Paint:
    hair = np.asarray(person.hair, np.float32)

    def paint(sideways: Plane, along: Plane) -> Plane:
        gloss = 0.2 * np.exp(-((along - 0.3) ** 2) / 0.02)
        colours: Plane = hair * (1.0 + 0.15 * np.sin(14 * sideways) + gloss)[..., None]
        return colours

    return paint


def paint_luggage(body: Body, kinds: tuple[str, ...]) -> None:
    """Paints the person's bag if it is one of `kinds`."""
    bag, view = body.person.bag, body.view
    hips, neck = body.skeleton.hips, body.skeleton.neck
    if bag not in kinds:
        return
    pouch = _pouch(body.person.bag_colour)
    if bag == "backpack":
        top, bottom = move(neck, forward=-0.095, up=-0.035), move(hips, forward=-0.105, up=0.09)
        wide = view.half_width(0.08, 0.05)
        widths = (wide * 0.6, wide * 0.95, wide, wide * 0.92)
        body.tube(top, bottom, widths, pouch, at=(0.0, 0.15, 0.7, 1.0))
        return
    # Bags hang on the right, straps cross from the left shoulder: a camera on the other side
    # does not see the bag, as in life.
    if bag == "shoulder":
        centre: Point = (-0.115, -0.02, hips[2] + 0.015)
        wide, high = view.half_width(0.03, 0.07), 0.055
        if view.depth(centre) < -0.07:
            return
    else:
        hand = body.skeleton.arms[1].tip
        drop, high = (0.075, 0.04) if bag == "hand" else (0.125, 0.07)
        centre = move(hand, up=-drop)
        wide = view.half_width(0.022, 0.075)
        for side in (-0.4, 0.4):
            handle = move(centre, forward=side * 0.1, up=high)
            body.tube(hand, handle, (0.8, 0.8), plain(_dark(body.person.bag_colour)))
    top, bottom = move(centre, up=high), move(centre, up=-high)
    body.tube(top, bottom, (wide * 0.9, wide), pouch, round_ends=False)


def paint_straps(person: Appearance, cloth: Plane, angle: Plane, along: Plane) -> Plane:
    """Lays a bag's straps over the upper garment's colours; `angle` 0 is the chest's middle."""
    if person.bag == "backpack":
        strap = np.exp(-(((np.abs(angle) - 0.62) / 0.13) ** 4)) * (along < 0.62)
        return blend(cloth, _dark(person.bag_colour), strap)
    if person.bag == "shoulder":
        across = np.abs(np.sin(angle)) * np.sign(np.sin(angle))
        strap = np.exp(-(((across - 0.75 + 1.6 * (along - 0.05)) / 0.11) ** 4))
        return blend(cloth, _dark(person.bag_colour), strap)
    return cloth


def paint_umbrella(body: Body) -> None:
    """Paints an open umbrella over the head."""
    if body.person.umbrella is None:
        return
    canvas, view, head = body.canvas, body.view, body.skeleton.head
    hand = view.pixel((-0.12, 0.1, 0.7))
    tip = view.pixel((-0.08, 0.06, head[2] + 0.1))
    canvas.tube(hand, tip, (0.9, 0.9), plain((0.3, 0.3, 0.3)))
    colour = np.asarray(body.person.umbrella, np.float32)
    reach = 0.21 * view.scale * view.stretch

    def ribs(right: Plane, rise: Plane) -> Plane:
        shade = 0.9 + 0.12 * np.sin(9 * right) + 0.1 * rise
        return colour * shade[..., None]

    canvas.ellipsoid((tip[0], tip[1] + 0.02 * view.scale), (reach, 0.095 * view.scale), ribs)


def _dark(colour: Colour) -> Colour:
    return (colour[0] * 0.7, colour[1] * 0.7, colour[2] * 0.7)


def _pouch(colour: Colour) -> Paint:
    base = np.asarray(colour, np.float32)

    def paint(sideways: Plane, along: Plane) -> Plane:
        pocket = np.exp(-(((along - 0.55) / 0.03) ** 2)) * (np.abs(sideways) < 0.75)
        rim = 0.25 * np.abs(sideways) ** 6
        colours: Plane = base * (1.05 - 0.25 * pocket - rim - 0.15 * along)[..., None]
        return colours

    return paint
