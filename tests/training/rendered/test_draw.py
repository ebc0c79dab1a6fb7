"""A data set of rendered people: it can be read, continued, and differs as people do."""

import json
import shutil

import numpy as np
import pytest

from model.problems import InputProblem
from tests.training.runs import run_here
from training.datasets.registry import read_dataset
from training.rendered.cloth import Stock
from training.rendered.difficulty import HARD
from training.rendered.draw import Plan, draw_people
from training.rendered.garments import Wardrobe
from training.rendered.meshes import read_meshes
from training.rendered.outfits import Source
from training.rendered.packing.assets import LICENCE
from training.rendered.people import draw_figure

PLAN = Plan(people=6, crops=8, seed=3)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("drawn") / "people"
    draw_people(PLAN, out)
    return out


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_person_is_seen_by_four_cameras_and_the_set_can_be_trained_on(drawn):
    dataset = read_dataset(f"manifest:{drawn}")
    assert len(dataset.records) == 6 * 8
    assert "CC0" in dataset.terms
    for identity in dataset.identities:
        cameras = [crop.camera for crop in dataset.records if crop.identity == identity]
        assert sorted(cameras.count(camera) for camera in set(cameras)) == [2, 2, 2, 2]
    report = run_here("check-data", f"manifest:{drawn}", "--json")
    assert report.status == 0
    (checked,) = json.loads(report.out)["datasets"]
    assert checked["unreadable"]["count"] == 0


def test_provenance_names_every_mesh_with_hash_and_licence(drawn):
    provenance = json.loads((drawn / "provenance.json").read_text())
    assert provenance["plan"]["seed"] == 3
    assert len(provenance["meshes"]) > 300
    for entry in provenance["meshes"]:
        assert entry["licence"] == LICENCE
        assert len(entry["sha256"]) == 64


def test_a_stopped_drawing_continues_to_the_same_bytes(drawn, tmp_path):
    stopped = tmp_path / "people"
    shutil.copytree(drawn, stopped)
    (stopped / "manifest.csv").unlink()
    shutil.rmtree(stopped / "crops" / "00002")
    unfinished = stopped / "unfinished"
    unfinished.mkdir()
    (unfinished / "s0c0_00.jpg").write_bytes(b"half a crop")
    draw_people(PLAN, stopped)
    assert files_of(stopped) == files_of(drawn)


def test_clothes_find_a_person_in_other_cameras_more_often_than_chance_does(drawn):
    records = read_dataset(f"manifest:{drawn}").records
    middles = []
    for crop in records:
        pixels = np.asarray(crop.decode().resize((32, 64)), np.float64)
        parts = (pixels[16:28, 12:20], pixels[34:46, 12:20])
        colours = np.concatenate([part.mean((0, 1)) for part in parts])
        middles.append(colours - np.tile(pixels.mean((0, 1)), 2))
    apart = np.linalg.norm(np.array(middles)[:, None] - np.array(middles)[None], axis=2)
    who = np.array([crop.identity for crop in records])
    where = np.array([crop.camera for crop in records])
    apart[where[:, None] == where[None]] = np.inf
    same = who[:, None] == who[None]
    chance = same[np.isfinite(apart)].mean()
    found = same[np.arange(len(who)), apart.argmin(axis=1)].mean()
    assert found > 2 * chance


def test_twins_share_clothes_and_nothing_else():
    wardrobe = Wardrobe(read_meshes())
    stock = Stock(np.random.default_rng(0), HARD)

    def figure(person, clothes):
        source = Source(np.random.default_rng(person), np.random.default_rng(clothes), stock)
        return draw_figure(source, wardrobe)

    def grounds(drawn_figure):
        return {tuple(cloth.colour) for cloth in drawn_figure.cloths}

    one, twin, other = figure(1, 10), figure(2, 10), figure(2, 11)
    assert grounds(one) & grounds(twin)
    assert not grounds(one) & grounds(other)
    assert grounds(one) != grounds(twin)
    assert not np.array_equal(one.joints, twin.joints)


@pytest.mark.parametrize(
    ("plan", "fault"),
    [
        (Plan(1, 8, 0), "--people 1"),
        (Plan(200_000, 8, 0), "--people 200000"),
        (Plan(2, 3, 0), "--crops 3"),
        (Plan(2, 5_000, 0), "--crops 5000"),
    ],
)
def test_a_plan_out_of_range_is_refused_before_anything_is_written(plan, fault, tmp_path):
    with pytest.raises(InputProblem, match=fault):
        draw_people(plan, tmp_path / "people")
    assert not (tmp_path / "people").exists()


def test_a_folder_of_other_files_or_of_another_plan_is_refused(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(InputProblem, match="other files"):
        draw_people(PLAN, tmp_path)
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "plan.json").write_text('{"people": 2}\n')
    with pytest.raises(InputProblem, match="begun with"):
        draw_people(PLAN, begun)
    assert [file.name for file in begun.iterdir()] == ["plan.json"]
