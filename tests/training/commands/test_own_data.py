"""`gmn train` on data of one's own: errors in them are reported before the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

import gmn
from training.datasets.record import refuse_unreadable
from training.datasets.registry import read_dataset

Train = Callable[..., tuple[int, str]]


def draw(place: Path, shade: int) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (32, 64), (shade % 250, 2 * shade % 250, 60))
    image.putpixel((shade % 32, 5), (255, 255, 255))
    image.save(place)
    return place


def people(folder: Path, count: int, cameras: str = "ab", crops: int = 2) -> Path:
    """A manifest of drawn crops, and nothing of a network."""
    rows = ["path,identity,camera"]
    shades: Iterator[int] = iter(range(10_000))
    for person in range(count):
        for camera in cameras:
            for crop in range(crops):
                file = draw(folder / f"{person}-{camera}-{crop}.png", next(shades))
                rows.append(f"{file.name},person{person},{camera}")
    (folder / "manifest.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder


@pytest.fixture
def train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Train:
    def run(spec: str, *settings: str) -> tuple[int, str]:
        words = ["train", "small-gmn", "--data", spec, "--out", str(tmp_path / "run")]
        words += ["--set", "initial_weights=none"]
        for setting in ("sampling.identities=4", "held_out.fraction=0.3", *settings):
            words += ["--set", setting]
        status = gmn.run(words)
        return status, " ".join(capsys.readouterr().err.split())

    return run


def test_crops_that_cannot_be_read_are_counted_and_named_before_the_first_step(
    tmp_path: Path, train: Train
) -> None:
    shop = people(tmp_path / "shop", 12)
    (shop / "3-a-0.png").write_bytes((shop / "3-a-0.png").read_bytes()[:60])
    draw(shop / "moved.gif", 3).replace(shop / "5-b-1.png")
    status, error = train(f"manifest:{shop}")
    assert status == 2
    assert "2 of 48 crops cannot be read" in error
    assert "3-a-0.png: the image" in error
    assert "5-b-1.png: the bytes are not a JPEG, PNG, WebP or BMP image; convert the file" in error
    assert not list((tmp_path / "run").iterdir())


def test_of_many_unreadable_crops_the_first_few_are_named(tmp_path: Path) -> None:
    shop = people(tmp_path / "shop", 6)
    for crop in shop.glob("*.png"):
        crop.write_bytes(b"no image")
    read: list[int] = []
    with pytest.raises(gmn.InputProblem, match=r"24 of 24 crops cannot be read.*and 19 more"):
        refuse_unreadable(read_dataset(f"manifest:{shop}").records, read.append)
    assert sum(read) == 24


def test_crops_of_one_camera_are_refused_before_the_first_step(
    tmp_path: Path, train: Train
) -> None:
    status, error = train(f"manifest:{people(tmp_path / 'shop', 30, cameras='a')}")
    assert status == 2
    assert "all crops are of one camera; a search across cameras needs two or more" in error
    assert not list((tmp_path / "run").iterdir())


def test_people_with_one_crop_each_do_not_fill_a_batch(tmp_path: Path, train: Train) -> None:
    shop = people(tmp_path / "shop", 30, cameras="a", crops=1)
    status, error = train(f"manifest:{shop}", "held_out.fraction=0")
    assert status == 2
    assert "only 0 of 30 identities" in error
    assert "two crops or more, a batch needs 4; give more data" in error


def test_fewer_people_than_a_batch_are_refused_with_the_setting_to_lower(
    tmp_path: Path, train: Train
) -> None:
    for number, person in enumerate(("ann", "bob", "eve")):
        for crop in range(4):
            draw(tmp_path / "shop" / person / f"{crop}.png", 10 * number + crop)
    status, error = train(f"folder:{tmp_path / 'shop'}", "held_out.fraction=0")
    assert status == 2
    assert "only 3 of 3 identities have two crops or more, a batch needs 4" in error
    assert "lower sampling.identities" in error
