"""Batches of people who look alike, and of crops from several cameras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from training.datasets.drawn import draw_people
from training.datasets.record import CropRecord
from training.recipe import read_recipe
from training.run import prepare_run
from training.sampler import PKSampler, Sampling, build_sampler
from training.train import train_networks

PEOPLE = 24
CROPS = 6
CAMERAS = 3


def records(domain: str = "shop", people: int = PEOPLE) -> list[CropRecord]:
    return [
        CropRecord(
            source=f"{domain}/{person}/{crop}",
            dataset=domain,
            identity=f"{person:03d}",
            camera=str(crop % CAMERAS),
            domain=domain,
        )
        for person in range(people)
        for crop in range(CROPS)
    ]


def features_around_a_circle(rows, of: list[CropRecord]) -> np.ndarray:
    """Neighbours by number look alike; the two ends of the numbers do, too."""
    angles = np.array([2 * np.pi * int(of[row].identity) / PEOPLE for row in rows])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def sampler(of: list[CropRecord], found: bool = True, **settings) -> PKSampler:
    across = settings.pop("across_cameras", False)
    order = {"name": "hard", **settings}
    chosen = Sampling(identities=4, images=3, order=order, across_cameras=across)
    built = build_sampler(of, chosen, seed=1)
    if found:
        built.prepare(0, lambda rows: features_around_a_circle(rows, of))
    return built


def people_of(batch: list[int], of: list[CropRecord]) -> list[int]:
    return [int(of[row].identity) for row in batch[::3]]


def is_alike(batch: list[int], of: list[CropRecord]) -> bool:
    """All others are among the six people nearest to the first."""
    first, *others = people_of(batch, of)
    apart = [abs(first - other) for other in others]
    return all(min(distance, PEOPLE - distance) <= 3 for distance in apart)


def test_a_share_of_the_batches_holds_people_who_look_alike() -> None:
    of = records()
    batches = sampler(of, share=0.5).epoch(0)
    assert sum(is_alike(batch, of) for batch in batches) >= len(batches) // 2
    for batch in sampler(of, share=1.0).epoch(0):
        assert is_alike(batch, of)
        assert len(set(people_of(batch, of))) == 4
        assert len(set(batch)) == len(batch) == 12
        for start in range(0, 12, 3):
            assert len({of[row].identity for row in batch[start : start + 3]}) == 1


def test_the_batches_depend_on_the_seed_and_the_epoch_alone() -> None:
    of = records()
    assert sampler(of, share=0.5).epoch(3) == sampler(of, share=0.5).epoch(3)
    assert sampler(of, share=0.5).epoch(3) != sampler(of, share=0.5).epoch(4)


def test_a_batch_of_people_who_look_alike_stays_within_a_domain() -> None:
    of = [*records("shop"), *records("park")]
    for batch in sampler(of, share=1.0).epoch(0):
        assert len({of[row].domain for row in batch}) == 1


def test_a_domain_with_fewer_people_than_a_batch_is_filled_up_from_others() -> None:
    of = [*records("shop"), *records("booth", people=2)]
    for batch in sampler(of, share=1.0).epoch(0):
        assert len({of[row].person for row in batch}) == 4


def test_before_the_features_are_known_the_batches_are_the_plain_ones() -> None:
    of = records()
    assert sampler(of, found=False, share=1.0).epoch(0) == sampler(of, share=0.0).epoch(0)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_persons_crops_are_of_as_many_cameras_as_there_are(share: float) -> None:
    of = records()
    for batch in sampler(of, share=share, across_cameras=True).epoch(0):
        for start in range(0, 12, 3):
            assert len({of[row].camera for row in batch[start : start + 3]}) == CAMERAS


@pytest.mark.parametrize(
    ("every", "due"), [(0, [True, False, False, False]), (2, [True, False, True, False])]
)
def test_the_features_are_taken_anew_as_often_as_asked(every: int, due: list[bool]) -> None:
    of = records()
    built = sampler(of, found=False, share=0.5, every=every)
    asked = []

    def embed(rows) -> np.ndarray:
        asked.append(epoch)
        return features_around_a_circle(rows, of)

    for epoch in range(4):
        built.prepare(epoch, embed)
    assert [epoch in asked for epoch in range(4)] == due


@pytest.mark.parametrize("every", [0, 1])
def test_a_stopped_run_resumes_to_the_same_weights(every: int, tmp_path: Path) -> None:
    drawn = draw_people(11, 2, 8, cameras_per_domain=2, crops_per_camera=1).records
    settings = [
        "initial_weights=none",
        "embedder.last_stride=2",
        "preprocessing.height=64",
        "preprocessing.width=32",
        "sampling.identities=4",
        "sampling.images=2",
        "sampling.order=hard",
        f"sampling.order.every={every}",
        "optimisation.epochs=2",
        "optimisation.frozen_stages=1",
        "checkpoint_every_steps=1",
    ]
    chosen = read_recipe("small-gmn", settings)

    def stop(done: int, *_: object) -> None:
        if done == 6:
            raise KeyboardInterrupt

    whole = tmp_path / "whole"
    stopped = tmp_path / "stopped"
    for folder in (whole, stopped):
        folder.mkdir()
    run = prepare_run(chosen, drawn, whole)
    frozen = run.networks.embedder.backbone.state_dict()["0.1.running_mean"].clone()
    train_networks(run, lambda *_: None)
    assert torch.equal(run.networks.embedder.backbone.state_dict()["0.1.running_mean"], frozen)
    with pytest.raises(KeyboardInterrupt):
        train_networks(prepare_run(chosen, drawn, stopped), stop)
    resumed = prepare_run(chosen, drawn, stopped)
    train_networks(resumed, lambda *_: None)
    expected = run.networks.state_dict()
    found = resumed.networks.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
