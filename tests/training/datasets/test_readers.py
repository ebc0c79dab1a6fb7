"""The readers: what a data set holds, and what a wrong folder is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from model.problems import InputProblem
from training.datasets.public import DISTRACTOR, JUNK
from training.datasets.registry import read_dataset

DrawImage = Callable[..., Path]


def test_cuhk01_keeps_leading_zeros_and_tells_the_cameras_apart(cuhk01_folder: Path) -> None:
    dataset = read_dataset(f"cuhk01:{cuhk01_folder}")
    assert dataset.name == "cuhk01"
    assert dataset.identities == ["0001", "0002", "0010"]
    assert Counter(record.camera for record in dataset.records) == {"A": 6, "B": 6}
    assert [record.camera for record in dataset.records[:4]] == ["A", "A", "B", "B"]
    assert {record.split for record in dataset.records} == {None}
    assert "Academic research only" in dataset.terms


def test_cuhk01_reads_the_campus_folder_itself_as_well(cuhk01_folder: Path) -> None:
    inside = read_dataset(f"cuhk01:{cuhk01_folder / 'campus'}")
    assert inside.records == read_dataset(f"cuhk01:{cuhk01_folder}").records


def test_every_crop_that_was_read_decodes(cuhk01_folder: Path) -> None:
    for record in read_dataset(f"cuhk01:{cuhk01_folder}").records:
        assert record.decode().shape == (48, 24, 3)


@pytest.mark.parametrize("name", ["0003005.png", "003001.png", "person.png", "0003001.jpg"])
def test_cuhk01_names_the_file_whose_name_is_wrong(cuhk01_folder: Path, name: str) -> None:
    (cuhk01_folder / "campus" / name).write_bytes(b"")
    with pytest.raises(InputProblem, match=f"{name}: the name is not IIIIKKK.png"):
        read_dataset(f"cuhk01:{cuhk01_folder}")


def test_cuhk01_refuses_an_empty_folder_a_missing_one_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputProblem, match="holds no image"):
        read_dataset(f"cuhk01:{tmp_path}")
    with pytest.raises(InputProblem, match="no such folder; correct the path"):
        read_dataset(f"cuhk01:{tmp_path / 'none'}")
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(InputProblem, match="is a file; name the data set's folder"):
        read_dataset(f"cuhk01:{file}")


def test_market1501_reads_three_splits_with_cameras(market1501_folder: Path) -> None:
    dataset = read_dataset(f"market1501:{market1501_folder}")
    assert Counter(record.split for record in dataset.records) == {
        "train": 3,
        "query": 1,
        "gallery": 3,
    }
    assert dataset.cameras == ["c1", "c2", "c3"]
    first = dataset.records[0]
    assert (first.identity, first.camera, first.split) == ("0002", "c1", "train")
    assert first.captured_at is None


def test_market1501_keeps_junk_and_distractors_apart_and_in_the_gallery_only(
    market1501_folder: Path,
) -> None:
    (market1501_folder / "bounding_box_train" / "-1_c1s1_000001_00.jpg").write_bytes(b"junk")
    records = read_dataset(f"market1501:{market1501_folder}").records
    nobody = {record.identity: record.split for record in records if record.identity in "-1 0000"}
    assert nobody == {JUNK: "gallery", DISTRACTOR: "gallery"}


@pytest.mark.parametrize("missing", ["bounding_box_train", "query", "bounding_box_test"])
def test_market1501_names_the_folder_that_is_missing(market1501_folder: Path, missing: str) -> None:
    (market1501_folder / missing).rename(market1501_folder / "elsewhere")
    with pytest.raises(InputProblem, match=f"{missing}: no such folder"):
        read_dataset(f"market1501:{market1501_folder}")


@pytest.mark.parametrize("name", ["0002_c7s1_000451_03.jpg", "2_c1s1_000451_03.jpg", "a.jpg"])
def test_market1501_names_the_file_whose_name_is_wrong(market1501_folder: Path, name: str) -> None:
    (market1501_folder / "query" / name).write_bytes(b"")
    with pytest.raises(InputProblem, match=f"{name}: the name is not like 0002_c1s1"):
        read_dataset(f"market1501:{market1501_folder}")


def test_market1501_reads_the_official_names_whose_suffix_is_given_twice(
    market1501_folder: Path, draw_image: DrawImage
) -> None:
    for name in ("query/1488_c1s6_023021_00", "bounding_box_test/-1_c4s6_022316_11"):
        draw_image(market1501_folder / f"{name}.jpg.jpg")
    records = read_dataset(f"market1501:{market1501_folder}").records
    doubled = [record for record in records if record.source.endswith(".jpg.jpg")]
    assert [(record.identity, record.camera, record.split) for record in doubled] == [
        ("1488", "c1", "query"),
        (JUNK, "c4", "gallery"),
    ]
    assert all(record.decode().shape == (48, 24, 3) for record in doubled)


@pytest.mark.parametrize("name", ["Thumbs.db", ".DS_Store", "._0001001.png", "readme.txt"])
def test_what_operating_systems_and_authors_leave_in_a_folder_is_passed_over(
    cuhk01_folder: Path, name: str
) -> None:
    (cuhk01_folder / "campus" / name).write_bytes(b"no crop")
    assert len(read_dataset(f"cuhk01:{cuhk01_folder}").records) == 12


def test_a_manifest_set_is_named_after_its_file_or_its_folder(manifest_folder: Path) -> None:
    assert read_dataset(f"manifest:{manifest_folder}").name == "shop"
    assert read_dataset(f"manifest:{manifest_folder / 'manifest.csv'}").name == "shop"
    (manifest_folder / "manifest.csv").rename(manifest_folder / "people.csv")
    assert read_dataset(f"manifest:{manifest_folder / 'people.csv'}").name == "people"


def test_a_manifest_set_carries_time_split_and_identity(manifest_folder: Path) -> None:
    record = read_dataset(f"manifest:{manifest_folder}").records[0]
    assert record.captured_at == datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert (record.identity, record.camera, record.split) == ("007", "door", "train")
    assert record.person == ("shop", "007")


def test_terms_beside_a_manifest_become_the_set_s_terms(manifest_folder: Path) -> None:
    assert read_dataset(f"manifest:{manifest_folder}").terms.startswith("Unknown")
    terms = manifest_folder / "TERMS.txt"
    terms.write_text("\nOurs; consent on file.\nMore.\n", encoding="utf-8")
    assert read_dataset(f"manifest:{manifest_folder}").terms == "Ours; consent on file."
    terms.write_bytes("façade".encode("latin-1"))
    with pytest.raises(InputProblem, match=r"TERMS.txt: cannot be read .* save it as UTF-8"):
        read_dataset(f"manifest:{manifest_folder}")


def test_market1501_takes_its_further_distractors_where_asked(
    market1501_folder: Path, draw_image: DrawImage
) -> None:
    draw_image(market1501_folder / "images" / "0000_c3s1_000001_01.jpg")
    draw_image(market1501_folder / "images" / "-1_c2s1_000002_01.jpg")
    dataset = read_dataset(f"market1501:{market1501_folder},distractors=500k")
    assert dataset.version == "with the 500k distractors"
    assert len(read_dataset(f"market1501:{market1501_folder}").records) == 7
    further = dataset.records[7:]
    assert [(record.identity, record.camera) for record in further] == [
        (JUNK, "c2"),
        (DISTRACTOR, "c3"),
    ]
    assert {record.split for record in further} == {"gallery"}


def test_a_folder_with_a_sub_folder_per_person_is_a_data_set(
    tmp_path: Path, draw_image: Callable[..., Path]
) -> None:
    for name in ("ann/1.png", "ann/2.png", "bob/a.png"):
        draw_image(tmp_path / "shop" / name)
    (tmp_path / "shop" / "TERMS.txt").write_text("Staff, by consent.")
    dataset = read_dataset(f"folder:{tmp_path / 'shop'}")
    found = [(record.identity, record.camera) for record in dataset.records]
    assert found == [("ann", "shot1"), ("ann", "shot2"), ("bob", "shot1")]
    assert (dataset.name, dataset.terms) == ("shop", "Staff, by consent.")


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", ".git"])
def test_a_folder_that_an_archiver_added_is_no_person(
    tmp_path: Path, draw_image: Callable[..., Path], name: str
) -> None:
    draw_image(tmp_path / "ann" / "1.png")
    (tmp_path / name).mkdir()
    (tmp_path / name / "._1.png").write_bytes(b"no crop")
    assert read_dataset(f"folder:{tmp_path}").identities == ["ann"]


def test_a_folder_without_sub_folders_names_the_layout(
    tmp_path: Path, draw_image: Callable[..., Path]
) -> None:
    draw_image(tmp_path / "1.png")
    with pytest.raises(InputProblem, match="put the images of each person into a sub-folder"):
        read_dataset(f"folder:{tmp_path}")
