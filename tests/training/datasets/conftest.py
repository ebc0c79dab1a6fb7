"""Miniature data sets, drawn on the spot: no real crop is ever needed here."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DrawImage = Callable[..., Path]


@pytest.fixture
def draw_image():
    """Writes an image file of noise, a different one for every path unless a seed is given."""

    def draw(path, width=24, height=48, seed=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(list(str(path).encode()) if seed is None else seed)
        Image.fromarray(random.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
        return path

    return draw


@pytest.fixture
def cuhk01_folder(tmp_path, draw_image):
    """Three people of CUHK01, four images each."""
    for identity in ("0001", "0002", "0010"):
        for shot in ("001", "002", "003", "004"):
            draw_image(tmp_path / "cuhk" / "campus" / f"{identity}{shot}.png")
    return tmp_path / "cuhk"


@pytest.fixture
def market1501_folder(tmp_path, draw_image):
    """Two people to train on, one to search for, junk and a distractor."""
    folder = tmp_path / "Market-1501"
    for name in (
        "bounding_box_train/0002_c1s1_000451_03.jpg",
        "bounding_box_train/0002_c2s1_000776_01.jpg",
        "bounding_box_train/0007_c3s3_077419_03.jpg",
        "query/0001_c1s1_001051_00.jpg",
        "bounding_box_test/0001_c2s1_000301_00.jpg",
        "bounding_box_test/0000_c1s1_000151_01.jpg",
        "bounding_box_test/-1_c1s1_000401_03.jpg",
    ):
        draw_image(folder / name)
    (folder / "bounding_box_train" / "Thumbs.db").write_bytes(b"not an image")
    return folder


@pytest.fixture
def manifest_folder(tmp_path, draw_image):
    """Two people of one's own, under two cameras, with `manifest.csv`."""
    folder = tmp_path / "shop"
    rows = ["path,identity,camera,captured_at,split"]
    for identity in ("007", "8"):
        for camera in ("door", "till"):
            file = draw_image(folder / f"{identity}-{camera}.png")
            rows.append(f"{file.name},{identity},{camera},2024-05-01T12:00:00Z,train")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder
