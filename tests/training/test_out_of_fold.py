"""Everybody is fitted to, and nobody is scored by a fit that has seen them."""

import json
from collections import Counter

import numpy as np
import pytest

from model.arrays import unit_rows
from model.artefact import load_artefact
from model.problems import InputProblem
from tests.training.runs import run_here, set_options
from training.datasets.record import CropRecord
from training.datasets.registry import read_datasets
from training.evaluation.embedding import SearchFeatures, no_bar
from training.evaluation.searches import across_cameras
from training.out_of_fold import FOLDS, deal_folds, fit_in_folds
from training.provenance import TrainingFingerprints, crop_fingerprint

DRAWN = "synthetic:5,identities=24,domains=1,cameras=2,crops=2"
SITE = 60


def crops_of(people, cameras="AB"):
    return [
        CropRecord(f"{person}-{camera}", "site", f"{person:03}", camera, "site")
        for camera in cameras
        for person in range(people)
    ]


def test_folds_are_of_equal_size_and_share_out_those_whom_a_fit_can_use():
    crops = [*crops_of(33), *(crop for crop in crops_of(60, "A") if int(crop.identity) > 32)]
    folds = deal_folds(crops)
    assert set(Counter(folds.of_people.values()).values()) == {60 // FOLDS}
    of_two = [fold for (_, person), fold in folds.of_people.items() if int(person) < 33]
    assert set(Counter(of_two).values()) == {3, 4}
    # The order of the crops does not matter.
    assert deal_folds(crops[::-1]).of_people == folds.of_people


def test_few_people_are_dealt_one_to_a_fold_and_two_are_too_few():
    assert sorted(deal_folds(crops_of(3)).of_people.values()) == [0, 1, 2]
    with pytest.raises(InputProblem, match=r"2 people are seen by two cameras or more.*3, better"):
        deal_folds([*crops_of(2), *crops_of(9, "A")])


@pytest.fixture(scope="module")
def street():
    """Features of people under two cameras, who move along directions that all people share."""
    random = np.random.default_rng(0)
    middles = random.standard_normal((1000, 64))
    shared = random.standard_normal((6, 64))
    return [unit_rows(middles + 0.5 * random.standard_normal((1000, 6)) @ shared) for _ in "AB"]


@pytest.fixture(scope="module")
def fitted(street):
    search = across_cameras("site", crops_of(SITE))
    features = SearchFeatures(street[0][:SITE], street[1][:SITE])
    return fit_in_folds(
        deal_folds(crops_of(SITE)), {"site": search}, {"site": features}, 1.0, no_bar
    )


def test_impostors_are_as_alike_out_of_fold_as_people_to_come_are(street, fitted):
    own = fitted.scores["site"].cosine(slice(None))[~np.eye(SITE, dtype=bool)]
    queries, gallery = (unit_rows(fitted.projection.of(crops[SITE:])) for crops in street)
    others = (queries @ gallery.T)[~np.eye(len(queries), dtype=bool)]
    assert (others >= np.quantile(own, 0.99)).mean() == pytest.approx(0.01, rel=0.3)
    # Those whom the artefact's own projection was fitted to look more different.
    queries, gallery = map(unit_rows, fitted.features["site"])
    seen = (queries @ gallery.T)[~np.eye(SITE, dtype=bool)]
    assert seen.mean() < own.mean() - 0.01


def test_a_pair_is_scored_alike_whatever_the_fit_would_learn_from_the_two(street, fitted):
    changed = [crops[:SITE].copy() for crops in street]
    first, second = 4, 30
    # The person moves to the middle of the others, which changes every fit that has it.
    for crops in changed:
        crops[[first, second]] = unit_rows(crops[[first, second]] * np.linspace(-3, 3, 64))
    search = across_cameras("site", crops_of(SITE))
    folds = deal_folds(crops_of(SITE))
    again = fit_in_folds(folds, {"site": search}, {"site": SearchFeatures(*changed)}, 1.0, no_bar)
    before = fitted.scores["site"].cosine(slice(None))
    after = again.scores["site"].cosine(slice(None))
    of_both = [folds.of_people["site", f"{person:03}"] for person in (first, second)]
    assert of_both[0] != of_both[1]
    inside = [np.array([fold == own for fold in folds.of_people.values()]) for own in of_both]
    order = np.argsort([int(person) for _, person in folds.of_people])
    rows, columns = (np.flatnonzero(own[order]) for own in inside)
    rows = rows[rows != first]
    columns = columns[columns != second]
    assert np.allclose(after[np.ix_(rows, columns)], before[np.ix_(rows, columns)])
    assert not np.allclose(after, before, atol=0.01)


@pytest.fixture(scope="module")
def site(fast_artefact, tmp_path_factory):
    """Adapt an artefact; refuse nothing, as drawn people tell nothing about its random weights."""
    out = tmp_path_factory.mktemp("adapted") / "site"
    settings = set_options(f"initial_weights={fast_artefact}", "refuse_worse=false")
    ran = run_here("train", "adapt-fast", "--data", DRAWN, "--out", out, *settings)
    assert ran.status == 0, ran.err
    return out, ran


def test_a_run_says_that_its_figures_are_out_of_fold_and_of_everybody(site):
    out, ran = site
    assert "96 crops to train on, all measured out of fold" in ran.err
    assert "An epoch" not in ran.err
    assert "The projection is fitted to all 24 people." in ran.out
    report = json.loads((out / "report.json").read_text())
    assert report["split"] == "out of fold"
    (dataset,) = report["datasets"]
    assert dataset["identities"] == 24
    assert dataset["protocol"].endswith(", out of fold")
    assert dataset["used_to_calibrate"]
    assert not dataset["seen_in_training"]
    assert "Its losses over the epochs" not in (out / "report.html").read_text()
    made = load_artefact(out / "model.safetensors").description
    assert made.calibration.data == "identities of synthetic, out of fold"


def test_everybody_counts_as_trained_on_afterwards(site):
    artefact = load_artefact(site[0] / "model.safetensors")
    records = read_datasets([DRAWN])[0].records
    known = TrainingFingerprints.of(artefact).crops
    assert np.isin([crop_fingerprint(record) for record in records], known).all()
    model = site[0] / "model.safetensors"
    assert "no people are left to calibrate on" in run_here("calibrate", model, "--data", DRAWN).err
    evaluated = run_here("evaluate", model, "--data", DRAWN, "--no-pictures")
    assert "It may have been trained on 24 of the people" in " ".join(evaluated.out.split())
    held_out = run_here("evaluate", model, "--data", DRAWN, "--split", "held-out")
    assert "training held out no people" in held_out.err


def test_a_run_is_finished_again_alike_and_with_other_people(site, tmp_path):
    out, _ = site
    before = (out / "report.json").read_text()
    assert run_here("finish", out).status == 0
    kept = json.loads(before)["datasets"]
    assert json.loads((out / "report.json").read_text())["datasets"] == kept
    assert run_here("finish", out, "--data", "synthetic:9,identities=8,domains=1").status == 0
    report = json.loads((out / "report.json").read_text())
    assert report["split"] == "all"
    assert report["calibration_data"] == "identities of synthetic"


def test_a_site_of_one_camera_is_refused_before_the_network_is_read(fast_artefact, tmp_path):
    settings = set_options(f"initial_weights={fast_artefact}")
    data = "synthetic:5,identities=9,domains=1,cameras=1"
    ran = run_here("train", "adapt-fast", "--data", data, "--out", tmp_path / "one", *settings)
    assert ran.status == 2
    assert "0 people are seen by two cameras" in ran.err
    assert not (tmp_path / "one" / "recipe.json").exists()
