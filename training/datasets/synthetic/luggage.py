"""Paints what a person carries: bags where the viewpoint shows them, straps, an umbrella."""

from __future__ import annotations

import numpy as np

from training.datasets.synthetic.clothes import Appearance, Colour, blend, plain
from training.datasets.synthetic.pose import Body, Point, move
from training.datasets.synthetic.raster import Paint, Plane


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
