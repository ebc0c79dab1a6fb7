"""Batches of people who look alike, and of crops from several cameras."""

import numpy as np
import pytest

import training.plugins  # noqa: F401 - it registers the sampler
from training.datasets.record import CropRecord
from training.sampler import Sampling, build_sampler

PEOPLE = 24
CROPS = 6
CAMERAS = 3


def records(domain="shop", people=PEOPLE):
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


def features_around_a_circle(rows, of):
    """Let neighbours by number look alike, and the two ends of the numbers too."""
    angles = np.array([2 * np.pi * int(of[row].identity) / PEOPLE for row in rows])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def sampler(of, found=True, **settings):
    across = settings.pop("across_cameras", False)
    order = {"name": "hard", **settings}
    chosen = Sampling(identities=4, images=3, order=order, across_cameras=across)
    built = build_sampler(of, chosen, seed=1)
    if found:
        built.prepare(0, lambda rows: features_around_a_circle(rows, of))
    return built


def people_of(batch, of):
    return [int(of[row].identity) for row in batch[::3]]


def is_alike(batch, of):
    """Return whether all others are among the six people nearest to the first."""
    first, *others = people_of(batch, of)
    apart = [abs(first - other) for other in others]
    return all(min(distance, PEOPLE - distance) <= 3 for distance in apart)


def test_a_share_of_the_batches_holds_people_who_look_alike():
    of = records()
    batches = sampler(of, share=0.5).epoch(0)
    assert sum(is_alike(batch, of) for batch in batches) >= len(batches) // 2
    for batch in sampler(of, share=1.0).epoch(0):
        assert is_alike(batch, of)
        assert len(set(people_of(batch, of))) == 4
        assert len(set(batch)) == len(batch) == 12
        for start in range(0, 12, 3):
            assert len({of[row].identity for row in batch[start : start + 3]}) == 1


def test_the_batches_depend_on_the_seed_and_the_epoch_alone():
    of = records()
    assert sampler(of, share=0.5).epoch(3) == sampler(of, share=0.5).epoch(3)
    assert sampler(of, share=0.5).epoch(3) != sampler(of, share=0.5).epoch(4)


def test_a_batch_of_people_who_look_alike_stays_within_a_domain():
    of = [*records("shop"), *records("park")]
    for batch in sampler(of, share=1.0).epoch(0):
        assert len({of[row].domain for row in batch}) == 1


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_persons_crops_are_of_as_many_cameras_as_there_are(share):
    of = records()
    for batch in sampler(of, share=share, across_cameras=True).epoch(0):
        for start in range(0, 12, 3):
            assert len({of[row].camera for row in batch[start : start + 3]}) == CAMERAS


@pytest.mark.parametrize(
    ("every", "due"), [(0, [True, False, False, False]), (2, [True, False, True, False])]
)
def test_the_features_are_taken_anew_as_often_as_asked(every, due):
    of = records()
    built = sampler(of, found=False, share=0.5, every=every)
    asked = []

    def embed(rows):
        asked.append(epoch)
        return features_around_a_circle(rows, of)

    for epoch in range(4):
        built.prepare(epoch, embed)
    assert [epoch in asked for epoch in range(4)] == due
