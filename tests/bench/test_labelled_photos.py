"""Labelled photographs: who counts as found, which box shows a person, and the figures of a run."""

import json

import numpy as np
import pytest
from PIL import Image

from bench import labelled_photos
from bench.labelled_photos import are_upright, pair_up
from demo.drawn_videos import BACKGROUND
from tests.drawn_photos import photo_of


def test_a_label_is_found_by_one_box_that_lies_on_it():
    labels = np.array([[0, 0, 50, 100], [200, 0, 250, 100]], float)
    on_the_first = [5, 5, 50, 95]
    elsewhere = [100, 0, 150, 100]
    assert pair_up(labels, np.array([elsewhere, on_the_first], float)) == [(0, 1)]
    assert len(pair_up(labels, np.array([on_the_first, on_the_first], float))) == 1
    assert pair_up(labels, np.zeros((0, 4))) == []
    assert pair_up(np.zeros((0, 4)), labels) == []


def test_a_box_with_less_than_half_of_the_union_shows_nobody():
    label = np.array([[0, 0, 50, 100]], float)
    assert pair_up(label, np.array([[0, 0, 50, 51]], float)) == [(0, 0)]
    assert pair_up(label, np.array([[0, 0, 50, 49]], float)) == []


def test_upright_people_are_high_and_not_wide():
    boxes = np.array([[0, 0, 42, 64], [0, 0, 20, 63], [0, 0, 100, 149]], float)
    assert are_upright(boxes).tolist() == [True, False, False]


def test_the_figures_are_of_all_photographs_and_of_each_half(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(photo_of(1))
    # A drawn person of 200×400 pixels in a photo of 1000×600, and a dog.
    (tmp_path / "labels" / "a.txt").write_text("0 0.2 0.5 0.2 0.66667\n16 0.7 0.5 0.2 0.3\n")
    Image.new("RGB", (400, 300), BACKGROUND).save(tmp_path / "images" / "b.png")
    (tmp_path / "labels" / "b.txt").touch()
    labelled_photos.main(tmp_path)
    figures = json.loads(capsys.readouterr().out)
    assert figures["all"]["photographs"] == 2
    assert figures["all"]["upright"] == figures["even"]["upright"] == 1
    assert figures["even"]["upright_found"] == figures["even"]["boxes_of_people"] == 1
    assert figures["odd"]["photographs_of_nobody"] == 1
    assert figures["odd"]["boxes_on_them"] == figures["odd"]["boxes"] == 0
    assert figures["all"]["median_cpu_ms"] > 0


def test_a_photograph_without_labels_is_named(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "a.png")
    with pytest.raises(FileNotFoundError, match=r"a\.txt"):
        labelled_photos.main(tmp_path)
