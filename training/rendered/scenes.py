"""Scenes behind and before people: walls, grounds, plants, cars and poles."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from model.arrays import Pixels
from training.rendered.arrays import Numbers, Random
from training.rendered.noise import COARSE, FINE
from training.rendered.palettes import EARTH, VIVID, thing_colour

WIDTH = 1400
HEIGHT = 600
GREEN = np.array([0.2, 0.32, 0.14])
BLACK = (25, 25, 28)


def draw_scene(random: Random, horizon: float) -> Pixels:
    """Draw a street, a hall or a path without people, `(HEIGHT, WIDTH, 3)` uint8.

    Args:
        horizon: the share of the height above the ground.
    """
    line = int(HEIGHT * horizon)
    wall = _plain_colour(random)
    ground = _plain_colour(random)
    image = Image.new("RGB", (WIDTH, HEIGHT), _rgb(ground))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, WIDTH, line), fill=_rgb(wall))
    _draw_wall(random, draw, wall, line)
    _draw_ground(random, draw, ground, line)
    for _ in range(random.integers(2, 12)):
        foot = random.uniform(line, HEIGHT * 0.85)
        place = (random.uniform(0, WIDTH), foot, (foot - line + 60) / HEIGHT)
        (_draw_car, _draw_pole, _draw_box, _draw_passer)[random.integers(4)](random, draw, *place)
    softened = image.filter(ImageFilter.GaussianBlur(random.uniform(0.8, 2.5)))
    return _texture(random, np.asarray(softened, np.float32))


def _draw_wall(random: Random, draw: ImageDraw.ImageDraw, wall: Numbers, line: int) -> None:
    way = random.integers(4)
    if way == 0:
        _draw_bricks(random, draw, wall, line)
    elif way == 1:
        _draw_windows(random, draw, wall, line)
    elif way == 2:
        _draw_plants(random, draw, line)
    else:
        _draw_shops(random, draw, line)


def _draw_ground(random: Random, draw: ImageDraw.ImageDraw, ground: Numbers, line: int) -> None:
    way = random.integers(4)
    if way == 0:
        _draw_lanes(random, draw, ground, line)
    elif way == 1:
        _draw_slabs(random, draw, ground, line)
    elif way == 2:
        _draw_crossing(random, draw, line)
    else:
        _draw_patches(random, draw, ground, line)


def occlude(random: Random, picture: Numbers) -> Numbers:
    """Draw a pole, a wall or a bush before a person.

    Args:
        picture: `(height, width, 3)` from 0 to 1.
    """
    height, width = picture.shape[:2]
    image = Image.fromarray((255 * picture.clip(0, 1)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    colour = _rgb(thing_colour(random))
    way = random.integers(3)
    if way == 0:
        x = random.uniform(0, width)
        half = random.uniform(0.012, 0.055) * height
        draw.rectangle((x - half, 0, x + half, height), fill=colour)
    elif way == 1:
        top = height * random.uniform(0.5, 0.85)
        draw.rectangle((0, top, width * random.uniform(0.3, 1.2), height), fill=colour)
    else:
        is_right = random.random() < 0.5
        for _ in range(60):
            inward = random.beta(1, 4)
            x = width * (1 - inward if is_right else inward)
            size = random.uniform(0.012, 0.05) * height
            _draw_leaf(random, draw, x, random.uniform(0.3, 1) * height, size, height)
    blurred = image.filter(ImageFilter.GaussianBlur(0.003 * height))
    return np.asarray(blurred, np.float32) / 255


def _plain_colour(random: Random) -> Numbers:
    """Return a colour of walls and grounds, mostly a grey."""
    if random.random() < 0.12:
        vivid: Numbers = random.choice(np.concatenate([EARTH, VIVID])) * 0.8
        return vivid
    return (random.uniform(0.3, 0.85) + random.normal(0, 0.04, 3)).clip(0, 1)


def _rgb(colour: Numbers) -> tuple[int, int, int]:
    red, green, blue = (int(channel) for channel in 255 * colour.clip(0, 1))
    return red, green, blue


def _texture(random: Random, pixels: Numbers) -> Pixels:
    row, column = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    shade = 1 + random.uniform(-0.3, 0.3) * (column / WIDTH - 0.5)
    shade += random.uniform(0, 0.08) * FINE.at(column, row, random.uniform(200, 700))
    shade += random.uniform(0, 0.14) * COARSE.at(column, row, random.uniform(300, 1500))
    return (pixels * shade[..., None]).clip(0, 255).astype(np.uint8)


def _draw_bricks(random: Random, draw: ImageDraw.ImageDraw, wall: Numbers, line: int) -> None:
    step = int(random.integers(14, 60))
    joint = _rgb(wall * random.uniform(0.7, 1.25))
    for y in range(0, line, step):
        draw.line((0, y, WIDTH, y), fill=joint, width=2)
        for x in range((y // step % 2) * step, WIDTH, 2 * step):
            draw.line((x, y, x, min(y + step, line)), fill=joint, width=2)


def _draw_windows(random: Random, draw: ImageDraw.ImageDraw, wall: Numbers, line: int) -> None:
    step = int(random.integers(70, 260))
    glass = thing_colour(random)
    frame = _rgb(wall * random.uniform(0.5, 1.3))
    for x in range(int(random.integers(step)), WIDTH, step):
        for y in range(-int(random.integers(60)), line - 40, int(1.2 * step)):
            box = (x, y, x + 0.6 * step, min(y + 0.8 * step, line))
            fill = _rgb(glass * random.uniform(0.6, 1.3))
            draw.rectangle(box, fill=fill, outline=frame, width=4)


def _draw_plants(random: Random, draw: ImageDraw.ImageDraw, line: int) -> None:
    for _ in range(random.integers(60, 300)):
        size = random.uniform(10, 70)
        place = (random.uniform(0, WIDTH), random.uniform(0, line))
        _draw_leaf(random, draw, *place, size, line)


def _draw_leaf(
    random: Random, draw: ImageDraw.ImageDraw, x: float, y: float, size: float, lowest: float
) -> None:
    green = _rgb(GREEN * random.uniform(0.5, 1.6))
    draw.ellipse((x - size, y - size, x + size, max(y - size, min(y + size, lowest))), fill=green)


def _draw_shops(random: Random, draw: ImageDraw.ImageDraw, line: int) -> None:
    edges = np.cumsum(random.integers(50, 320, 28))
    for left, right in pairwise(edges):
        draw.rectangle((int(left), 0, int(right), line), fill=_rgb(thing_colour(random)))
        top = int(random.integers(60))
        bottom = line - int(random.integers(40))
        inner = (int(left) + 8, top, int(right) - 8, max(bottom, top))
        draw.rectangle(inner, fill=_rgb(thing_colour(random)))


def _draw_lanes(random: Random, draw: ImageDraw.ImageDraw, ground: Numbers, line: int) -> None:
    vanishing = random.uniform(0, WIDTH)
    colour = _rgb(ground * random.uniform(0.7, 1.3))
    step = random.uniform(80, 440)
    for x in np.arange(-3 * WIDTH, 4 * WIDTH, step).tolist():
        draw.line((vanishing, line, x, HEIGHT), fill=colour, width=2)


def _draw_slabs(random: Random, draw: ImageDraw.ImageDraw, ground: Numbers, line: int) -> None:
    _draw_lanes(random, draw, ground, line)
    colour = _rgb(ground * random.uniform(0.7, 1.3))
    for row in range(1, 14):
        y = line + (HEIGHT - line) / row
        draw.line((0, y, WIDTH, y), fill=colour, width=2)


def _draw_crossing(random: Random, draw: ImageDraw.ImageDraw, line: int) -> None:
    vanishing = random.uniform(0, WIDTH)
    step = random.uniform(60, 200)
    white = _rgb(np.array([0.85, 0.85, 0.8]) * random.uniform(0.6, 1))
    far = line + 0.4 * (HEIGHT - line)
    for x in np.arange(-WIDTH, 2 * WIDTH, 2 * step).tolist():
        left = vanishing + 0.4 * (x - vanishing)
        corners = [(left, far), (left + 0.4 * step, far), (x + step, HEIGHT), (x, HEIGHT)]
        draw.polygon(corners, fill=white)


def _draw_patches(random: Random, draw: ImageDraw.ImageDraw, ground: Numbers, line: int) -> None:
    for _ in range(random.integers(12)):
        x = random.uniform(0, WIDTH)
        y = random.uniform(line, HEIGHT)
        size = random.uniform(20, 260)
        shade = _rgb(ground * random.uniform(0.8, 1.15))
        draw.ellipse((x - size, y - size / 4, x + size, y + size / 4), fill=shade)


def _draw_car(
    random: Random, draw: ImageDraw.ImageDraw, x: float, foot: float, scale: float
) -> None:
    long = 620 * scale
    high = 170 * scale
    round_by = 40 * scale
    body = (x, foot - high, x + long, foot - 30 * scale)
    draw.rounded_rectangle(body, round_by, fill=_rgb(thing_colour(random)))
    cabin = (x + 0.2 * long, foot - 1.7 * high, x + 0.8 * long, foot - 0.8 * high)
    draw.rounded_rectangle(cabin, round_by, fill=BLACK)
    for wheel in (0.2, 0.8):
        middle = x + long * wheel
        radius = 60 * scale
        draw.ellipse((middle - radius, foot - 2 * radius, middle + radius, foot), fill=BLACK)


def _draw_pole(
    random: Random, draw: ImageDraw.ImageDraw, x: float, foot: float, scale: float
) -> None:
    half = random.uniform(6, 26) * scale
    high = random.uniform(200, 1500) * scale
    draw.rectangle((x - half, foot - high, x + half, foot), fill=_rgb(thing_colour(random)))


def _draw_box(
    random: Random, draw: ImageDraw.ImageDraw, x: float, foot: float, scale: float
) -> None:
    """Draw a bench, a sign or a case."""
    long = random.uniform(80, 500) * scale
    high = random.uniform(60, 300) * scale
    draw.rectangle((x, foot - high, x + long, foot), fill=_rgb(thing_colour(random)))
    lid = (x, foot - high, x + long, foot - 0.8 * high)
    draw.rectangle(lid, fill=_rgb(thing_colour(random)))


def _draw_passer(
    random: Random, draw: ImageDraw.ImageDraw, x: float, foot: float, scale: float
) -> None:
    """Draw somebody far away."""
    high = 560 * scale
    trunk = (x, foot - 0.85 * high, x + 0.28 * high, foot - 0.45 * high)
    draw.rounded_rectangle(trunk, 0.06 * high, fill=_rgb(thing_colour(random)))
    trousers = _rgb(thing_colour(random))
    for left in (0.04, 0.15):
        leg = (x + left * high, foot - 0.5 * high, x + (left + 0.09) * high, foot)
        draw.rectangle(leg, fill=trousers)
    head = (x + 0.08 * high, foot - high, x + 0.2 * high, foot - 0.84 * high)
    draw.ellipse(head, fill=(150, 110, 90))
