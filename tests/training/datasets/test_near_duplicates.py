"""Near duplicates: one picture stored again is found, people who look alike are not."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from training.datasets.check import Report, check_datasets
from training.datasets.duplicates import THRESHOLD, near_groups, perceptual_hash
from training.datasets.record import CropRecord
from training.datasets.registry import read_dataset

Change = Callable[[Image.Image], Image.Image]
AS_IT_IS: Change = lambda image: image  # noqa: E731


@pytest.fixture(scope="module")
def people() -> tuple[CropRecord, ...]:
    return read_dataset("synthetic:7,identities=12,domains=1,cameras=2,crops=1").records


@pytest.fixture
def check(tmp_path: Path, people: tuple[CropRecord, ...]) -> Callable[..., list[Report]]:
    """Writes crops into a manifest, some of them changed or stored again, and checks it."""

    def write(*extra: tuple[int, str, str, str, Change], alone: bool = False) -> list[Report]:
        rows = []
        for number, record in enumerate(() if alone else people):
            Image.fromarray(record.decode()).save(tmp_path / f"{number}.png")
            split = "train" if number % 2 else ""
            rows.append((f"{number}.png", record.identity, record.camera, split))
        for number, name, identity, split, change in extra:
            change(Image.fromarray(people[number].decode())).save(tmp_path / name)
            rows.append((name, identity, "elsewhere", split))
        with (tmp_path / "shop.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("path", "identity", "camera", "split"), *rows])
        report = check_datasets([read_dataset(f"manifest:{tmp_path / 'shop.csv'}")])
        found: list[Report] = report["near_duplicates"]["examples"]
        return found

    return write


def test_people_who_are_drawn_alike_are_not_taken_for_one_picture(
    check: Callable[..., list[Report]],
) -> None:
    assert check() == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("again.jpg", AS_IT_IS),
        ("small.png", lambda image: image.resize((image.width // 2, image.height // 2))),
        ("bright.png", lambda image: ImageEnhance.Brightness(image).enhance(1.15)),
    ],
)
def test_a_picture_stored_again_under_another_name_is_found(
    check: Callable[..., list[Report]], name: str, change: Change
) -> None:
    (found,) = check((3, name, "somebody", "train", change))
    assert [Path(source).name for source in found["sources"]] == ["3.png", name]
    assert found["crosses"] == ["identity"]
    assert 0 <= found["distance"] <= THRESHOLD


def test_a_picture_to_train_on_and_to_test_on_is_a_leak_even_of_one_person(
    check: Callable[..., list[Report]], people: tuple[CropRecord, ...]
) -> None:
    (found,) = check((3, "again.jpg", people[3].identity, "query", AS_IT_IS))
    assert found["crosses"] == ["split"]
    assert found["places"] == ["shop/query", "shop/train"]


def test_frames_of_one_person_in_query_and_gallery_are_no_finding(
    check: Callable[..., list[Report]],
) -> None:
    frames = (
        (2, "query.jpg", "x", "query", AS_IT_IS),
        (2, "gallery.png", "x", "gallery", AS_IT_IS),
    )
    assert check(*frames, alone=True) == []
    assert len(check(*frames)) == 1


def test_the_same_bytes_are_an_exact_duplicate_and_not_a_near_one(
    check: Callable[..., list[Report]],
) -> None:
    assert check((3, "again.png", "somebody", "train", AS_IT_IS)) == []


def noise(rows: int, seed: int = 0) -> NDArray[np.uint64]:
    return np.random.default_rng(seed).integers(0, 2**64, (rows, 4), dtype=np.uint64)


def with_flipped_bits(hashes: NDArray[np.uint64], count: int) -> NDArray[np.uint64]:
    bits = np.unpackbits(hashes.view(np.uint8), axis=1)
    bits[:, np.random.default_rng(1).permutation(256)[:count]] ^= 1
    return np.packbits(bits, axis=1).view(np.uint64)


def test_exactly_the_pairs_within_the_threshold_are_found_across_blocks() -> None:
    hashes = noise(5_000)
    near = with_flipped_bits(hashes[:3], THRESHOLD)
    far = with_flipped_bits(hashes[10:13], THRESHOLD + 1)
    everything = np.concatenate([hashes, near, far])
    groups = near_groups(everything, np.arange(len(everything)))
    assert [group.rows for group in groups] == [(row, 5_000 + row) for row in range(3)]
    assert {group.distance for group in groups} == {THRESHOLD}


def test_a_picture_in_thousands_of_files_is_one_group_and_takes_no_time() -> None:
    hashes = np.repeat(noise(1), 20_000, axis=0)
    (group,) = near_groups(hashes, np.arange(20_000))
    assert (len(group.rows), group.distance) == (20_000, 0)


def test_a_hash_has_256_bits_and_is_the_same_every_time(people: tuple[CropRecord, ...]) -> None:
    first = perceptual_hash(people[0].decode())
    assert (first.shape, first.dtype) == ((4,), np.uint64)
    np.testing.assert_array_equal(first, perceptual_hash(people[0].decode()))
