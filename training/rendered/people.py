"""People: a build, an outfit, a bag and a way of walking, all of which one person keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.rendered.arrays import Indices, Numbers, Random
from training.rendered.bags import draw_bag
from training.rendered.body import DETAILS, ORIGINS, Build
from training.rendered.cloth import Cloth, Coordinates, Overlay
from training.rendered.gait import Walk, draw_walk
from training.rendered.garments import Layer, Wardrobe
from training.rendered.outfits import Source, draw_outfit
from training.rendered.palettes import SKIN, hair_colour


@dataclass(frozen=True)
class Figure:
    """A dressed person at rest: all layers as one mesh.

    Attributes:
        points: `(n, 3)` in metres.
        triangles: `(m, 3)`.
        weights, chart, inside: of each point as in a layer.
        ranks: `(n)`, the rank of each point's layer.
        layer_of: `(m)`, the index of each triangle's layer in `cloths`.
        joints: the heads of the moving bones, `(bones, 3)`.
        walk: how the person walks.
    """

    points: Numbers
    triangles: Indices
    weights: Numbers
    chart: Numbers
    inside: Numbers
    ranks: Numbers
    layer_of: Indices
    cloths: tuple[Cloth, ...]
    joints: Numbers
    walk: Walk


def draw_figure(source: Source, wardrobe: Wardrobe) -> Figure:
    """Draw a person, with everything by which the person can be recognised."""
    random = source.person
    build = draw_build(random, is_female=bool(source.clothes.random() < 0.5))
    model = wardrobe.body
    body = model.shape(build)
    joints = model.joints(body)
    bag = draw_bag(random, source.stock)
    outfit = draw_outfit(source, build, bag, wardrobe, body)
    skin = Layer(
        points=body,
        triangles=_without(model.skin, outfit.hidden, model.count),
        weights=model.weights,
        chart=wardrobe.chart.table,
        inside=np.ones(model.count, np.float32),
        cloth=_draw_skin(random, build, joints[model.bone("head"), 1]),
    )
    bags = [] if bag is None else [bag.layer(model, joints)]
    walk = draw_walk(random, None if bag is None else bag.arm)
    return _join([skin, *outfit.layers, *bags], joints, walk)


def draw_build(random: Random, is_female: bool) -> Build:
    """Draw a build: mostly of adults, of about equal shares of the origins."""
    ages = ((0.42, 0.7), (0.7, 1), (0, 0.4))
    details = random.uniform(-0.6, 0.6, len(DETAILS))
    african, asian, caucasian = random.dirichlet((0.6, 0.6, 0.6))
    return Build(
        is_female=is_female,
        age=random.uniform(*ages[random.choice(3, p=[0.72, 0.2, 0.08])]),
        muscle=random.uniform(0.25, 0.75),
        weight=float(np.clip(random.normal(0.52, 0.2), 0.1, 1)),
        height=float(np.clip(random.normal(0.5, 0.1), 0.25, 0.75)),
        proportions=random.uniform(0.4, 0.9),
        origins=(african, asian, caucasian),
        details=tuple(np.where(random.random(len(DETAILS)) < 0.5, details, 0)),
    )


def _draw_skin(random: Random, build: Build, mouth: float) -> Cloth:
    """Draw the skin; `mouth` is the height of the head's joint, near the mouth's."""
    origin = ORIGINS[int(np.argmax(build.origins))]
    tone = (random.choice(SKIN[origin]) * random.uniform(0.9, 1.06)).clip(0, 1)
    overlays = []
    if not build.is_female and build.age > 0.4 and random.random() < 0.25:
        high = mouth - random.uniform(0, 0.03)

        def beard(at: Coordinates) -> Numbers:
            return np.where((at.v < high) & (at.v > high - 0.06) & (at.u > 0.02), 0.8, 0)

        overlays.append(Overlay(hair_colour(random, build.age > 0.8), beard))
    return Cloth(tone, tuple(overlays), heather=0.02, folds=0.02)


def _without(triangles: Indices, hidden: Indices, count: int) -> Indices:
    """Return the triangles of which at least one corner is not hidden."""
    is_hidden = np.zeros(count, bool)
    is_hidden[hidden] = True
    return triangles[~is_hidden[triangles].all(1)]


def _join(layers: list[Layer], joints: Numbers, walk: Walk) -> Figure:
    sizes = [len(layer.points) for layer in layers]
    starts = np.cumsum([0, *sizes[:-1]])
    return Figure(
        points=np.concatenate([layer.points for layer in layers]),
        triangles=np.concatenate(
            [layer.triangles + start for layer, start in zip(layers, starts, strict=True)]
        ),
        weights=np.concatenate([layer.weights for layer in layers]),
        chart=np.concatenate([layer.chart for layer in layers]),
        inside=np.concatenate([layer.inside for layer in layers]),
        ranks=np.repeat([float(layer.rank) for layer in layers], sizes),
        layer_of=np.repeat(np.arange(len(layers)), [len(layer.triangles) for layer in layers]),
        cloths=tuple(layer.cloth for layer in layers),
        joints=joints,
        walk=walk,
    )
